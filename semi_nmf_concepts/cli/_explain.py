"""``demo`` and ``concepts``: one word of a model, explained on a page."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from ._data import check_enough, split, take
from ._options import (
    METHODS,
    add_model_options,
    add_objective_options,
    add_run_options,
    add_word_options,
    build_featurizer,
    check_objective,
    fraction,
    objective_changes,
    positive,
    seed,
)
from ._run import Clock, stop_if_interrupted, writable_folder

# The estimators only warn of more components than there can be. Here it ends the run: concepts that
# are copies of each other are not what a page should show.
FATAL_WARNING = r".*n_components=\d+ (exceeds|is more than)"
PAGE, RECORD, SAVED = "report.html", "concepts.json", "concepts"


def add_demo(commands):
    """The command for the bundled model."""
    demo = commands.add_parser(
        "demo",
        help="the bundled model on the bundled scenes",
        description="Explain a word of the bundled model with the bundled scenes. No network.",
    )
    demo.add_argument("--token", default="dog", help="word to explain (default: dog)")
    demo.add_argument("--out", type=Path, help="folder for the results (default: out/demo-TOKEN)")
    demo.add_argument("--n-images", type=positive, default=600, help="training scenes (600)")
    demo.add_argument("--n-test", type=positive, default=240, help="test scenes (240)")
    demo.set_defaults(run=run_demo, model="bundled", images=None)
    _add_common_options(demo)


def add_concepts(commands):
    """The command for a model and images of the user."""
    own = commands.add_parser(
        "concepts",
        help="your model on your images",
        description="Explain a word of a vision-language model with a folder of images.",
    )
    own.add_argument("--model", required=True, help="model id, folder of a model, or 'bundled'")
    own.add_argument("--images", type=Path, required=True, help="folder of images")
    own.add_argument("--captions", type=Path, help="reference captions: .json, .jsonl, .csv, .tsv")
    own.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="what to do about images that cannot be read (raise)",
    )
    own.add_argument("--token", required=True, help="word to explain")
    own.add_argument("--out", type=Path, required=True, help="folder for the results")
    own.add_argument(
        "--test-fraction",
        type=fraction,
        default=0.2,
        help="share of the images kept for local explanations (0.2; 0: explain training images)",
    )
    add_model_options(own)
    own.set_defaults(run=run_concepts)
    _add_common_options(own)


def _add_common_options(command):
    group = command.add_argument_group("concepts")
    group.add_argument("--n-components", type=positive, default=20, help="number of concepts (20)")
    group.add_argument("--method", choices=METHODS, default="semi-nmf", help="(semi-nmf)")
    add_objective_options(group, with_alpha=True)
    group.add_argument("--seed", type=seed, default=0, help="random seed (0)")
    group.add_argument("--n-words", type=positive, default=10, help="words per concept (10)")
    add_word_options(group)
    add_run_options(command)
    command.set_defaults(check=check_usage, fatal_warning=FATAL_WARNING, after_interrupt="")


def check_usage(parser, args):
    """What argparse cannot express by itself."""
    if not args.model:
        parser.error("--model must be a model id, the folder of a model, or 'bundled'")
    check_objective(parser, args, [args.method], "--method")


def run_demo(args):
    """Explain a word of the bundled model."""
    clock = Clock(args.quiet)
    with clock("scenes"):
        from semi_nmf_concepts.datasets import load_scenes

        train = load_scenes(split="train", token=args.token, n=args.n_images)
        test = load_scenes(split="test", token=args.token, n=args.n_test)
    check_enough(len(train.images), args.n_components)
    out = writable_folder(args.out or Path("out", f"demo-{args.token}"))
    report = explain(
        args,
        clock,
        images=train.images,
        captions=train.captions,
        factors=train.factors,
        test_images=test.images,
        test_captions=test.captions,
        test_factors=test.factors,
    )
    _publish(report, out, clock)


def run_concepts(args):
    """Explain a word of the user's model with the user's images."""
    clock = Clock(args.quiet)
    with clock("images"):
        from semi_nmf_concepts.datasets import load_image_folder

        data = load_image_folder(args.images, args.captions)
    train, test = split(len(data.images), args.test_fraction, args.seed)
    check_enough(len(train), args.n_components)
    out = writable_folder(args.out)
    parts = {"images": take(data.images, train), "captions": take(data.captions, train)}
    if len(test):
        parts["test_images"] = take(data.images, test)
        parts["test_captions"] = take(data.captions, test)
    _publish(explain(args, clock, **parts), out, clock)


def explain(args, clock, **data):
    """Load the model, then do the whole job on the given data."""
    with clock("imports"):
        from semi_nmf_concepts.grounding import explain_concepts

        featurizer, decomposer = build_featurizer(args), build_decomposer(args)
    with clock("model"):
        _ = featurizer.handle.loaded
    with clock("captions, states, concepts"):
        return explain_concepts(
            featurizer,
            decomposer,
            **data,
            n_words=args.n_words,
            subtract_mean=args.subtract_mean,
            final_norm=args.final_norm,
            random_state=args.seed,
            verbose=0 if args.quiet else 1,
        )


def build_decomposer(args):
    """Build the decomposer of the command, from the recommended setting where none is given."""
    from semi_nmf_concepts import decomposition

    decomposer = getattr(decomposition, METHODS[args.method])(args.n_components)
    settings = {"random_state": args.seed}
    if args.method == "semi-nmf":
        settings |= {} if args.published else decomposition.recommended_setting(args.n_components)
        settings |= objective_changes(args)
    known = decomposer.get_params()
    return decomposer.set_params(**{k: v for k, v in settings.items() if k in known})


def _publish(report, out, clock):
    """Write everything beside its place, then move it there, the page last."""
    with clock("page"), tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as partial:
        partial = Path(partial)
        report.save(partial / SAVED)
        report.to_json(partial / RECORD)
        report.to_html(partial / PAGE)
        stop_if_interrupted()
        if (out / SAVED).exists():
            os.replace(out / SAVED, partial / "previous")
        for name in (SAVED, RECORD, PAGE):
            os.replace(partial / name, out / name)
    _print_summary(report)
    print(f"\nTime: {clock}")
    print(f"Concepts, saved: {out / SAVED}\nRecord: {out / RECORD}\nPage: {out / PAGE}")


def _print_summary(report):
    """One line per concept: how often it is active, what it detects, its words."""
    settings = report.settings
    print(
        f"\n{len(report.concepts)} concepts of {settings['token']!r} from "
        f"{settings['n_kept']} of {settings['n_seen']} images"
    )
    # Only what is better than chance: the interval of the AUROC lies above one half.
    better = [[f for f in c.factors if f["low"] > 0.5] for c in report.concepts]
    best = [max(factors, key=lambda f: f["auroc"], default=None) for factors in better]
    labels = [f"{f['factor']} {f['value']} ({f['auroc']:.2f})" if f else "" for f in best]
    width = max(map(len, labels), default=0)
    detects = f"{'detects (AUROC)':{width}}  " if width else ""
    room = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 10_000
    print(f"{'':>3}  active  {detects}words")
    for concept, label in zip(report.concepts, labels, strict=True):
        factor = f"{label:{max(width, 15)}}  " if width else ""
        head = f"{concept.index:>3}  {concept.share:>6.0%}  {factor}"
        words = list(concept.words)
        while words and len(head) + len(", ".join(words)) > room:
            words.pop()
        print(head + ", ".join(words))
