"""The standalone HTML page of an evaluation."""

from semi_nmf_concepts._files import write_atomically

from ._evaluation_context import evaluation_context
from ._html import render_page


def render_evaluation(evaluation):
    """Render an evaluation as one standalone HTML page.

    From top to bottom: what was found, in sentences that follow from the numbers whichever way they
    fell; scores of all methods and paired tests; overlap of words; each concept against random
    words; curves over layers, numbers of concepts and sparsity; stability; factor recovery; the
    concepts of every token; and the record of the run. What was not computed is left out.

    The page needs no server and no network, as that of :func:`render_html`: styles, script, figures
    and images are inside, a content security policy admits only these, every string is escaped, and
    the same evaluation gives the same text. Figures need matplotlib; without it the tables remain.

    Parameters
    ----------
    evaluation : Evaluation
        What ``evaluate`` returns, or any object with its attributes ``records``, ``points``,
        ``factors``, ``tests``, ``concepts`` and ``settings``.

    Returns
    -------
    html : str
    """
    context = evaluation_context(evaluation)
    return render_page("evaluation.html", context, styles=("page.css", "evaluation.css"))


def write_evaluation_html(evaluation, path):
    """Write an evaluation as one standalone HTML file.

    The page is written beside its destination and then takes its name in one step, so that a
    failure (a full disk, an interruption) leaves the older file or none, never half a page.

    Parameters
    ----------
    evaluation : Evaluation
        As :func:`render_evaluation` takes it.
    path : str or path-like
        The file; missing folders are made.

    Raises
    ------
    OSError
        The file cannot be written (the subclass tells why, e.g. PermissionError); the message names
        the path.
    """
    write_atomically(path, render_evaluation(evaluation))
