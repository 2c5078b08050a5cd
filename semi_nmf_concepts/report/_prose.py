"""Sentences of the page that depend on how the report was made."""

from ._text import as_text, clean, is_number, number

_KINDS = {
    "SemiNMFConcepts": {"semi_nmf": True, "adjective": "sparse, non-negative"},
    "PCAConcepts": {
        "semi_nmf": False,
        "adjective": "orthogonal",
        "text": "Principal component analysis: orthogonal directions of largest variance; the "
        "activations are signed scores of the centred states.",
    },
    "KMeansConcepts": {
        "semi_nmf": False,
        "adjective": "cluster",
        "text": "K-means: a concept is the centre of a cluster of states; its activation is "
        "1 / (1 + distance to the centre).",
    },
    "SimpleConcepts": {
        "semi_nmf": False,
        "adjective": "single-image",
        "text": "A concept is the state of one image, of those with the largest norms; its "
        "activation is 1 / (1 + distance to that state).",
    },
}


def kind_of(settings):
    """Describe the decomposer; one that is not known here is named only."""
    name = settings.get("decomposer")
    text = (
        f"The states were decomposed by {clean(name)}." if name else "The states were decomposed."
    )
    return _KINDS.get(name, {"semi_nmf": False, "adjective": "", "text": text})


def layer_name(settings, provenance):
    """Name the layer in words: "decoder block 3", "the last decoder block", or a module name."""
    layer = settings.get("layer", provenance.get("layer"))
    if layer == "final_norm":
        return "the final norm"
    if is_number(layer) and float(layer) == int(layer):
        layer = int(layer)
        if layer == -1:
            return "the last decoder block"
        return f"decoder block {layer}" if layer >= 0 else f"decoder block {-layer} from the end"
    return clean(layer or provenance.get("module") or "the model")


def state_sentence(settings, provenance):
    """Tell which vector stands for an image."""
    token = clean(settings.get("token") or "")
    layer = layer_name(settings, provenance)
    position = settings.get("position", provenance.get("position"))
    if token and position in ("generated", None):
        return (
            f"An image is kept when “{token}” occurs in the caption that the model writes and, "
            f"where reference captions are known, in one of these. Its vector is the output of "
            f"{layer} at the position that predicts the first occurrence of the word: the state "
            "that decides to write it."
        )
    if token and position == "forced":
        return (
            f"The reference caption is fed to the model. The vector of an image is the output of "
            f"{layer} at the position that predicts the first “{token}” of this caption."
        )
    where = {"last": "the last position of the prompt", "mean": "all positions (their mean)"}
    return (
        f"The vector of an image is the output of {layer} at "
        f"{where.get(position, f'position {as_text(position)}')}."
    )


def variant_sentence(settings):
    """Tell which variant of the objective was minimised, or which other method was used."""
    kind = kind_of(settings)
    if not kind["semi_nmf"]:
        return kind["text"]
    params = settings.get("params") or {}
    parts = []
    if params.get("whiten"):
        parts.append(
            f"Here Z was centred and projected on {as_text(params['whiten'])} principal components "
            "of unit variance first, and the directions were mapped back to the model’s space."
        )
    elif params.get("center"):
        parts.append("Here the mean state was subtracted from Z first.")
    if is_number(params.get("n_active")):
        target = number(params["n_active"])
        parts.append(f"α was chosen so that about {target} concepts are active on an image.")
    elif is_number(params.get("alpha")):
        unit = (
            " times the median norm of the states"
            if params.get("alpha_scale") == "relative"
            else ""
        )
        parts.append(
            f"Here α = {as_text(params['alpha'])}{unit}; a larger α lets fewer concepts be active."
        )
    return " ".join(parts)


def grounding_note(settings):
    """Tell the options of the text grounding that change what the words mean."""
    options = settings.get("grounding") or {}
    parts = []
    if options.get("subtract_mean"):
        parts.append(
            "The mean of all concepts was subtracted from each first, so that words which all of "
            "them promote drop out."
        )
    if options.get("final_norm"):
        parts.append("The model’s final norm was applied to the direction first.")
    return " ".join(parts)
