"""The standalone HTML page of one answer."""

from semi_nmf_concepts._files import write_atomically

from ._answer_context import answer_context
from ._html import render_page

_STYLES = ("page.css", "answer.css")
_SCRIPTS = (
    "page.js",
    "answer-data.js",
    "answer-draw.js",
    "answer-view.js",
    "answer-heads.js",
    "answer-graph.js",
    "answer-concepts.js",
    "answer-export.js",
    "answer.js",
)
MAX_BYTES = 4_900_000  # of the whole page, as estimated
_LIMIT, _TRIES = 5_000_000, 4


def render_answer(explanation):
    """Render the explanation of one answer as one standalone HTML page.

    The words of the answer stand beside the image: a word shows the patches that it looked at, a
    patch the words that looked at it, for any layer and head; below follow heads and layers,
    relevancy, the causal graph, concepts, faithfulness, the tokens and the record of the run. Parts
    that the explanation has not are left out.

    The page needs no server and no network, as that of :func:`render_html`: a content security
    policy admits only the style, the script and the images inside, every string is escaped, and the
    same explanation gives the same text. It stays below 5 MB: of a large model it holds the heads
    of some layers, and the means over heads of all; of tens of thousands of image tokens, sums over
    neighbouring patches; of hundreds of words, the first. It says so where it does.

    Parameters
    ----------
    explanation : AnswerExplanation
        What :func:`semi_nmf_concepts.attention.explain_answer` returns.

    Returns
    -------
    html : str
    """
    room = MAX_BYTES
    for _ in range(_TRIES):  # of an answer of hundreds of words, the estimate is too low
        page = render_page("answer.html", answer_context(explanation, room), _STYLES, _SCRIPTS)
        size = len(page.encode())
        if size < _LIMIT:
            break
        room -= size - MAX_BYTES
    return page


def write_answer_html(explanation, path):
    """Write the explanation of one answer as one standalone HTML file.

    The page is written beside its destination and then takes its name in one step, so that a
    failure (a full disk, an interruption) leaves the older file or none, never half a page.

    Parameters
    ----------
    explanation : AnswerExplanation
        As :func:`render_answer` takes it.
    path : str or path-like
        The file; missing folders are made.

    Raises
    ------
    OSError
        The file cannot be written (the subclass tells why, e.g. PermissionError); the message names
        the path.
    """
    write_atomically(path, render_answer(explanation))
