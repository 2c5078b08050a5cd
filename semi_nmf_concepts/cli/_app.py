"""``app``: chat about images, and look inside the answers, in a browser."""

from pathlib import Path

from ._options import add_model_options, at_least_zero, chosen_model, positive


def add_app(commands):
    """The command that serves the app."""
    command = commands.add_parser(
        "app",
        help="chat about images and look inside the answers, in your browser",
        description="Serve the app (extra 'app') until Ctrl-C: a chat about images, and for each "
        "answer attention, relevancy, causal graphs, faithfulness and concepts. It listens on this "
        "computer alone unless --host says otherwise, and works without a network.",
    )
    command.add_argument(
        "--model", default="bundled", help="model id, folder of a model, or 'bundled' (default)"
    )
    command.add_argument("--concepts", type=Path, help="folder of saved concepts of the same model")
    add_model_options(command, with_layer=False, with_forms=False)
    server = command.add_argument_group("server")
    server.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this computer alone)"
    )
    server.add_argument("--port", type=positive, help="default: the first free one from 7860 on")
    password = server.add_mutually_exclusive_group()
    password.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        help="what visitors have to give; other users of this computer can see it in the list of "
        "processes, so better use --auth-file or the variable SEMI_NMF_CONCEPTS_APP_AUTH",
    )
    password.add_argument(
        "--auth-file", type=Path, metavar="FILE", help="a text file with USER:PASSWORD"
    )
    server.add_argument(
        "--max-upload",
        type=at_least_zero,
        default=20.0,
        metavar="MB",
        help="largest file that can be uploaded (20)",
    )
    command.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 ...")
    command.add_argument("--debug", action="store_true", help="show tracebacks")
    command.set_defaults(run=run_app, check=check_usage, fatal_warning=None, after_interrupt="")


def check_usage(parser, args):
    """What argparse cannot express by itself."""
    if args.max_upload == 0:
        parser.error("--max-upload: must be above 0")


def run_app(args):
    """Serve until the user interrupts."""
    from semi_nmf_concepts.app import launch

    launch(
        chosen_model(args),
        concepts=args.concepts,
        question=args.prompt or "",
        max_new_tokens=args.max_new_tokens or 64,
        host=args.host,
        port=args.port,
        auth=_credentials(args),
        max_upload=args.max_upload,
    )


def _credentials(args):
    if args.auth_file is None:
        return args.auth
    return args.auth_file.read_text(encoding="utf-8").strip()
