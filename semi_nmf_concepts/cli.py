"""The command line: images in, concepts out.

``semi-nmf-concepts demo`` explains the bundled model on the bundled scenes, ``semi-nmf-concepts
concepts`` does the same with a model and images of your own. Both are thin: everything they do is
done by public functions.

Exit status: 0 the results are written; 1 the run failed (data, model, folder); 2 the command itself
is wrong; 130 interrupted. Results and the summary go to standard output; progress, warnings and
errors go to standard error.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import semi_nmf_concepts as package

METHODS = {
    "semi-nmf": "SemiNMFConcepts",
    "kmeans": "KMeansConcepts",
    "pca": "PCAConcepts",
    "simple": "SimpleConcepts",
}
# What users can mend: reported in one line. Anything else is a bug of ours and keeps its traceback.
USER_ERRORS = (ValueError, OSError, ImportError, MemoryError, UserWarning)
# The estimators only warn of more components than there can be. Here it ends the run: concepts that
# are copies of each other are not what a page should show.
FATAL_WARNING = r".*n_components=\d+ (exceeds|is more than)"
PAGE, RECORD, SAVED = "report.html", "concepts.json", "concepts"


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments; None takes those of the process.

    Returns
    -------
    int
        Exit status: 0, 1 or 130. A wrong command leaves through ``SystemExit(2)``.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    _check_usage(parser, args)
    _quiet_libraries()
    try:
        with _plain_warnings(), _remembered_interrupts():
            args.run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if args.debug or not _is_user_error(error):
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def build_parser():
    """Build the parser; it needs no heavy import, so that ``--help`` answers at once."""
    parser = argparse.ArgumentParser(
        prog="semi-nmf-concepts",
        description="Explain a word of an image captioner by the concepts behind it.",
        epilog="Exit status: 0 done, 1 the run failed, 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument(
        "--version", action="version", version=f"semi_nmf_concepts {package.__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser(
        "demo",
        help="the bundled model on the bundled scenes",
        description="Explain a word of the bundled model with the bundled scenes. No network.",
    )
    demo.add_argument("--token", default="dog", help="word to explain (default: dog)")
    demo.add_argument("--out", type=Path, help="folder for the results (default: out/demo-TOKEN)")
    demo.add_argument("--n-images", type=_positive, default=600, help="training scenes (600)")
    demo.add_argument("--n-test", type=_positive, default=240, help="test scenes (240)")
    demo.set_defaults(run=run_demo, model="bundled", images=None)

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
        type=_fraction,
        default=0.2,
        help="share of the images kept for local explanations (0.2; 0: explain training images)",
    )
    _add_model_options(own)
    own.set_defaults(run=run_concepts)

    for command in (demo, own):
        _add_concept_options(command)
        command.add_argument("--batch-size", type=_positive, help="images at a time")
        command.add_argument(
            "--device", default="auto", help="auto (default), cpu, cuda, cuda:1 ..."
        )
        command.add_argument("--cache", type=Path, help="folder that keeps states between runs")
        command.add_argument("--quiet", action="store_true", help="no progress, only the summary")
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _add_model_options(command):
    group = command.add_argument_group("model")
    group.add_argument("--revision", help="branch, tag or commit of a hub model")
    group.add_argument("--dtype", default="auto", help="auto (default), float32, bfloat16, float16")
    group.add_argument(
        "--layer",
        type=_layer,
        default=-1,
        help="number of a block (-1: the last), final_norm, or a module",
    )
    group.add_argument("--prompt", help="prompt text (default: the model's own)")
    group.add_argument("--max-new-tokens", type=_positive, help="longest caption")
    group.add_argument(
        "--forms",
        type=_forms,
        default="plural",
        help="plural (default), exact, or words, joined by commas, that count as the token, too",
    )
    group.add_argument(
        "--trust-remote-code", action="store_true", help="run code that comes with the model"
    )


def _add_concept_options(command):
    group = command.add_argument_group("concepts")
    group.add_argument("--n-components", type=_positive, default=20, help="number of concepts (20)")
    group.add_argument("--method", choices=METHODS, default="semi-nmf", help="(semi-nmf)")
    group.add_argument(
        "--published",
        action="store_true",
        help="start from the published objective instead of the recommended setting",
    )
    sparsity = group.add_mutually_exclusive_group()
    sparsity.add_argument("--alpha", type=float, help="weight of the L1 term")
    sparsity.add_argument("--n-active", type=float, help="concepts active per sample, on average")
    group.add_argument("--whiten", type=int, metavar="R", help="whiten R components (0: do not)")
    group.add_argument(
        "--center", action=argparse.BooleanOptionalAction, default=None, help="subtract the mean"
    )
    group.add_argument("--seed", type=_seed, default=0, help="random seed (0)")
    group.add_argument("--n-words", type=_positive, default=10, help="words per concept (10)")
    group.add_argument(
        "--subtract-mean", action="store_true", help="read words after taking the mean concept away"
    )
    group.add_argument(
        "--final-norm", action="store_true", help="read words through the model's final norm"
    )


def _positive(text, minimum=1):
    value = int(text)
    if value < minimum:
        raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {text}")
    return value


def _seed(text):
    return _positive(text, minimum=0)


def _fraction(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, got {text}")
    return value


def _layer(text):
    """Block number, or the name of a module."""
    return int(text) if text.lstrip("-").isdigit() else text


def _forms(text):
    return text if text in ("plural", "exact") else [word.strip() for word in text.split(",")]


def _check_usage(parser, args):
    """What argparse cannot express by itself."""
    if not args.model:
        parser.error("--model must be a model id, the folder of a model, or 'bundled'")
    semi_nmf_only = {
        "--published": args.published or None,
        "--alpha": args.alpha,
        "--n-active": args.n_active,
        "--whiten": args.whiten,
        "--center": args.center,
    }
    given = [option for option, value in semi_nmf_only.items() if value is not None]
    if args.method != "semi-nmf" and given:
        parser.error(f"{', '.join(given)}: only for --method semi-nmf, not {args.method}")


def run_demo(args):
    """Explain a word of the bundled model."""
    clock = _Clock(args.quiet)
    with clock("scenes"):
        from semi_nmf_concepts.datasets import load_scenes

        train = load_scenes(split="train", token=args.token, n=args.n_images)
        test = load_scenes(split="test", token=args.token, n=args.n_test)
    _check_enough(len(train.images), args.n_components)
    out = _writable_folder(args.out or Path("out", f"demo-{args.token}"))
    report = _explain(
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
    clock = _Clock(args.quiet)
    with clock("images"):
        from semi_nmf_concepts.datasets import load_image_folder

        data = load_image_folder(args.images, args.captions)
    train, test = _split(len(data.images), args.test_fraction, args.seed)
    _check_enough(len(train), args.n_components)
    out = _writable_folder(args.out)
    parts = {"images": _take(data.images, train), "captions": _take(data.captions, train)}
    if len(test):
        parts["test_images"] = _take(data.images, test)
        parts["test_captions"] = _take(data.captions, test)
    _publish(_explain(args, clock, **parts), out, clock)


def _check_enough(n_images, n_components):
    """End the run before anything is made where there are too few images."""
    if n_images < n_components:
        raise ValueError(
            f"{n_components} concepts need at least as many training images, got {n_images}; "
            "give more images or a smaller --n-components"
        )


def _explain(args, clock, **data):
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


def build_featurizer(args):
    """`LMMTokenFeaturizer` with the options of the command; those not given keep its defaults."""
    from semi_nmf_concepts.lmm import LMMTokenFeaturizer, load_model

    model = load_model(
        args.model,
        revision=getattr(args, "revision", None),
        dtype=getattr(args, "dtype", "auto"),
        device=args.device,
        trust_remote_code=getattr(args, "trust_remote_code", False),
    )
    names = ("layer", "prompt", "max_new_tokens", "forms", "batch_size", "cache", "on_error")
    options = {name: getattr(args, name, None) for name in names}
    return LMMTokenFeaturizer(
        model,
        token=args.token,
        verbose=0 if args.quiet else 1,
        **{name: value for name, value in options.items() if value is not None},
    )


def build_decomposer(args):
    """Build the decomposer of the command, from the recommended setting where none is given."""
    from semi_nmf_concepts import decomposition

    decomposer = getattr(decomposition, METHODS[args.method])(args.n_components)
    settings = {"random_state": args.seed}
    if args.method == "semi-nmf":
        settings |= {} if args.published else _recommended(args.n_components)
        # Either of the two says how sparse the activations are: the one given replaces the other.
        if args.alpha is not None:
            settings |= {"alpha": args.alpha, "n_active": None}
        if args.n_active is not None:
            settings["n_active"] = args.n_active
        if args.whiten is not None:
            settings["whiten"] = args.whiten or None
        if args.center is not None:
            settings["center"] = args.center
    known = decomposer.get_params()
    return decomposer.set_params(**{k: v for k, v in settings.items() if k in known})


def _recommended(n_components):
    """Recommended setting, chosen for 20 concepts; fewer of them keep the share that is active."""
    from semi_nmf_concepts.decomposition import RECOMMENDED

    settings = dict(RECOMMENDED)
    if settings.get("n_active"):
        settings["n_active"] *= min(1, n_components / 20)
    return settings


def _split(n, test_fraction, seed):
    """Positions for training and for testing, each in increasing order."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(n)
    n_test = round(n * test_fraction)
    return np.sort(order[n_test:]), np.sort(order[:n_test])


def _take(items, positions):
    return None if items is None else [items[position] for position in positions]


def _writable_folder(folder):
    """Create the folder and try to write there: better now than after the long run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to the output folder {folder}: {error.strerror or error}; "
            "choose another with --out"
        ) from error
    return folder


def _publish(report, out, clock):
    """Write everything beside its place, then move it there, the page last."""
    with clock("page"), tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as partial:
        partial = Path(partial)
        report.save(partial / SAVED)
        report.to_json(partial / RECORD)
        report.to_html(partial / PAGE)
        _stop_if_interrupted()
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


class _Clock:
    """Seconds by stage, announced as the stages begin."""

    def __init__(self, quiet=False):
        self.quiet = quiet
        self.seconds = {}

    @contextlib.contextmanager
    def __call__(self, stage):
        if not self.quiet:
            print(f"{stage} ...", file=sys.stderr)
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start
        _stop_if_interrupted()

    def __str__(self):
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        return f"{stages}; together {sum(self.seconds.values()):.1f} s"


_INTERRUPTED = threading.Event()


@contextlib.contextmanager
def _remembered_interrupts():
    """Let Ctrl-C end the run even where Python drops its exception (inside a destructor)."""

    def interrupt(signum, frame):
        _INTERRUPTED.set()
        raise KeyboardInterrupt

    _INTERRUPTED.clear()
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop_if_interrupted():
    if _INTERRUPTED.is_set():
        raise KeyboardInterrupt


def _is_user_error(error):
    # torch reports a full device as a RuntimeError of its own.
    return isinstance(error, USER_ERRORS) or "out of memory" in str(error)


def _one_line(error):
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in text:
        text += " (try a smaller --batch-size, or --dtype bfloat16)"
    return text


@contextlib.contextmanager
def _plain_warnings():
    """Show each warning meant for users once, as one line; leave developers' warnings out."""

    def show(message, category, *_, **__):
        print(f"warning: {_one_line(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("error", FATAL_WARNING, UserWarning)
        warnings.showwarning = show
        yield


def _quiet_libraries():
    """Keep transformers' notes and bars out of ours, unless the user set them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # words a terminal cannot show are no failure
