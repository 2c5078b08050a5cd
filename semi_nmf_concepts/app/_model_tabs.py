"""Views that run the model again: relevancy, the causal graph, faithfulness."""

from . import _views as views
from ._session import chosen


def relevancy_tab(frame, chat):
    """Gradient-weighted attention relevancy of one word."""
    gr = frame.gr
    gr.Markdown(
        "Attention weighed by the gradient of the word's logit, carried through all layers: what "
        "the word came from, not only where heads looked."
    )
    with gr.Row():
        word = frame.word(elem_id="relevancy-word")
        through = gr.Radio(
            [("language model", "language"), ("vision encoder", "vision"), ("both", "both")],
            value="language",
            label="Through",
            elem_id="through",
        )
    show = gr.Button("Show relevancy", variant="primary", elem_id="show-relevancy")
    picture = frame.picture(label="Relevancy", elem_id="relevancy", height=400)
    text = gr.HTML(elem_id="shares", elem_classes=["lines"])
    top = gr.HTML(elem_id="relevant-words")

    def draw(session, number, word, through, *looks):
        found = relevancy_of(session, number, word, through)
        words = [] if through == "vision" else found.top_words(word, 8)
        chips = views.word_chips(*zip(*words, strict=True), "Relevancy of words") if words else ""
        return views.map_picture(found.map(word), *looks), views.share_text(found), chips

    def again(session, number, word, through, *looks):
        found = session.known(number, ("relevancy", word, through))
        return gr.skip() if found is None else views.map_picture(found.map(word), *looks)

    inputs = [word, through, *frame.looks]
    frame.on([show.click, word.input, through.input], draw, inputs, [picture, text, top], job=True)
    frame.on(frame.new_looks, again, inputs, [picture])
    frame.empty(picture, text, top)


def relevancy_of(session, number, word, through):
    """Relevancy of one word of an answer, computed once."""
    from semi_nmf_concepts.attention import relevancy

    trace, word = session.trace(number), chosen(word)
    what = ("relevancy", word, through)
    return session.once(number, what, lambda: relevancy(trace, word, through))


def causal_tab(frame, chat):
    """The causal graph of one word in one head."""
    gr = frame.gr
    gr.Markdown(
        "A causal graph over the most attended patches and words, read from one head as if its "
        "attention were data (CLEANN). The number of records is a free parameter of the method."
    )
    with gr.Row():
        word = frame.word(elem_id="causal-word")
        layer = gr.Dropdown([], label="Layer", min_width=90, interactive=True)
        head = gr.Dropdown([], label="Head", min_width=90, interactive=True)
    with gr.Row():
        alpha = gr.Number(0.01, label="alpha", min_width=90, elem_id="alpha")
        records = gr.Number(128, label="Records", precision=0, min_width=90)
        threshold = gr.Slider(0, 0.2, 0.01, step=0.005, label="Least attention", min_width=120)
        radius = gr.Slider(1, 3, 3, step=1, label="Radius", min_width=120, elem_id="radius")
    frame.one_layer.append(layer)
    frame.one_head.append(head)
    show = gr.Button("Show the graph", variant="primary", elem_id="show-graph")
    plot = frame.plot(label="Causal graph", elem_id="graph")
    text = gr.HTML(elem_id="explained-by", elem_classes=["lines"])
    picture = frame.picture(label="Patches that explain", height=320)
    rows = gr.Dataframe(
        headers=["kind", "what", "radius", "weight"],
        datatype=["str", "str", "number", "number"],
        interactive=False,
        elem_id="explanation",
    )

    def draw(session, number, radius, opacity, scale, *settings):
        graph, radius = causal_graph_of(session, number, *settings), int(radius)
        return (
            graph.plot(radius=radius),
            views.explanation_text(graph, radius),
            views.map_picture(graph.map(radius), opacity, scale),
            views.explanation_rows(graph, radius),
        )

    def again(session, number, radius, opacity, scale, *settings):
        if session.known(number, ("causal", *settings)) is None:
            return [gr.skip()] * 4
        return draw(session, number, radius, opacity, scale, *settings)

    inputs = [radius, *frame.looks, word, layer, head, records, alpha, threshold]
    outputs = [plot, text, picture, rows]
    frame.on([show.click], draw, inputs, outputs, job=True)
    frame.on([radius.release, *frame.new_looks], again, inputs, outputs)
    frame.empty(*outputs)


def causal_graph_of(session, number, *settings):
    """The causal graph of one word of an answer, computed once."""
    from semi_nmf_concepts.attention import causal_graph

    trace = session.trace(number)
    word, layer, head, n_records, alpha, threshold = settings
    return session.once(
        number,
        ("causal", *settings),
        lambda: causal_graph(
            trace, chosen(word), layer, head, n_records, alpha, threshold=threshold
        ),
    )


def faithfulness_tab(frame, chat):
    """Whether a map is right: patches taken away or put back in its order."""
    gr = frame.gr
    gr.Markdown(
        "Patches are taken from the image, or put into an empty one, in the order of a map, and "
        "the word's probability is followed. A faithful map beats random ones."
    )
    with gr.Row():
        word = frame.word(elem_id="faithfulness-word")
        kind = gr.Radio(
            [
                ("attention, as chosen above", "attention"),
                ("relevancy, language model", "language"),
                ("relevancy, both", "both"),
            ],
            value="language",
            label="Map",
            elem_id="faithfulness-map",
        )
    show = gr.Button("Show the curves", variant="primary", elem_id="show-curves")
    plot = frame.plot(label="Deletion and insertion", elem_id="curves")
    rows = gr.Dataframe(
        headers=["area", "this map", "random maps"], interactive=False, elem_id="areas"
    )

    def draw(session, number, word, kind, layer, head, drop_sinks):
        from semi_nmf_concepts.attention import deletion_insertion

        trace, word = session.trace(number), chosen(word)
        if kind == "attention":
            found = trace.image_attention(word, layer, head, drop_sinks=drop_sinks)
        else:
            found = relevancy_of(session, number, word, kind).map(word)
        curves = deletion_insertion(trace, found, word=word)
        return curves.plot(), views.area_rows(curves)

    inputs = [word, kind, frame.layer, frame.head, frame.drop_sinks]
    frame.on([show.click], draw, inputs, [plot, rows], job=True)
    frame.empty(plot, rows)
