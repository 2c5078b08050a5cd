"""``extract``: the states behind words, of any number of images, into a folder."""

import sys
from pathlib import Path

from ._options import add_model_options, add_run_options, build_featurizer, layer, listed
from ._run import Clock

_POSITIONS = ("generated", "forced", "last", "mean")


def add_extract(commands):
    """The command that only extracts."""
    command = commands.add_parser(
        "extract",
        help="states of your model on your images, into a folder",
        description="Collect the states that predict words, of any number of images. The same "
        "command again goes on where it was stopped.",
    )
    command.add_argument("--model", required=True, help="model id, folder of a model, or 'bundled'")
    command.add_argument("--images", type=Path, required=True, help="folder of images")
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--captions", type=Path, help="reference captions: .json, .jsonl, .csv, .tsv"
    )
    source.add_argument(
        "--karpathy", type=Path, help="Karpathy splits of COCO or Flickr30k (dataset_coco.json)"
    )
    command.add_argument("--split", help="with --karpathy: train (default), val, test, restval")
    command.add_argument("--out", type=Path, required=True, help="folder for the states")
    command.add_argument(
        "--no-join",
        action="store_true",
        help="leave the states in pieces, for runs of tens of gigabytes",
    )
    command.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="let the workers of a Dask cluster run the model: address of the scheduler",
    )
    command.add_argument(
        "--tokens", type=listed(str), help="words of interest, joined by commas: dog,cat"
    )
    command.add_argument(
        "--layers", type=listed(layer), default=[-1], help="layers, joined by commas (-1: the last)"
    )
    command.add_argument(
        "--position",
        choices=_POSITIONS,
        default="generated",
        help="state that predicts the word in the generated (default) or a reference (forced) "
        "caption; or last or mean of the prompt, which take no --tokens",
    )
    command.add_argument(
        "--stop",
        choices=("caption", "token"),
        default="token",
        help="where a caption ends: at the word (token, default) or at its own end (caption)",
    )
    command.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="what to do about images that cannot be read (raise)",
    )
    add_model_options(command, with_layer=False)
    add_run_options(command)
    command.set_defaults(
        run=run_extract,
        check=check_usage,
        fatal_warning=None,
        after_interrupt="; the same command goes on after the last part that is stored",
    )


def check_usage(parser, args):
    """What argparse cannot express by itself."""
    in_caption = args.position in ("generated", "forced")
    if in_caption and not args.tokens:
        parser.error(f"--tokens: words of interest are needed for --position {args.position}")
    if not in_caption and args.tokens:
        parser.error(f"--tokens: --position {args.position} does not depend on a word")
    if args.position == "forced" and not (args.captions or args.karpathy):
        parser.error("--position forced needs captions to dictate: --captions or --karpathy")
    if args.split and not args.karpathy:
        parser.error("--split belongs to --karpathy")


def run_extract(args):
    """Extract, and say what came out."""
    clock = Clock(args.quiet)
    with clock("images"):
        data = _read(args)
    with clock("imports"):
        featurizer = build_featurizer(args, position=args.position, stop=args.stop)
    asked = {
        "token": args.tokens or [None],
        "layer": args.layers,
        "out": args.out,
        "join": not args.no_join,
        "client": args.dask,
    }
    with clock("model, captions, states"):
        results = featurizer.extract(data.images, data.captions, on_empty="keep", **asked)
        if not any(len(reps) for reps in results.values()):
            # Nothing is computed again: this says which words do occur.
            featurizer.extract(data.images, data.captions, **asked)
    for reps in results.values():
        print(reps.summary())
    for token in dict.fromkeys(reps.token for reps in results.values() if not len(reps)):
        print(f"warning: no sample is kept for token {token!r}", file=sys.stderr)
    print(f"\nTime: {clock}\nStates: {args.out}")


def _read(args):
    from semi_nmf_concepts.datasets import load_image_folder, load_karpathy

    if args.karpathy:
        return load_karpathy(args.karpathy, args.images, args.split or "train")
    return load_image_folder(args.images, args.captions)
