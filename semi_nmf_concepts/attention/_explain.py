"""All views of one answer at once, as one result."""

import contextlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from semi_nmf_concepts._files import write_atomically
from semi_nmf_concepts.grounding import ConceptReport, dump_json

from ._causal import causal_graph
from ._concept_states import open_report
from ._concepts import concept_activation_map
from ._faithfulness import deletions_insertions
from ._relevancy import THROUGH, relevancies
from ._results import Result
from ._tracing import trace_answer

# Of the views that run the model for every word; a page of more words would be hard to read, too.
MAX_WORDS = 12
_FILE, _CONCEPTS = "explanation.npz", "concepts"


@dataclass(eq=False, repr=False)
class AnswerExplanation(Result):
    """Everything that is known about one answer; made by :func:`explain_answer`.

    Attributes
    ----------
    trace : AnswerTrace
    relevancy : dict of str to Relevancy
        By what it was carried through: "language", "vision", "both".
    causal : dict of int to CausalGraph
        By the index of the word in ``trace.words``.
    faithfulness : dict of int to FaithfulnessCurves
        By the index of the word: how well its relevancy map tells what its probability rests on.
    concepts : ConceptActivationMap or None
    concept_report : ConceptReport or None
        The concepts that ``concepts`` refers to, with words and example images.
    settings : dict
        How the views were made; ``seconds`` by view, ``left_out``: what could not be made, and why.
    """

    trace: object
    relevancy: dict = field(default_factory=dict)
    causal: dict = field(default_factory=dict)
    faithfulness: dict = field(default_factory=dict)
    concepts: object = None
    concept_report: object = None
    settings: dict = field(default_factory=dict)

    plotter = "plot_trace"

    def __repr__(self):
        views = [name for name in ("relevancy", "causal", "faithfulness") if getattr(self, name)]
        views += ["concepts"] if self.concepts is not None else []
        return (
            f"<AnswerExplanation: {self.trace.answer!r}, {', '.join(views) or 'attention alone'}>"
        )

    def plot(self, **options):
        """Draw the answer's attention; returns a matplotlib Figure."""
        return self.trace.plot(**options)

    def to_html(self, path):
        """Write one standalone HTML page (no server, no network)."""
        from semi_nmf_concepts.report import write_answer_html

        write_answer_html(self, path)

    def to_dict(self):
        """Everything except images and the concept report, as nested dicts and lists."""
        return Result.to_dict(replace(self, concept_report=None))

    def to_json(self, path):
        """Write what :meth:`to_dict` gives as strict JSON (UTF-8)."""
        write_atomically(path, dump_json(self.to_dict()))

    def save(self, folder):
        """Write the explanation into `folder` (made if missing); nothing is pickled."""
        folder = Path(folder)
        if self.concept_report is not None:
            self.concept_report.save(folder / _CONCEPTS)
        Result.save(replace(self, concept_report=None), folder / _FILE)

    @classmethod
    def load(cls, folder):
        """Read what :meth:`save` wrote.

        Raises FileNotFoundError where there is none and ValueError where the files are damaged.
        """
        folder = Path(folder)
        explanation = super().load(folder / _FILE)
        if explanation.concepts is not None and (folder / _CONCEPTS).exists():
            explanation.concept_report = ConceptReport.load(folder / _CONCEPTS)
        return explanation


def explain_answer(
    model="bundled",
    images=None,
    prompt=None,
    answer=None,
    *,
    concepts=None,
    words=None,
    through=THROUGH,
    causal=True,
    faithfulness=True,
    random_state=0,
    **trace_options,
):
    """Let a model answer and look inside: attention, relevancy, causal graphs, concepts.

    Parameters
    ----------
    model : "bundled", str, path or ModelHandle, default="bundled"
    images : image or list of images
    prompt : str, default=None
        What to ask; None takes the model's default.
    answer : str or list of int, default=None
        The answer to explain; None: the model's own.
    concepts : ConceptReport or path, default=None
        Concepts of the same model, or the folder of a saved report.
    words : int, str, or list of these, default=None
        Words for which the views are made that run the model once or more for each. None: the first
        twelve words of the answer that are no stop words (all words if there are no others).
    through : str or list of str, default=("language", "vision", "both")
        What relevancy is carried through, see :func:`relevancy`; an empty list leaves it out.
    causal, faithfulness : bool, default=True
        Whether to make these views.
    random_state : int, default=0
        Seed of drawn answers and of the random maps of the faithfulness check.
    **trace_options
        Of :func:`trace_answer`: ``layers``, ``max_new_tokens``, ``temperature``, ``top_p``,
        ``image_names``, ``max_pixels``.

    Returns
    -------
    AnswerExplanation

    Raises
    ------
    ValueError
        As :func:`trace_answer`; and if the concepts belong to another model. What a model does not
        allow (relevancy through the vision encoder of a family whose tokens are no mixture of its
        states) is left out and named in ``settings["left_out"]``.

    Examples
    --------
    >>> from semi_nmf_concepts.attention import explain_answer
    >>> from semi_nmf_concepts.datasets import load_scenes
    >>> image = load_scenes("test", token="dog", n=1).images[0]
    >>> explanation = explain_answer(images=image, words="dog", faithfulness=False)
    >>> explanation
    <AnswerExplanation: 'a dog that is white on the grass next to an umbrella', relevancy, causal>
    >>> explanation.relevancy["language"].shares[0].round(1).tolist()  # image, text
    [1.0, 0.0]
    """
    through = _checked_through(through)  # wrong ones are refused before the model runs
    if isinstance(concepts, (str, Path)):
        concepts = ConceptReport.load(concepts)
    start = time.perf_counter()
    trace = trace_answer(model, images, prompt, answer, random_state=random_state, **trace_options)
    seconds = {"trace": time.perf_counter() - start}
    result = explain_trace(
        trace,
        concepts=concepts,
        words=words,
        through=through,
        causal=causal,
        faithfulness=faithfulness,
        random_state=random_state,
    )
    result.settings["seconds"] = seconds | result.settings["seconds"]
    return result


def explain_trace(
    trace,
    *,
    concepts=None,
    words=None,
    through=THROUGH,
    causal=True,
    faithfulness=True,
    random_state=0,
):
    """All views of an answer that was traced before.

    Parameters
    ----------
    trace : AnswerTrace
    concepts, words, through, causal, faithfulness, random_state
        As for :func:`explain_answer`.

    Returns
    -------
    AnswerExplanation
    """
    through = _checked_through(through)
    if concepts is not None:
        concepts = open_report(concepts, trace)  # before all that takes time
    work = _Work()
    chosen = trace.content_words()[:MAX_WORDS] if words is None else trace.find_words(words)
    result = AnswerExplanation(trace, concept_report=concepts)
    # Those that go through the vision encoder may not be possible where the others are.
    for paths in (through, [path for path in through if path == "language"]):
        if paths and not result.relevancy:
            with work.timed("relevancy", f"relevancy through {', '.join(paths)}"):
                result.relevancy = relevancies(trace, chosen, paths)
    for index in chosen if causal else ():
        with work.timed("causal graphs", f"causal graph of {trace.words[index].text!r}"):
            result.causal[index] = causal_graph(trace, index)
    if faithfulness and result.relevancy:
        best = next(path for path in ("language", "both", "vision") if path in result.relevancy)
        maps = [(result.relevancy[best].map(index), index) for index in chosen]
        with work.timed("faithfulness", "faithfulness"):
            curves = deletions_insertions(trace, maps, random_state=random_state)
            result.faithfulness = dict(zip(chosen, curves, strict=True))
    if concepts is not None:
        with work.timed("concepts"):
            result.concepts = concept_activation_map(trace, concepts)
    result.settings = {
        "words": [int(index) for index in chosen],
        "through": list(through),
        "random_state": random_state,
        "seconds": work.seconds,
        "left_out": work.left_out,
    }
    return result


class _Work:
    """Seconds by view, and what could not be made."""

    def __init__(self):
        self.seconds, self.left_out = {}, {}

    @contextlib.contextmanager
    def timed(self, name, may_fail=None):
        """Count the time of a view; a ValueError is noted under `may_fail` in place of it."""
        start = time.perf_counter()
        try:
            yield
        except ValueError as error:
            if may_fail is None:
                raise
            self.left_out[may_fail] = str(error)
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _checked_through(through):
    paths = [through] if isinstance(through, str) else list(through or [])
    for path in paths:
        if path not in THROUGH:
            raise ValueError(f"through must be among {THROUGH}, got {path!r}.")
    return list(dict.fromkeys(paths))
