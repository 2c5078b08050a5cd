"""The command line: images in, concepts out.

``semi-nmf-concepts demo`` explains the bundled model on the bundled scenes, ``semi-nmf-concepts
concepts`` does the same with a model and images of your own, ``semi-nmf-concepts evaluate`` makes
the published tables and figures for either, and ``semi-nmf-concepts extract`` only collects the
states, of any number of images. ``semi-nmf-concepts explain`` looks inside one answer and writes a
page, and ``semi-nmf-concepts app`` does the same interactively. All are thin: everything they do is
done by public functions.

Exit status: 0 the results are written; 1 the run failed (data, model, folder); 2 the command itself
is wrong; 130 interrupted. Results and the summary go to standard output; progress, warnings and
errors go to standard error.
"""

import argparse
import sys

import semi_nmf_concepts as package

from ._answer import add_explain
from ._app import add_app
from ._evaluate import add_evaluate
from ._explain import add_concepts, add_demo
from ._extract import add_extract
from ._run import is_user_error, one_line, plain_warnings, quiet_libraries, remembered_interrupts

__all__ = ["build_parser", "main"]


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
    args.check(parser, args)
    quiet_libraries()
    try:
        with plain_warnings(args.fatal_warning), remembered_interrupts():
            args.run(args)
    except KeyboardInterrupt:
        print(f"interrupted{args.after_interrupt}", file=sys.stderr)
        return 130
    except Exception as error:
        if args.debug or not is_user_error(error):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
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
    add_demo(commands)
    add_concepts(commands)
    add_evaluate(commands)
    add_extract(commands)
    add_explain(commands)
    add_app(commands)
    return parser
