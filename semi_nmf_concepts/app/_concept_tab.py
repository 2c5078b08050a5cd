"""The concepts behind an answer: at work for a word, where in the image, and taken away."""

from . import _views as views
from ._session import chosen

_WITHOUT_CONCEPTS = (
    "No concepts are loaded. Fit some, save the report (`report.save(folder)`, or "
    "`semi-nmf-concepts concepts ... --out folder`), and start the app with `--concepts folder`."
)

N_CONTROLS = 5  # other concepts, to compare an ablation with


def concepts_tab(frame, chat):
    """Which concepts were active for a word, where, and what happens without one."""
    gr = frame.gr
    if frame.report is None:
        gr.Markdown(_WITHOUT_CONCEPTS, elem_id="no-concepts")
        return
    gr.Markdown(
        "Concepts at work while a word was written, the patches that raise one, its words and the "
        "images that activate it most. Without it, does the answer change?"
    )
    with gr.Row():
        word = frame.word(elem_id="concept-word")
        show = gr.Button("Show the concepts", variant="primary", elem_id="show-concepts")
    plot = frame.plot(label="Activations", elem_id="activations")
    rows = gr.Dataframe(
        headers=["concept", "words", "activation"],
        datatype=["number", "str", "number"],
        interactive=False,
        elem_id="active-concepts",
    )
    explained = gr.HTML(elem_id="explained", elem_classes=["lines"])
    concept = gr.Dropdown(
        views.concept_choices(frame.report), value=0, label="Concept", elem_id="concept"
    )

    def activations(session, number, word):
        trace, found = session.trace(number), activations_of(frame.report, session, number, word)
        active = found.top(word, 1)
        return (
            found.plot(),
            views.concept_rows(found, word),
            views.explained_text(found, trace, word),
            active[0][0] if active else 0,
        )

    outputs = [plot, rows, explained, concept]
    event = frame.on([show.click, word.input], activations, [word], outputs, job=True)
    frame.empty(plot, rows, explained)
    _one_concept(frame, event, word, concept)
    _ablation(frame, concept)


def activations_of(report, session, number, word):
    """Concepts at every token of an answer, with maps for one word, computed once."""
    from semi_nmf_concepts.attention import concept_activation_map

    trace, word = session.trace(number), chosen(word)
    return session.once(
        number,
        ("concepts", word),
        lambda: concept_activation_map(trace, report, words=word, top=None),
    )


def _one_concept(frame, event, word, concept):
    """Its words, its map for the word, and its images; `event` chooses the most active one."""
    gr, report = frame.gr, frame.report
    words = gr.HTML(elem_id="concept-words", elem_classes=["lines"])
    with gr.Row():
        picture = frame.picture(label="Patches that raise it", elem_id="concept-map")
        examples = gr.Gallery(label="Images that activate it most", columns=3, buttons=[])

    def draw(session, number, word, k, *looks):
        found = activations_of(report, session, number, word)
        own = report.concepts[k]
        chips = views.word_chips(own.words, own.word_scores, f"Words of concept {k}")
        if (word, k) not in found.image:
            chips += views.lines("It is not active for this word.")
        return chips, views.concept_map(found, k, word, *looks), views.concept_gallery(report, k)

    def again(session, number, word, k, *looks):
        found = session.known(number, ("concepts", word))
        return gr.skip() if found is None else views.concept_map(found, k, word, *looks)

    inputs, outputs = [word, concept, *frame.looks], [words, picture, examples]
    frame.then(event, draw, inputs, outputs, job=True)
    frame.on([concept.input], draw, inputs, outputs, job=True)
    frame.on(frame.new_looks, again, inputs, [picture])
    frame.empty(*outputs)


def _ablation(frame, concept):
    """The answer without a concept."""
    gr, report = frame.gr, frame.report
    with gr.Row():
        scale = gr.Slider(
            0, 3, 0, step=0.1, label="Multiply its activation by (0: remove it)", min_width=200
        )
        ablate = gr.Button("Answer again", elem_id="ablate")
    text = gr.HTML(elem_id="ablation", elem_classes=["lines"])
    rows = gr.Dataframe(
        headers=["token", "logit before", "after", "control", "probability before", "after"],
        datatype=["str", "number", "number", "number", "number", "number"],
        interactive=False,
        elem_id="ablation-rows",
    )

    def change(session, number, k, scale):
        from semi_nmf_concepts.attention import ablate_concept

        found = ablate_concept(session.trace(number), report, k, scale, n_controls=N_CONTROLS)
        return views.ablation_text(found), views.ablation_rows(found)

    frame.on([ablate.click], change, [concept, scale], [text, rows], job=True)
    frame.empty(text, rows)
