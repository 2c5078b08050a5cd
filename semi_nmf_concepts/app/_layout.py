"""The page of the app: a conversation on the left, the views of the chosen answer on the right."""

from dataclasses import dataclass, field
from pathlib import Path

from ._jobs import alone, in_event_loop, reported
from ._session import Session
from ._views import head_choices, layer_choices, most_visual_word, word_choices

_DAY = 86_400
_CSS = """
.chips { line-height: 2.4; }
.chip { padding: 0.2em 0.5em; border-radius: 0.4em; border: 1px solid var(--border-color-primary);
  background: color-mix(in srgb, var(--chip, #d61824) calc(55% * var(--strength)), transparent); }
.chip[data-sign="minus"] { --chip: #145cd2; }
.chip small { margin-left: 0.4em; opacity: 0.75; }
.lines p { margin: 0.3em 0; }
.tab-container button { padding-inline: 0.55em !important; }
button[aria-label="Share"] { display: none !important; }
"""
_INTRODUCTION = (
    "Ask about an image, then see what the answer came from. Each answer stands for itself: the "
    "model is shown the image and the question, not what was said before."
)


def build_app(model="bundled", *, concepts=None, question="", max_new_tokens=64, n_examples=8):
    """Build the app; :func:`launch` builds and serves it.

    Parameters
    ----------
    model : "bundled", str, path or ModelHandle, default="bundled"
        See :func:`~semi_nmf_concepts.lmm.load_model`. It loads with the first question.
    concepts : ConceptReport, str or path, default=None
        Concepts of this model, or the folder that ``ConceptReport.save`` wrote: with them there
        are views of the concepts behind an answer.
    question : str, default=""
        What stands in the field of the question at first. An empty one is the model's default:
        say what is there.
    max_new_tokens : int, default=64
        Longest answer, from 1 to 512, that visitors start with; they can change it.
    n_examples : int, default=8
        Bundled scenes, up to 40, that can be chosen instead of a picture of one's own; 0: none.

    Returns
    -------
    gradio.Blocks
        Not yet listening. Nothing is kept between visitors but the model.

    Raises
    ------
    ImportError
        Without Gradio (extra ``app``).
    ValueError, FileNotFoundError
        If `concepts` is no saved report, or an argument is not one of the above.

    Examples
    --------
    >>> from semi_nmf_concepts.app import build_app
    >>> app = build_app("bundled")
    >>> app.title
    'Seeing inside one answer'
    """
    from semi_nmf_concepts.lmm import load_model

    import_gradio()
    _check("max_new_tokens", max_new_tokens, 1, 512)
    _check("n_examples", n_examples, 0, 40)
    if not isinstance(question, str):
        raise TypeError(f"question must be a string, got {type(question).__name__}.")
    start = {"question": question, "max_new_tokens": max_new_tokens, "n_examples": n_examples}
    return _build(load_model(model), _load_concepts(concepts), start)


@in_event_loop
def _build(handle, report, start):
    gr = import_gradio()
    from . import _chat, _tabs

    with gr.Blocks(
        analytics_enabled=False,
        title="Seeing inside one answer",
        fill_width=True,
        delete_cache=(_DAY, _DAY),  # uploads and pictures
    ) as app:
        frame = Frame(gr, handle, report, gr.State(Session()))
        gr.Markdown(f"# Seeing inside one answer\n\n{_INTRODUCTION}")
        with gr.Row():
            with gr.Column(scale=2, min_width=340):
                chat = _chat.Chat(frame, **start)
            with gr.Column(scale=3, min_width=480):
                frame.add_controls()
                with gr.Tabs():
                    for title, tab in _tabs.TABS:
                        with gr.Tab(title):
                            tab(frame, chat)
        chat.connect()
        frame.connect()
    return app


def app_style():
    """Options of ``Blocks.launch`` for how the app looks; its fonts come with Gradio."""
    return {"theme": import_gradio().themes.Default(primary_hue="blue"), "css": _CSS}


def import_gradio():
    """Gradio, which must not report to its makers."""
    import os

    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            "The app needs Gradio; install it with: pip install 'semi_nmf_concepts[app]'"
        ) from error
    return gradio


def _check(name, value, least, most):
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be an integer from {least} to {most}, got {value!r}.")


def _load_concepts(concepts):
    from semi_nmf_concepts.grounding import ConceptReport

    if concepts is None or isinstance(concepts, ConceptReport):
        return concepts
    return ConceptReport.load(Path(concepts))


@dataclass
class Frame:
    """What the parts of the page share: the visitor's session, and the controls of all views.

    Attributes
    ----------
    gr : module
    model : ModelHandle
    report : ConceptReport or None
    session : gradio.State
    one_word, one_layer, one_head : list of gradio.Dropdown
        Choices of a single word, layer or head, which follow the chosen answer.
    emptied : list of components
        What shows results of the chosen answer, and is emptied when another one is.
    first : list of (function, inputs, outputs)
        Views that are drawn as soon as there is an answer.
    """

    gr: object
    model: object
    report: object
    session: object
    one_word: list = field(default_factory=list)
    one_layer: list = field(default_factory=list)
    one_head: list = field(default_factory=list)
    emptied: list = field(default_factory=list)
    first: list = field(default_factory=list)

    def add_controls(self):
        """Controls that hold for all views."""
        gr = self.gr
        self.answer = gr.Dropdown([], label="Answer", elem_id="answer", interactive=True)
        self.words = gr.CheckboxGroup(
            [], label="Words of the answer (none: all)", elem_id="words", interactive=True
        )
        with gr.Row():
            self.layer = gr.Dropdown([], label="Layer", elem_id="layer", min_width=110)
            self.head = gr.Dropdown([], label="Head", elem_id="head", min_width=110)
            self.opacity = gr.Slider(
                0, 1, 0.8, step=0.05, label="Opacity", elem_id="opacity", min_width=150
            )
            self.scale = gr.Dropdown(
                ["linear", "sqrt", "log"], value="linear", label="Scale", min_width=110
            )
            self.drop_sinks = gr.Checkbox(
                False, label="Without attention sinks", elem_id="sinks", min_width=110
            )

    def on(self, triggers, function, inputs, outputs, *, job=False, every=False):
        """Connect a handler; it is called with the session, the number of the answer, and `inputs`.

        A `job` runs the model, and waits until no other does. With `every`, an event that comes
        while the one before is still in work waits for it; it would be dropped otherwise.
        """
        return self.gr.on(
            triggers,
            reported(alone(function) if job else function),
            [self.session, self.answer, *inputs],
            outputs,
            trigger_mode="multiple" if every else None,
            **self.queue(job),
        )

    def queue(self, job):
        """Options of an event: one job at a time, and views are not kept waiting by jobs."""
        name = "job" if job else "view"
        return {
            "concurrency_id": name,
            "concurrency_limit": 1,
            "show_progress": "full" if job else "minimal",
            "api_visibility": "private",
        }

    def at_once(self, function, inputs, outputs):
        """A view that is drawn with a new answer, and whenever one of its inputs changes."""
        self.first.append((function, inputs, outputs))
        self.on([changed(component) for component in inputs], function, inputs, outputs)

    def upload(self, **options):
        """An image to upload, which handlers are given as the path of its file."""
        sources = ["upload", "clipboard"]
        image = self.gr.Image(type="filepath", sources=sources, buttons=[], **options)
        image.preprocess = _path_of  # a class of our own would make Gradio write a .pyi file
        return image

    def word(self, label="Word", **options):
        """A choice of one word of the chosen answer."""
        self.one_word.append(self.gr.Dropdown([], label=label, interactive=True, **options))
        return self.one_word[-1]

    def picture(self, **options):
        """A picture that is shown; it can be enlarged and downloaded, but not published."""
        return self.gr.Image(
            **{"interactive": False, "buttons": ["download", "fullscreen"], **options}
        )

    def plot(self, **options):
        """A figure; its title says what it is."""
        return self.gr.Plot(show_label=False, **options)

    def empty(self, *components):
        """Empty these when another answer is chosen."""
        self.emptied += components

    def then(self, event, function, inputs, outputs, *, job=False):
        """Go on with a handler after an event that went well."""
        return event.success(
            reported(alone(function) if job else function),
            [self.session, self.answer, *inputs],
            outputs,
            **self.queue(job),
        )

    def connect(self):
        """Let the choice of an answer change everything that shows it."""
        self.follow(self.on([self.answer.input], self.choices, [], self.chosen))
        self.on([self.words.input], self.same_word, [self.words], self.one_word)

    @property
    def looks(self):
        """How maps are drawn: opacity and scale."""
        return [self.opacity, self.scale]

    @property
    def new_looks(self):
        """The events that change it."""
        return [changed(component) for component in self.looks]

    @property
    def chosen(self):
        """The components that `choices` sets."""
        return [
            *(self.words, self.layer, self.head),
            *(*self.one_word, *self.one_layer, *self.one_head, *self.emptied),
        ]

    def choices(self, session, number):
        """What can be chosen of an answer, for `chosen`."""

        gr, trace = self.gr, session.trace(number)
        words = word_choices(trace.words)
        layer, head = trace.most_visual_head()
        return [
            gr.CheckboxGroup(words, value=[]),
            gr.Dropdown(layer_choices(trace), value="mean"),
            gr.Dropdown(head_choices(trace), value="mean"),
            *(gr.Dropdown(words, value=most_visual_word(trace)) for _ in self.one_word),
            *(gr.Dropdown(trace.layers, value=layer) for _ in self.one_layer),
            *(gr.Dropdown(list(range(trace.n_heads)), value=head) for _ in self.one_head),
            *(None for _ in self.emptied),
        ]

    def same_word(self, session, number, words):
        """Views of a single word follow the choice of words, if that is one."""
        return [words[0] if len(words) == 1 else self.gr.skip()] * len(self.one_word)

    def follow(self, event):
        """Draw the first views after an event that chose an answer."""
        for function, inputs, outputs in self.first:
            event = self.then(event, function, inputs, outputs)


def _path_of(payload):
    """The file behind an image, in place of what Gradio makes of it.

    It would fail without a reason where the file is broken, and unpack a huge one.
    """
    return None if payload is None else payload.path


def changed(component):
    """The event of a user who changed a component; of sliders, when they are let go."""
    return getattr(component, "release", component.input)
