"""``explain``: one answer about one or several images, and what it rests on, as a page."""

import argparse
from pathlib import Path

from ._options import (
    add_model_options,
    at_least_zero,
    chosen_model,
    listed,
    positive,
    seed,
)
from ._run import Clock, writable_folder

_VIEWS = ("language", "vision", "both")
_N_SCENES = 8000


def add_explain(commands):
    """The command that explains one answer."""
    command = commands.add_parser(
        "explain",
        help="one answer of your model: attention, relevancy, causal graph, concepts",
        description="Ask a model about images, and write a page that shows what its answer rests "
        "on: attention, relevancy maps, causal graphs, faithfulness, concepts.",
    )
    command.add_argument(
        "--model", default="bundled", help="model id, folder of a model, or 'bundled' (default)"
    )
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--image", type=Path, action="append", help="an image file; again for several images"
    )
    source.add_argument(
        "--scene", type=scene, metavar="N", help="the bundled test scene of this number instead"
    )
    command.add_argument("--answer", help="the answer to explain (default: the model's own)")
    command.add_argument(
        "--words", type=words, help="words to explain, joined by commas (texts or numbers)"
    )
    command.add_argument("--out", type=Path, required=True, help="the page to write, an .html file")
    command.add_argument("--json", type=Path, help="also write all numbers to this file")
    command.add_argument("--save", type=Path, help="also save the explanation into this folder")
    add_model_options(command, with_layer=False, with_forms=False)
    views = command.add_argument_group("views")
    views.add_argument("--concepts", type=Path, help="folder of saved concepts of the same model")
    views.add_argument(
        "--layers", type=listed(int), help="layers whose attention is kept (default: all)"
    )
    views.add_argument(
        "--through",
        type=listed(view),
        default=list(_VIEWS),
        help="relevancy through language, vision, both (default: all three), joined by commas",
    )
    views.add_argument("--no-causal", action="store_true", help="leave the causal graphs out")
    views.add_argument(
        "--no-faithfulness", action="store_true", help="leave deletion and insertion out"
    )
    drawing = command.add_argument_group("answer")
    drawing.add_argument(
        "--temperature", type=at_least_zero, default=0.0, help="0 (default): the likeliest words"
    )
    drawing.add_argument("--top-p", type=float, default=1.0, help="share to draw from (1)")
    drawing.add_argument("--seed", type=seed, default=0, help="of drawn words and random maps (0)")
    command.add_argument("--max-pixels", type=positive, help="largest image taken")
    command.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 ...")
    command.add_argument("--quiet", action="store_true", help="no progress, only the summary")
    command.add_argument("--debug", action="store_true", help="show tracebacks")
    command.set_defaults(run=run_explain, check=check_usage, fatal_warning=None, after_interrupt="")


def words(text):
    """Words, or their numbers in the answer."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return [int(part) if part.lstrip("-").isdigit() else part for part in parts]


def scene(text):
    """A number of a scene."""
    return seed(text)


def view(text):
    """What relevancy is carried through."""
    if text not in _VIEWS:
        raise argparse.ArgumentTypeError(f"must be among {', '.join(_VIEWS)}, got {text}")
    return text


def check_usage(parser, args):
    """What argparse cannot express by itself."""
    if args.scene is not None and args.scene >= _N_SCENES:
        parser.error(f"--scene: there are {_N_SCENES} scenes, numbered from 0, got {args.scene}")
    if args.out.is_dir():
        parser.error(f"--out: {args.out} is a folder; name the file, such as {args.out}/page.html")
    if args.out.suffix.lower() not in (".html", ".htm"):
        parser.error(f"--out: {args.out} must be an .html file")
    if not 0 < args.top_p <= 1:
        parser.error(f"--top-p: must be above 0 and at most 1, got {args.top_p}")


def run_explain(args):
    """Explain, write, and say what came out."""
    clock = Clock(args.quiet)
    for path in (args.out, args.json):
        if path:
            writable_folder(path.parent, option="--out" if path is args.out else "--json")
    with clock("imports"):
        from semi_nmf_concepts.attention import explain_answer
    with clock("images and concepts"):
        (images, names), options = _images(args), _options(args)
    with clock("model, answer, views"):
        explanation = explain_answer(
            chosen_model(args), images, args.prompt, args.answer, image_names=names, **options
        )
    with clock("page"):
        explanation.to_html(args.out)
        if args.json:
            explanation.to_json(args.json)
        if args.save:
            explanation.save(args.save)
    _say(explanation)
    print(f"\nTime: {clock}\nPage: {args.out}")
    for name, path in (("Numbers", args.json), ("Explanation, saved", args.save)):
        if path:
            print(f"{name}: {path}")


def _images(args):
    """The images and their names."""
    if args.scene is None:
        from semi_nmf_concepts.lmm import read_images

        options = {} if args.max_pixels is None else {"max_pixels": args.max_pixels}
        return read_images(list(args.image), **options)
    from semi_nmf_concepts.datasets import load_scenes

    return [load_scenes("test").images[args.scene]], [f"scene {args.scene}"]


def _options(args):
    names = ("words", "layers", "max_new_tokens", "max_pixels")
    given = {name: getattr(args, name) for name in names}
    if args.concepts is not None:
        given["concepts"] = _report(args.concepts)
    return {
        "through": args.through,
        "causal": not args.no_causal,
        "faithfulness": not args.no_faithfulness,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "random_state": args.seed,
        **{name: value for name, value in given.items() if value is not None},
    }


def _report(folder):
    """The concepts of a folder, or of the one inside it that other commands write."""
    from semi_nmf_concepts.grounding import ConceptReport

    inside = folder / "concepts"
    if not (folder / "report.json").exists() and (inside / "report.json").exists():
        folder = inside
    return ConceptReport.load(folder)


def _say(explanation):
    """The answer, and a line for each word that was explained."""
    trace = explanation.trace
    print(f"Answer: {trace.answer}")
    first = next(iter(explanation.relevancy.values()), None)
    for i in explanation.settings["words"]:
        word = trace.words[i]
        parts = [f"probability {trace.probabilities[word.start]:.2g}"]
        parts.append(f"attention to the image {trace.masses(i)['image']:.0%}")
        if first is not None:
            row = first.word_indices.index(i)
            parts.append(f"relevancy of the image {first.shares[row, 0]:.0%}")
        if i in explanation.faithfulness:
            curves = explanation.faithfulness[i]
            random, verdict = curves.random_deletion_areas.mean(), curves.verdict()
            parts.append(f"deletion area {curves.deletion_area:.2f} (random {random:.2f})")
            if not verdict.startswith("Better"):
                parts.append(verdict[0].lower() + verdict[1:].rstrip("."))
        print(f"  {word.text}: {', '.join(parts)}")
    for name, reason in explanation.settings["left_out"].items():
        print(f"left out: {name}: {reason}")
