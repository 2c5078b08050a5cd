"""The left side of the app: an image, perhaps cropped, a question, and what was said."""

import html
from pathlib import Path

from ._views import crop_of_corners, cropped, shown_size, token_rows

_THUMBNAIL = 192  # pixels of an image in the conversation
WHOLE = (0, 0, 100, 100)  # left, top, right, bottom in percent
_MESSAGES = 40  # of the conversation that are shown


class Chat:
    """The components of the left side and what they do.

    Attributes
    ----------
    image : gradio.Image
    crop : list of gradio.Slider
        left, top, right, bottom in percent.
    question : gradio.Textbox
    sampling : list of components
        Longest answer, temperature, top-p, seed.
    """

    def __init__(self, frame, question, max_new_tokens, n_examples):
        self.frame, gr = frame, frame.gr
        self.examples = _examples(n_examples)
        self.image = frame.upload(label="Image", height=300, elem_id="image")
        with gr.Accordion("Crop", open=False, elem_id="crop"):
            gr.Markdown("Click two opposite corners on the image, or set the edges in percent.")
            with gr.Row():
                self.crop = [
                    gr.Slider(0, 100, value, step=1, label=label, min_width=120)
                    for label, value in (("left", 0), ("top", 0), ("right", 100), ("bottom", 100))
                ]
            self.preview = frame.picture(
                label="What the model is shown", height=200, elem_id="preview"
            )
        self.gallery = None
        if self.examples:
            with gr.Accordion("Examples", open=True):
                self.gallery = gr.Gallery(
                    [(picture, name) for name, picture in self.examples],
                    columns=4,
                    height=180,
                    allow_preview=False,
                    show_label=False,
                    elem_id="examples",
                    buttons=[],
                )
        self.question = gr.Textbox(
            question,
            label="Question",
            placeholder="empty: the model says what it sees",
            elem_id="question",
            lines=1,
            max_lines=4,
        )
        self.ask = gr.Button("Ask", variant="primary", elem_id="ask")
        self.sampling = self._parameters(max_new_tokens)
        self.talk = gr.Chatbot(
            label="Conversation",
            elem_id="talk",
            height=320,
            render_markdown=False,
            buttons=[],
        )
        with gr.Accordion("Tokens of the answer", open=False):
            self.tokens = gr.Dataframe(
                headers=["token", "probability", "logit", "likeliest"],
                datatype=["str", "number", "number", "str"],
                interactive=False,
                elem_id="tokens",
            )

    def _parameters(self, max_new_tokens):
        gr = self.frame.gr
        with gr.Accordion("Parameters", open=False), gr.Row():
            return [
                gr.Slider(1, 512, max_new_tokens, step=1, label="Most tokens", min_width=120),
                gr.Slider(0, 2, 0, step=0.05, label="Temperature (0: likeliest)", min_width=120),
                gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", min_width=120),
                gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120),
            ]

    def connect(self):
        """Connect the events; the controls of the views have to exist."""
        frame, gr = self.frame, self.frame.gr
        frame.emptied.append(self.tokens)
        event = frame.on(
            [self.ask.click, self.question.submit],
            self.answer,
            [self.image, *self.crop, self.question, *self.sampling],
            [frame.session, self.talk, frame.answer, *frame.chosen],
            job=True,
        )
        frame.first.append((lambda session, n: token_rows(session.trace(n)), [], [self.tokens]))
        frame.follow(event)
        frame.on(
            [slider.release for slider in self.crop],
            self.show_crop,
            [self.image, *self.crop],
            [self.preview],
        )
        frame.on([self.image.input, self.image.clear], self.new_image, [self.image], self.crop)

        def corner(session, number, path, event: gr.SelectData):
            return self.click(session, path, event.index)

        self.talk.clear(
            lambda session: session.messages.clear(), [frame.session], [], **frame.queue(job=False)
        )
        outputs = [*self.crop, self.preview]
        frame.on([self.image.select], corner, [self.image], outputs, every=True)
        if self.gallery is not None:

            def example(session, number, event: gr.SelectData):
                return self.take_example(session, event.index)

            frame.on([self.gallery.select], example, [], [self.image, *self.crop])

    def answer(self, session, number, path, left, top, right, bottom, question, *sampling):
        """Ask the model; the answer is the newest of the session."""
        gr = self.frame.gr
        crop = (left, top, right, bottom)
        trace = ask_model(self.frame.model, path, crop, question, *sampling)
        number = session.add(trace)
        session.messages += messages(session, number, trace)
        del session.messages[:-_MESSAGES]
        return [
            session,
            session.messages,
            gr.Dropdown(session.choices(), value=number),
            *self.frame.choices(session, number),
        ]

    def show_crop(self, session, number, path, *crop):
        """The part of the image that the model is shown."""
        return None if path is None else cropped(read_image(path), *crop)

    def new_image(self, session, number, path):
        """A crop does not outlive its image; one that cannot be used says so at once."""
        session.corner = None
        if path is not None:
            read_image(path)
        return WHOLE

    def click(self, session, path, place):
        """A first corner is remembered; a second makes a crop."""
        skip = self.frame.gr.skip()
        if path is None or place is None:  # beside the picture
            return [skip] * 5
        if session.corner is None:
            session.corner = place
            return [skip] * 5
        image = read_image(path)
        crop = crop_of_corners(session.corner, place, image.size)
        session.corner = None
        return [*crop, cropped(image, *crop)]

    def take_example(self, session, i):
        """The file of an example, with the very pixels of the scene."""
        name, picture = self.examples[i]
        path = session.folder / f"{name}.png"
        picture.save(path)
        session.corner = None
        return [str(path), *WHOLE]


def ask_model(model, path, crop, question, max_new_tokens, temperature, top_p, seed):
    """One answer about the image in a file, with its trace."""
    if path is None:
        raise ValueError("There is no image: upload one, or choose an example.")
    from semi_nmf_concepts.attention import trace_answer

    return trace_answer(
        model,
        cropped(read_image(path), *crop),
        (question or "").strip() or None,
        max_new_tokens=int(max_new_tokens),
        temperature=float(temperature),
        top_p=float(top_p),
        random_state=None if seed is None else int(seed),
        image_names=[Path(path).name],
    )


def read_image(path):
    """RGB image of a file that was uploaded.

    Raises ValueError where it is none; visitors are told its name, not where the server keeps it.
    """
    from semi_nmf_concepts.lmm import check_image_size, to_rgb

    check_image_size(path)
    try:
        return to_rgb(path, 0)
    except ValueError as error:
        # The summary is without the advice, which is for those who give many images.
        summary = getattr(error, "summary", str(error))
        raise ValueError(summary.replace(str(path), Path(path).name)) from error


def messages(session, number, trace):
    """The conversation's part about one answer; text is escaped, because it is shown as HTML."""
    thumbnail = trace.images[0].resize(shown_size(trace.images[0], _THUMBNAIL))
    path = session.folder_of(number) / "thumbnail.png"
    thumbnail.save(path)
    question = trace.question or "(no question: the model says what it sees)"
    return [
        {
            "role": "user",
            "content": {"path": str(path), "alt_text": "the image that is asked about"},
        },
        {"role": "user", "content": html.escape(question)},
        {"role": "assistant", "content": html.escape(trace.answer)},
    ]


def _examples(n):
    """(name, picture) of bundled scenes, of as many different objects as there are."""
    if not n:
        return []
    from semi_nmf_concepts.datasets import load_scenes

    scenes = load_scenes("test", n=40 * n)
    objects = scenes.factors["object"].tolist()
    first = [i for i, name in enumerate(objects) if name not in objects[:i]]
    others = [i for i in range(len(objects)) if i not in first]
    return [(f"scene {i}", scenes.images[i]) for i in (first + others)[:n]]
