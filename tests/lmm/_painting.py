"""Paint one place of an image, and see which image tokens and encoder states change.

The vision encoder is made position-wise first: what its attention layers add is nothing, so that a
state depends on its own patch only. Resampling carries paint a little way beyond its edges.
"""

import re
from contextlib import contextmanager, suppress

import numpy as np
import torch
from PIL import Image

from semi_nmf_concepts._quiet import quiet_transformers
from semi_nmf_concepts.lmm import find_patch_grids
from semi_nmf_concepts.lmm._prompt import encode_prompts, render_prompt

# Of the side of a box: how far from its border the paint stays, and how far it may be carried.
MARGIN = 0.36
_OUTPUTS = r"(attn|attention)\.(out_proj|proj|o_proj|projection|projection_layer)$"
_VISION = r"(^|\.)(vision_tower|vision_model|visual|vision_encoder)\."


def make_position_wise(model):
    """Attention layers of the vision encoder add zeros."""
    names = [
        name
        for name, module in model.named_modules()
        if re.search(_VISION, name) and re.search(_OUTPUTS, name)
    ]
    assert names, "no attention layers found"
    with torch.no_grad():
        for name in names:
            for parameter in model.get_submodule(name).parameters():
                parameter.zero_()


def encode(loaded, images):
    """Inputs of one prompt with all `images`."""
    with quiet_transformers():
        prompt = render_prompt(loaded.processor, "what ?", n_images=len(images))
        return encode_prompts(loaded, [images], [prompt])


@contextmanager
def _recorded(model):
    """Yield {name of an attention layer of the vision encoder: its states, in order of calls}."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    names = {module: name for name, module in model.named_modules() if re.search(_VISION, name)}
    calls, attend = {}, ALL_ATTENTION_FUNCTIONS["sdpa"]

    def recording(module, query, key, value, *args, **kwargs):
        if module in names:
            calls.setdefault(names[module], []).append(
                value.transpose(1, 2).flatten(2).flatten(0, 1)
            )
        return attend(module, query, key, value, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS["sdpa"] = recording
    try:
        yield calls
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
    for name in calls:
        calls[name] = torch.cat(calls[name])


class _Enough(Exception):
    """What is asked for is there; the language model need not run."""


def look(loaded, images):
    """(what enters the language model at every position, or key, states of each encoder layer)."""
    taken = []

    def keep(module, args, kwargs):
        if kwargs.get("cross_attention_states") is not None:  # picture by picture
            taken.append(kwargs["cross_attention_states"].flatten(0, 1).clone())
        elif kwargs["inputs_embeds"] is not None:  # those of the prompt, if an encoder reads it
            taken.append(kwargs["inputs_embeds"][0].clone())
        raise _Enough

    handle = loaded.model.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
    inputs = encode(loaded, images)
    try:
        with torch.no_grad(), _recorded(loaded.model) as states, suppress(_Enough):
            loaded.model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return taken[0] if taken else None, states


def flat(size):
    """An image of one colour, which no processor turns into zeros."""
    return Image.new("RGB", size, (70, 120, 40))


def inside(box, size, margin=MARGIN):
    """The middle of a box, in whole pixels of an image of `size`: left, top, right, bottom."""
    left, top, right, bottom = np.asarray(box) * np.tile(size, 2)
    across, down = margin * (right - left), margin * (bottom - top)
    x = sorted((round(left + across), round(right - across)))
    y = sorted((round(top + down), round(bottom - down)))
    return x[0], y[0], max(x[1], x[0] + 1), max(y[1], y[0] + 1)


def paint(image, region):
    """A copy with a region (left, top, right, bottom, in pixels) in another colour."""
    painted = image.copy()
    painted.paste((250, 30, 220), region)
    return painted


def changed(before, after):
    """Indices of the rows that differ, and all but rounding."""
    return set(np.flatnonzero(((before - after).abs().amax(dim=1) > 1e-5).cpu().numpy()))


def touched(boxes, region, size, margin=MARGIN):
    """(must, may): tokens whose boxes hold the region's middle, and those that it comes near."""
    left, top, right, bottom = np.asarray(region) / np.tile(size, 2)
    middle = (left + right) / 2, (top + bottom) / 2
    must, may = set(), set()
    for token, box in enumerate(boxes):
        if np.isnan(box).any():
            continue
        near = margin * (box[2:] - box[:2])
        if (box[:2] <= middle).all() and (middle <= box[2:]).all():
            must.add(token)
        low, high = box[:2] - near, box[2:] + near
        if left < high[0] and low[0] < right and top < high[1] and low[1] < bottom:
            may.add(token)
    return must, may


def sample(grid, n=4, seed=0):
    """Some tokens of every block, corners among them, fewer of each where there are many blocks."""
    random = np.random.default_rng(seed)
    n = n if len(grid.blocks) < 3 else 1
    chosen = []
    for block in grid.blocks:
        corners = random.permutation(block.tokens[[0, 0, -1, -1], [0, -1, 0, -1]])
        others = random.permutation(block.tokens.ravel())
        tokens = dict.fromkeys([*corners[: (n + 1) // 2], *others[: n // 2]])
        chosen += [(block, int(token)) for token in tokens if token >= 0]
    return chosen


def check_painting(loaded, images, which=0, tokens=sample):
    """Paint tokens of image `which` one by one; all that changes must be what the grid says.

    Parameters
    ----------
    loaded : LoadedModel
        With a position-wise vision encoder.
    images : list of PIL.Image.Image
        Of one colour.
    which : int, default=0
    tokens : callable, default=sample
        Which tokens of a grid to paint.

    Returns
    -------
    list of PatchGrid
    """
    size = images[which].size
    grids = find_patch_grids(loaded, encode(loaded, images), images)
    grid = grids[which]
    rows = [set(grid.encoder[[i]].indices) for i in range(len(grid.positions))]
    exact, (embeds, states) = _exact(grid), look(loaded, images)
    assert states, "no attention layer of the vision encoder was recorded"
    for block, token in tokens(grid):
        region = inside(grid.boxes[token], size)
        about = f"token {token} of {block.name!r}, image of {size}, paint at {region}"
        other = list(images)
        other[which] = paint(images[which], region)
        new_embeds, new_states = look(loaded, other)
        positions = changed(embeds, new_embeds)
        assert positions <= set(grid.positions), "a position that is not of this image changed"
        now = {int(np.searchsorted(grid.positions, position)) for position in positions}
        must, may = touched(grid.boxes, region, size)
        said = f"{about}: {sorted(now)} changed, not {sorted(must)} to {sorted(may)}"
        assert must & exact <= now & exact <= may, said
        assert token in now, said
        if token in exact and _is_whole(grid, block, token):
            assert now & set(block.tokens.ravel()) == {token}, said
        for layer, before in states.items():
            assert len(before) == grid.encoder.shape[1], layer
            moved = changed(before, new_states[layer])
            assert {i for i, row in enumerate(rows) if row & moved} == now, f"{about}, {layer}"
            assert token not in exact or rows[token] <= moved, f"{about}, {layer}"
    return grids


def _is_whole(grid, block, token):
    """Whether a box is not cut by the border of the image, near which there is no room to paint."""
    sides = grid.boxes[:, 2:] - grid.boxes[:, :2]
    largest = sides[block.tokens[block.tokens >= 0]].max(axis=0)
    return (sides[token] > 0.9 * largest).all()


def _exact(grid):
    """Tokens of blocks without interpolated states, which reach beyond the boxes of tokens."""
    largest, n = grid.encoder.max(axis=1).toarray().ravel(), np.diff(grid.encoder.indptr)
    tokens = [block.tokens[block.tokens >= 0] for block in grid.blocks]
    exact = [some for some in tokens if np.allclose(largest[some] * n[some], 1.0)]
    return set(np.concatenate([[], *exact]).astype(int))
