"""``evaluate``: the published tables and figures for the bundled model, a preset, or your own."""

import argparse
import dataclasses
import warnings
from functools import partial
from pathlib import Path

from semi_nmf_concepts.evaluation import PRESETS

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
    layer,
    listed,
    objective_changes,
    positive,
    seed,
)
from ._run import Clock, writable_folder

PAGE = "report.html"
_PRINTED = (
    ("CLIPScore of the words of the most active concept", "table1", "clip_score"),
    ("BERTScore of the words of the most active concept", "table1", "bert_score"),
    ("Overlap of the words of concepts (lower is better)", "table2", "overlap"),
)
# The words of the paper that the bundled scenes have, too.
SCENE_TOKENS = ("dog", "cat", "bus", "train", "car", "cake", "bear", "baby")
# Where the recommended setting was chosen (RECOMMENDED): no average takes these words in.
CHOSEN_ON = ("cat", "train")
# What is known of the scenes, without the object itself, which the token fixes.
SCENE_FACTORS = ["colour", "background", "count", "companion"]
# What is taken where nothing is given, for each of the three ways to say what is evaluated.
_COMMON = {
    "methods": tuple(METHODS),
    "n_components": (20,),
    "layer": -1,
    "layers": (),
    "seeds": (0,),
    "alphas": (),
    "dtype": "auto",
    "clip": "openai/clip-vit-base-patch32",
    "bert": "roberta-large",
}
_BUNDLED = {
    "model": "bundled",
    "tokens": SCENE_TOKENS,
    "n_components": (20, 5, 10, 40),
    "seeds": (0, 1, 2, 3, 4),
    "alphas": (0.01, 0.02, 0.05, 0.1, 0.2),
    "clip": "bundled",
    "bert": "bundled",
    "n_images": 700,
    "n_test": 250,
    "out": Path("out", "evaluation"),
}
_OWN = {"test_fraction": 0.2}
# Options that one of the ways alone has a use for.
_FOREIGN = {
    "bundled": ("data", "model", "captions", "test_fraction", "revision", "trust_remote_code"),
    "preset": ("captions", "test_fraction"),
    "images": ("data",),
}


def add_evaluate(commands):
    """The command that compares methods, layers and settings."""
    command = commands.add_parser(
        "evaluate",
        help="the published tables and figures for a model",
        description="Compare methods, tokens, layers and settings as in the paper: CLIPScore, "
        "BERTScore, overlap. The same command again goes on where it was stopped. Several values "
        "are joined by commas; after a name, values that begin with a minus need an equals sign "
        "(--layers=-2,-3).",
    )
    _add_data_options(command)
    add_model_options(command)
    _add_comparison_options(command)
    _add_score_options(command)
    add_run_options(command)
    # None: what was not given, and depends on the way.
    command.set_defaults(run=run_evaluate, check=check_usage, fatal_warning=None)
    command.set_defaults(after_interrupt="; the same command goes on from here")
    command.set_defaults(layer=None, dtype=None)


def _add_data_options(command):
    group = command.add_argument_group("what is evaluated")
    way = group.add_mutually_exclusive_group(required=True)
    way.add_argument("--bundled", action="store_true", help="the bundled model, scenes and scorers")
    way.add_argument("--preset", choices=PRESETS, help="a published experiment")
    way.add_argument("--images", type=Path, help="folder of images of yours")
    group.add_argument("--data", type=Path, help="folder of the data set of a preset")
    group.add_argument("--model", help="model id, or folder of a model")
    group.add_argument("--captions", type=Path, help="captions of the images, as for `concepts`")
    group.add_argument("--tokens", type=listed(str), help="words to evaluate, such as dog,cat")
    group.add_argument("--n-images", type=positive, help="training images at most (scenes: a word)")
    group.add_argument("--n-test", type=positive, help="test images at most (scenes: a word)")
    group.add_argument(
        "--test-fraction", type=_test_fraction, help="share of the images kept for testing (0.2)"
    )
    group.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="what to do about images that cannot be read (raise)",
    )
    group.add_argument("--out", type=Path, help="folder for tables, figures and the page")
    group.add_argument(
        "--n-jobs", type=positive, help="processes that share the words (1; --bundled: all cores)"
    )


def _add_comparison_options(command):
    group = command.add_argument_group("concepts")
    group.add_argument(
        "--methods", type=listed(_method), help=f"some of {','.join(METHODS)} (default: all)"
    )
    group.add_argument(
        "--n-components",
        type=listed(positive),
        help="numbers of concepts; the first is that of the tables, all make the curve",
    )
    group.add_argument("--layers", type=listed(layer), help="more layers, for the curve")
    group.add_argument("--alphas", type=listed(float), help="weights of the L1 term, for the curve")
    group.add_argument(
        "--seeds", type=listed(seed), help="random seeds; the first is that of the tables"
    )
    add_objective_options(group, with_alpha=False)
    add_word_options(group)


def _add_score_options(command):
    group = command.add_argument_group("scores")
    group.add_argument("--clip", help="CLIP model: hub id, folder, open_clip:NAME/TAG, or none")
    group.add_argument("--bert", help="BERT model: hub id, folder, or none")
    group.add_argument(
        "--bert-rescale",
        type=_rescaling,
        metavar="{none,package,FLOAT}",
        help="baseline of the BERTScore: none (default), bert-score's own, or a number",
    )
    group.add_argument("--bert-layers", type=positive, help="layer of BERT that is compared")


def _test_fraction(text):
    value = fraction(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be above 0: an evaluation needs test images")
    return value


def _method(text):
    """A method, also as tables write it ("KMeans")."""
    if text.lower() not in METHODS:
        raise argparse.ArgumentTypeError(f"must be among {', '.join(METHODS)}, got {text!r}")
    return text.lower()


def _rescaling(text):
    words = {"none": False, "package": True}
    return words[text] if text in words else float(text)


def check_usage(parser, args):
    """What argparse cannot express by itself; then the options not given get their defaults."""
    way = next(name for name in ("bundled", "preset", "images") if getattr(args, name))
    foreign = [_option(name) for name in _FOREIGN[way] if getattr(args, name) not in (None, False)]
    if foreign:
        parser.error(f"{', '.join(foreign)}: not with --{way}")
    needed = {"preset": ["data"], "images": ["model", "captions", "tokens", "out"]}.get(way, [])
    missing = [_option(name) for name in needed if not getattr(args, name)]
    if missing:
        parser.error(f"--{way} needs {', '.join(missing)}")
    if args.model == "":
        parser.error("--model must be a model id or the folder of a model")
    preset = PRESETS.get(args.preset)
    if preset and not (args.model or preset.model):
        parser.error(
            f"--preset {preset.name} needs --model FOLDER: no model hub has this model in the "
            "format of transformers"
        )
    check_objective(parser, args, args.methods or METHODS, "--methods")
    if args.bert == "none" and (args.bert_rescale is not None or args.bert_layers):
        parser.error("--bert-rescale, --bert-layers: not with --bert none")
    own = {"bundled": _BUNDLED, "images": _OWN}.get(way) or _preset_options(preset)
    for name, value in (_COMMON | own).items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _option(name):
    return f"--{name.replace('_', '-')}"


def _preset_options(preset):
    """What a preset says about options of the command."""
    names = ("model", "tokens", "methods", "layer", "dtype", "clip", "bert")
    options = {name: getattr(preset, name) for name in names}
    options["n_components"] = (preset.n_components,)
    return options | {"out": Path("out", f"evaluation-{preset.name}")}


def run_evaluate(args):
    """Evaluate, print the two tables of the paper, and say where the page is."""
    clock = Clock(args.quiet)
    with clock("images"):
        read = _read_scenes if args.bundled else _read_preset if args.preset else _read_own
        train, test = read(args)
    out = writable_folder(args.out)
    with clock("imports"):
        from semi_nmf_concepts.evaluation import evaluate

        featurizer = build_featurizer(args, stop="token")  # what follows the word is not looked at
        options = _options(args, featurizer)
    with clock("evaluation"):
        result = evaluate(featurizer, train, test, **options, out=out)
    _print_tables(result.records)
    for note in result.settings["notes"]:
        print(f"\nNote: {note}")
    print(f"\nTime: {clock}\nTables and figures: {out}\nPage: {out / PAGE}")


def _print_tables(records):
    """Table 1 for the most active concept, and table 2: methods by words, means alone."""
    for title, table, metric in _PRINTED:
        rows = records[(records["table"] == table) & (records["metric"] == metric)]
        rows = rows[rows["top"].fillna(1) == 1]
        if len(rows):
            wide = rows.pivot(index="method", columns="token", values="mean")
            # In the order of the records, which has the average last.
            wide = wide.loc[rows["method"].unique(), rows["token"].unique()]
            wide = wide.rename_axis(index=None, columns=None)
            print(f"\n{title}\n{wide.to_string(float_format='{:.3f}'.format, na_rep='-')}")


def _read_scenes(args):
    """Scenes of each word."""
    from semi_nmf_concepts.datasets import load_scenes

    parts = [
        {token: load_scenes(name, token=token, n=n) for token in args.tokens}
        for name, n in (("train", args.n_images), ("test", args.n_test))
    ]
    check_enough(min(len(scenes.images) for scenes in parts[0].values()), max(args.n_components))
    return parts


def _read_preset(args):
    """Splits of the data set of the preset."""
    changes = {"tokens": tuple(args.tokens), "n_train": args.n_images, "n_test": args.n_test}
    preset = dataclasses.replace(PRESETS[args.preset], **changes)
    train, test = preset.load(args.data)
    check_enough(len(train.images), max(args.n_components))
    return train, test


def _read_own(args):
    """The user's images, divided at random."""
    from sklearn.utils import Bunch

    from semi_nmf_concepts.datasets import load_image_folder

    data = load_image_folder(args.images, args.captions)
    n = len(data.images)
    train, test = split(n, args.test_fraction, args.seeds[0])
    check_enough(len(train[: args.n_images]), max(args.n_components))
    if not len(test):
        raise ValueError(
            f"of {n} images none is left for testing; give more images or a larger --test-fraction"
        )
    return [
        Bunch(images=take(data.images, rows), captions=take(data.captions, rows))
        for rows in (train[: args.n_images], test[: args.n_test])
    ]


def _options(args, featurizer):
    """Arguments of `evaluate` that follow from the command."""
    layers, chosen_on = args.layers, ()
    if args.bundled:
        args.n_jobs = args.n_jobs or _n_processes(args)
        layers = layers or range(featurizer.handle.n_layers)
        chosen_on = _chosen_on(args)
    words = {"subtract_mean": args.subtract_mean, "final_norm": args.final_norm}
    return {
        "tokens": list(args.tokens),
        "methods": list(args.methods),
        "setting": _setting(args),
        "n_components": list(args.n_components),
        "layers": list(layers),
        "alphas": list(args.alphas),
        "seeds": list(args.seeds),
        "clip": None if args.clip == "none" else args.clip,
        "bert": _scorer(args),
        "grounding": {name: value for name, value in words.items() if value},
        "factor_columns": SCENE_FACTORS if args.bundled else None,
        "chosen_on": list(chosen_on),
        "random_state": args.seeds[0],
        "n_jobs": args.n_jobs,
        "verbose": 0 if args.quiet else 1,
    }


def _n_processes(args):
    """As many as there are cores, on a CPU; a GPU is shared by one."""
    import joblib

    from semi_nmf_concepts._models import torch_device

    on_cpu = torch_device(args.device).type == "cpu"
    return min(len(args.tokens), joblib.cpu_count()) if on_cpu else 1


def _chosen_on(args):
    """Those of the words on which the setting was chosen, unless nothing else is left."""
    chosen = [token for token in args.tokens if token in CHOSEN_ON]
    if len(chosen) < len(args.tokens):
        return chosen
    warnings.warn(
        f"the recommended setting was chosen on {', '.join(chosen)}; report other words",
        stacklevel=1,
    )
    return []


def _setting(args):
    """Parameters of Semi-NMF, for every number of concepts; None: the recommended ones."""
    changes = objective_changes(args)
    if args.preset:
        return PRESETS[args.preset].setting | changes
    if args.published:
        return changes
    return partial(_recommended_but, changes, args.n_components[0]) if changes else None


def _recommended_but(changes, first, n_components):
    """The recommended setting for a number of components, with the changes asked for; the number
    of active ones is meant for the `first` number of components, and fewer keep their share."""
    from semi_nmf_concepts.decomposition import recommended_setting

    setting = recommended_setting(n_components) | changes
    if changes.get("n_active"):
        setting["n_active"] *= min(1.0, n_components / first)
    return setting


def _scorer(args):
    """What `evaluate` takes for the BERTScore."""
    if args.bert == "none":
        return None
    if args.bert_rescale is None and args.bert_layers is None:
        return args.bert
    from semi_nmf_concepts.metrics import load_bert

    return load_bert(
        args.bert,
        num_layers=args.bert_layers,
        rescale=args.bert_rescale or False,
        device=args.device,
    )
