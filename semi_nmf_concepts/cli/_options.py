"""Options that commands share: how they are read, and what is built from them."""

import argparse
from pathlib import Path

METHODS = {
    "semi-nmf": "SemiNMFConcepts",
    "kmeans": "KMeansConcepts",
    "pca": "PCAConcepts",
    "simple": "SimpleConcepts",
}


def positive(text, minimum=1):
    """A whole number of at least one."""
    value = int(text)
    if value < minimum:
        raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {text}")
    return value


def seed(text):
    """A whole number of at least zero."""
    return positive(text, minimum=0)


def at_least_zero(text):
    """A number of at least zero."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return value


def fraction(text):
    """A number from zero to below one."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, got {text}")
    return value


def layer(text):
    """Block number, or the name of a module."""
    return int(text) if text.lstrip("-").isdigit() else text


def forms(text):
    """Which words count as the token."""
    return text if text in ("plural", "exact") else listed(str)(text)


def listed(convert):
    """A reader of several values, joined by commas."""

    def read(text):
        return [convert(part.strip()) for part in text.split(",")]

    read.__name__ = f"list of {convert.__name__}"  # what argparse calls a wrong value
    return read


def add_model_options(command, with_layer=True, with_forms=True):
    """How a model is loaded and asked."""
    group = command.add_argument_group("model")
    group.add_argument("--revision", help="branch, tag or commit of a hub model")
    group.add_argument("--dtype", default="auto", help="auto (default), float32, bfloat16, float16")
    if with_layer:
        group.add_argument(
            "--layer",
            type=layer,
            default=-1,
            help="number of a block (-1: the last), final_norm, or a module",
        )
    group.add_argument("--prompt", help="prompt text (default: the model's own)")
    group.add_argument("--max-new-tokens", type=positive, help="longest caption")
    if with_forms:
        group.add_argument(
            "--forms",
            type=forms,
            default="plural",
            help="plural (default), exact, or words, joined by commas, that count as the token",
        )
    group.add_argument(
        "--trust-remote-code", action="store_true", help="run code that comes with the model"
    )


def add_objective_options(group, with_alpha):
    """The parameters of Semi-NMF, from the recommended setting on."""
    group.add_argument(
        "--published",
        action="store_true",
        help="start from the published objective instead of the recommended setting",
    )
    sparsity = group.add_mutually_exclusive_group()
    if with_alpha:
        sparsity.add_argument("--alpha", type=float, help="weight of the L1 term")
    sparsity.add_argument("--n-active", type=float, help="concepts active per sample, on average")
    group.add_argument("--whiten", type=int, metavar="R", help="whiten R components (0: do not)")
    group.add_argument(
        "--center", action=argparse.BooleanOptionalAction, default=None, help="subtract the mean"
    )


def add_word_options(group):
    """How words are read from concepts."""
    group.add_argument(
        "--subtract-mean", action="store_true", help="read words after taking the mean concept away"
    )
    group.add_argument(
        "--final-norm", action="store_true", help="read words through the model's final norm"
    )


def add_run_options(command):
    """Where a command computes, and what it says meanwhile."""
    command.add_argument("--batch-size", type=positive, help="images at a time")
    command.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 ...")
    command.add_argument("--cache", type=Path, help="folder that keeps states between runs")
    command.add_argument("--quiet", action="store_true", help="no progress, only the summary")
    command.add_argument("--debug", action="store_true", help="show tracebacks")


def check_objective(parser, args, methods, option):
    """Refuse parameters of Semi-NMF for other methods; `option` is what chooses methods."""
    names = ("published", "alpha", "n_active", "whiten", "center")
    values = {f"--{name.replace('_', '-')}": getattr(args, name, None) for name in names}
    values["--published"] = values["--published"] or None
    given = [name for name, value in values.items() if value is not None]
    if "semi-nmf" not in methods and given:
        chosen = ",".join(methods)
        parser.error(f"{', '.join(given)}: only for {option} semi-nmf, not {chosen}")


def objective_changes(args):
    """Parameters of Semi-NMF that the command gives, in place of those of its setting."""
    changes = {}
    # Either of the two says how sparse the activations are: the one given replaces the other.
    if getattr(args, "alpha", None) is not None:
        changes |= {"alpha": args.alpha, "n_active": None}
    if args.n_active is not None:
        changes["n_active"] = args.n_active
    if args.whiten is not None:
        changes["whiten"] = args.whiten or None
    if args.center is not None:
        changes["center"] = args.center
    return changes


def chosen_model(args):
    """Handle of the model that the command names."""
    from semi_nmf_concepts.lmm import load_model

    return load_model(
        args.model,
        revision=getattr(args, "revision", None),
        dtype=getattr(args, "dtype", "auto"),
        device=args.device,
        trust_remote_code=getattr(args, "trust_remote_code", False),
    )


def build_featurizer(args, **fixed):
    """`LMMTokenFeaturizer` with the options of the command; those not given keep its defaults."""
    from semi_nmf_concepts.lmm import LMMTokenFeaturizer

    names = ("token", "layer", "prompt", "max_new_tokens", "forms", "batch_size", "cache")
    options = {name: getattr(args, name, None) for name in (*names, "on_error")}
    return LMMTokenFeaturizer(
        chosen_model(args),
        verbose=0 if args.quiet else 1,
        **{name: value for name, value in options.items() if value is not None},
        **fixed,
    )
