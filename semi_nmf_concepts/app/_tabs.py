"""The views of the chosen answer, one tab each; here those that only read its trace."""

import numpy as np

from . import _views as views
from ._compare import compare_tab
from ._concept_tab import concepts_tab
from ._export import export_tab
from ._model_tabs import causal_tab, faithfulness_tab, relevancy_tab


def heads_tab(frame, chat):
    """Attention mass of every head on the image or on the question."""
    gr = frame.gr
    gr.Markdown(
        "Mean, over the tokens of the chosen words, of the attention mass that each head of each "
        "layer puts on the image or on the question."
    )
    to = gr.Radio(
        [("image to answer", "image"), ("question to answer", "question")],
        value="image",
        label="Mass on",
        elem_id="heads-to",
    )
    plot = frame.plot(label="Heads and layers", elem_id="heads")

    def draw(session, number, words, to):
        return session.trace(number).heads_by_layers(to, words or None).plot()

    frame.at_once(draw, [frame.words, to], [plot])


def patches_tab(frame, chat):
    """Where the model looked while it wrote the chosen words, over all heads and in each."""
    gr = frame.gr
    gr.Markdown(
        "Attention to the image patches, averaged over the tokens of the chosen words. Below, "
        "every head of the layer, that with the largest mass on the image first; click one to "
        "choose it."
    )
    picture = frame.picture(label="Image patches", elem_id="patches", height=400)
    text = gr.HTML(elem_id="masses", elem_classes=["lines"])
    strip = gr.Gallery(
        label="Heads", columns=6, allow_preview=False, elem_id="strip", height=260, buttons=[]
    )

    def draw(session, number, words, layer, head, drop_sinks, opacity, scale):
        trace, words = session.trace(number), words or None
        found = trace.image_attention(words, layer, head, drop_sinks=drop_sinks)
        return (
            views.map_picture(found, opacity, scale),
            views.mass_text(trace, words, layer, head, found),
        )

    def heads(session, number, words, layer, drop_sinks, opacity, scale):
        pictures = views.head_strip(
            session.trace(number),
            words or None,
            layer,
            drop_sinks=drop_sinks,
            opacity=opacity,
            scale=scale,
        )
        session.strip = [head for _, _, head in pictures]
        return [(picture, caption) for picture, caption, _ in pictures]

    def choose(session, number, event: gr.SelectData):
        return session.strip[event.index]

    looks = [frame.drop_sinks, *frame.looks]
    frame.at_once(draw, [frame.words, frame.layer, frame.head, *looks], [picture, text])
    frame.at_once(heads, [frame.words, frame.layer, *looks], [strip])
    event = frame.on([strip.select], choose, [], [frame.head])
    frame.then(event, draw, [frame.words, frame.layer, frame.head, *looks], [picture, text])


def words_tab(frame, chat):
    """Which words looked at the patches that are clicked."""
    gr = frame.gr
    gr.Markdown(
        "Click patches of the image: each word shows its mean attention to them, in the chosen "
        "layer and head. A second click takes a patch out again."
    )
    picture = frame.picture(label="Patches", elem_id="clickable", buttons=[])
    clear = gr.Button("No patches", size="sm", elem_id="no-patches")
    chips = gr.HTML(elem_id="chips")

    def draw(session, number, layer, head):
        trace, patches = session.trace(number), session.patches.get(number, [])
        shown = views.patch_picture(trace.images[0], trace.grids[0], patches)
        if not patches:
            return shown, views.lines("No patch is chosen.")
        scores = trace.words_for_patches(patches, layer, head)
        return shown, views.word_chips(scores.words, scores.values, scores.label)

    def click(session, number, layer, head, event: gr.SelectData):
        trace, patch = session.trace(number), None
        if event.index is not None:  # None: beside the picture
            place = np.divide(event.index, views.shown_size(trace.images[0]))
            patch = views.patch_at(trace.grids[0], *place)
        chosen = session.patches.setdefault(number, [])
        if patch in chosen:
            chosen.remove(patch)
        elif patch is not None:
            chosen.append(patch)
        return draw(session, number, layer, head)

    def none(session, number, layer, head):
        session.patches.pop(number, None)
        return draw(session, number, layer, head)

    inputs, outputs = [frame.layer, frame.head], [picture, chips]
    frame.at_once(draw, inputs, outputs)
    frame.on([picture.select], click, inputs, outputs)
    frame.on([clear.click], none, inputs, outputs)


TABS = (
    ("Patches", patches_tab),
    ("Words", words_tab),
    ("Heads", heads_tab),
    ("Relevancy", relevancy_tab),
    ("Causal", causal_tab),
    ("Faithfulness", faithfulness_tab),
    ("Concepts", concepts_tab),
    ("Compare", compare_tab),
    ("Export", export_tab),
)
