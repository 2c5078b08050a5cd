"""Two images, or two questions, side by side."""

from . import _views as views
from ._chat import WHOLE, ask_model


def compare_tab(frame, chat):
    """Ask twice, and draw both answers alike."""
    gr = frame.gr
    gr.Markdown(
        "Two images or two questions, answered with the parameters on the left. Both maps are "
        "drawn on one scale."
    )
    take = gr.Button("Take image and question from the left", size="sm", elem_id="take")
    images, questions = [], []
    with gr.Row():
        for name in ("first", "second"):
            with gr.Column(min_width=200):
                images.append(
                    frame.upload(label=f"The {name} image", height=200, elem_id=f"{name}-image")
                )
                questions.append(gr.Textbox(label="Question", elem_id=f"{name}-question"))
    compare = gr.Button("Compare", variant="primary", elem_id="compare")
    rows = gr.Dataframe(
        headers=["", "first", "second"], interactive=False, elem_id="comparison", wrap=True
    )
    kind = gr.Radio(
        [("attention", "attention"), ("relevancy, language model", "language")],
        value="attention",
        label="Map",
    )
    words, pictures = [], []
    with gr.Row():
        for name in ("first", "second"):
            with gr.Column(min_width=200):
                words.append(gr.Dropdown([], label="Word", elem_id=f"{name}-word"))
                pictures.append(frame.picture(label=f"The {name} map"))

    def both(session, number, first, second, ask_first, ask_second, *sampling):
        model = frame.model
        session.compared = [
            ask_model(model, first, WHOLE, ask_first, *sampling),
            ask_model(model, second, WHOLE, ask_second, *sampling),
        ]
        choices = [
            gr.Dropdown([("all", -1), *views.word_choices(trace.words)], value=-1)
            for trace in session.compared
        ]
        return views.comparison_rows(session.compared), *choices

    def draw(session, number, first, second, kind, *looks):
        if len(session.compared) != 2:
            raise ValueError("There is nothing to compare yet: choose two images, then Compare.")
        return views.compared_pictures(
            [
                _map(trace, None if word in (None, -1) else word, kind)
                for trace, word in zip(session.compared, (first, second), strict=True)
            ],
            *looks,
        )

    inputs = [*words, kind, *frame.looks]
    event = frame.on(
        [compare.click],
        both,
        [*images, *questions, *chat.sampling],
        [rows, *words],
        job=True,
    )
    frame.then(event, draw, inputs, pictures, job=True)
    frame.on([kind.input, *(word.input for word in words)], draw, inputs, pictures, job=True)
    frame.on(
        [take.click],
        lambda session, number, image, question: (image, image, question, question),
        [chat.image, chat.question],
        [*images, *questions],
    )


def _map(trace, word, kind):
    from semi_nmf_concepts.attention import relevancy

    if kind == "attention":
        return trace.image_attention(word)
    return relevancy(trace, word, kind).map()
