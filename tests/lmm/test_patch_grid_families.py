"""Which place of an image a token stands for, shown by painting it, in tiny models of families."""

import importlib.util

import numpy as np
import pytest
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from semi_nmf_concepts.lmm import find_patch_grids, load_model
from tests._families import FAMILIES
from tests.lmm import _painting
from tests.lmm._painting import (
    changed,
    check_painting,
    encode,
    flat,
    inside,
    look,
    make_position_wise,
    paint,
)

SIZES = [(300, 200), (170, 260)]
LONG = (960, 48)
KNOWN = [
    *("gemma3", "idefics3", "llava", "llava-next", "paligemma", "vipllava"),
    *("glm4v", "internvl", "llava-onevision", "mistral3", "pixtral", "smolvlm"),
    *("qwen2-vl", "qwen2.5-vl", "qwen3-vl"),
]
# Built like one of these, with another language model or processor.
VARIANTS = [
    *("llava-gpt2", "llava-opt", "paligemma2", "glm4.6v", "qwen3-vl-moe", "qwen3.5"),
    "qwen3.5-moe",
]
# Where torchvision is installed, these are processed by it, and by Pillow elsewhere.
BOTH = ["llava", "llava-next", "idefics3", "gemma3", "paligemma"]
QUERIES = ["blip2-opt", "instructblip", "instructblip-t5"]
CROPPED = ["llava", "vipllava"]
UNKNOWN = {
    "depalm-opt": "no patch grid: they are learned queries",
    "idefics2": "no patch grid: they are learned queries",
    "chameleon": "the patch grid of 'chameleon' models is not known; it is for .*'?llava",
}
VISION = pytest.mark.vision


def marked(names):
    return [
        pytest.param(name, marks=[VISION] if FAMILIES[name].needs_torchvision else [])
        for name in names
    ]


def few(grid):
    return _painting.sample(grid, n=2)


def has_torchvision():
    return importlib.util.find_spec("torchvision") is not None


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A family's tiny model, whose vision encoder looks at every patch by itself."""
    made = {}

    def load(name):
        if FAMILIES[name].needs_torchvision and not has_torchvision():
            pytest.skip("the processor needs torchvision")
        if name not in made:
            folder = FAMILIES[name].build(tmp_path_factory.mktemp("family") / "model")
            made[name] = load_model(str(folder), device="cpu", dtype="float32")
            make_position_wise(made[name].loaded.model)
        return made[name].loaded

    yield load
    for handle in made.values():
        handle.unload()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", marked(KNOWN))
def test_a_token_sees_its_place(name, size, load):
    (grid,) = check_painting(load(name), [flat(size)])
    assert grid.size == size
    placed = ~np.isnan(grid.boxes[:, 0])
    sums = grid.encoder.sum(axis=1)
    np.testing.assert_allclose(sums, placed)
    tokens = np.concatenate([block.tokens.ravel() for block in grid.blocks])
    assert sorted(tokens[tokens >= 0]) == np.flatnonzero(placed).tolist()


@pytest.mark.parametrize("name", marked(VARIANTS))
def test_a_token_of_a_variant_sees_its_place(name, load):
    check_painting(load(name), [flat(SIZES[0])], tokens=few)


@VISION
@pytest.mark.parametrize("name", BOTH)
def test_a_token_sees_its_place_by_torchvision(name, load):
    if not has_torchvision():
        pytest.skip("needs torchvision")
    loaded = load(name)
    assert loaded.processor.image_processor.backend == "torchvision"
    check_painting(loaded, [flat(SIZES[0])], tokens=few)


@pytest.mark.parametrize("name", marked(KNOWN))
def test_two_images_are_told_apart(name, load):
    loaded, images = load(name), [flat(size) for size in SIZES]
    for which in (0, 1):
        grids = check_painting(loaded, images, which, few)
    positions = np.concatenate([grid.positions for grid in grids])
    assert (np.diff(positions) > 0).all()
    ids = encode(loaded, images)["input_ids"][0]
    assert positions.tolist() == (ids == loaded.image_token_id).nonzero().ravel().tolist()
    assert [grid.size for grid in grids] == SIZES


@pytest.mark.parametrize("name", marked(KNOWN))
def test_a_very_long_image(name, load):
    loaded, images = load(name), [flat(LONG)]
    if name in ("idefics3", "smolvlm"):  # made 4 pixels high, and then larger: paint runs far
        (grid,) = find_patch_grids(loaded, encode(loaded, images), images)
    else:
        (grid,) = check_painting(loaded, images, tokens=few)
    placed = ~np.isnan(grid.boxes[:, 0])
    assert (grid.boxes[placed] >= 0).all()
    assert (grid.boxes[placed] <= 1).all()
    assert (grid.boxes[placed, :2] < grid.boxes[placed, 2:]).all()
    np.testing.assert_allclose(grid.coverage(np.ones((6, 20), bool)), placed)
    assert grid.to_pixels(np.ones(len(placed))).sum() == pytest.approx(placed.sum())


@pytest.mark.parametrize("name", marked(KNOWN))
def test_blocks_are_rectangles_side_by_side(name, load):
    loaded, images = load(name), [flat(SIZES[0])]
    (grid,) = find_patch_grids(loaded, encode(loaded, images), images)
    for block in grid.blocks:
        left, top, right, bottom = np.moveaxis(grid.boxes[block.tokens], -1, 0)
        np.testing.assert_allclose(left[:, 1:], right[:, :-1])
        np.testing.assert_allclose(top[1:], bottom[:-1])
        np.testing.assert_allclose(np.ptp(top, axis=1), 0)
        np.testing.assert_allclose(np.ptp(left, axis=0), 0)
    names = [block.name for block in grid.blocks]
    assert [name for name in names if not name.startswith("tile")] in (["image"], ["whole image"])
    whole = grid.blocks[names.index("image" if len(names) == 1 else "whole image")]
    left, top, right, bottom = grid.boxes[whole.tokens.ravel()].T
    # CLIP's processor cuts off what is beside the middle square.
    crop = (1 / 6, 0, 5 / 6, 1) if name in CROPPED else (0, 0, 1, 1)
    np.testing.assert_allclose((left.min(), top.min(), right.max(), bottom.max()), crop)


@pytest.mark.parametrize("name", marked(KNOWN))
def test_a_grid_that_does_not_fit_raises(name, load):
    loaded, images = load(name), [flat(SIZES[0])]
    inputs = encode(loaded, images)
    places = (inputs["input_ids"][0] == loaded.image_token_id).nonzero().ravel()
    inputs["input_ids"][0, places[1]] = loaded.tokenizer.eos_token_id
    n = len(places)
    with pytest.raises(ValueError, match=rf" make {n} image tokens, but the prompt has {n - 1}\."):
        find_patch_grids(loaded, inputs, images)
    if name == "llava-next":
        with pytest.raises(ValueError, match=r"prompt: 4 x 4 \+ 6 x \(8 \+ 1\) make 70 image"):
            find_patch_grids(loaded, inputs, images)
    with pytest.raises(ValueError, match="images"):
        find_patch_grids(loaded, encode(loaded, images), images * 2)


@pytest.mark.parametrize("name", QUERIES)
def test_queries_have_no_place_but_read_places(name, load, monkeypatch):
    loaded, image = load(name), flat(SIZES[0])
    (grid,) = find_patch_grids(loaded, encode(loaded, [image]), [image])
    assert np.isnan(grid.boxes).all()
    assert len(grid.positions) == 4
    assert grid.blocks == []
    for method, given in ((grid.to_pixels, np.ones(4)), (grid.coverage, np.ones((2, 3)))):
        with pytest.raises(ValueError, match=r"the image tokens are queries"):
            method(given)
    layers, attend = {}, ALL_ATTENTION_FUNCTIONS["sdpa"]

    def recording(module, query, key, value, *args, **kwargs):
        layers[module] = query.shape[2], key.shape[2]
        return attend(module, query, key, value, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", recording)
        look(loaded, [image])
    n_states = grid.patches.encoder.shape[1]
    crossing = [module for module, shape in layers.items() if shape == (4, n_states)]
    assert crossing == [loaded.model.get_submodule(name) for name in grid.query_layers]
    _, before = look(loaded, [image])
    assert before
    for patch in (0, 6, 15):
        region = inside(grid.patches.boxes[patch], image.size)
        _, after = look(loaded, [paint(image, region)])
        for layer, states in before.items():
            assert len(states) == n_states
            assert changed(states, after[layer]) == {grid.patches.positions[patch]}


@pytest.mark.parametrize("size", [*SIZES, (30, 30), LONG], ids=str)
def test_keys_of_cross_attention_see_their_places(size, load):
    """Of Mllama: tiles of 4 x 4 patches and a class token each, padded to the most tiles."""
    loaded = load("mllama")
    (grid,) = check_painting(loaded, [flat(size)])
    assert grid.positions.tolist() == list(range(4 * 17))
    placed = ~np.isnan(grid.boxes[:, 0])
    assert not placed[::17].any(), "class tokens"
    np.testing.assert_allclose(grid.encoder.sum(axis=1), placed)
    # The whole image and nothing else, each place once.
    np.testing.assert_allclose(grid.to_pixels(grid.coverage([[True]])).sum(), placed.sum())
    areas = (grid.boxes[placed, 2:] - grid.boxes[placed, :2]).prod(axis=1)
    assert areas.sum() == pytest.approx(1.0)
    n_tiles = {(300, 200): 4, (170, 260): 4, (30, 30): 1, LONG: 4}[size]
    assert len(grid.blocks) == n_tiles
    crossing = [loaded.model.get_submodule(name) for name in grid.cross_layers]
    blocks = loaded.model.model.language_model.layers
    assert crossing == [blocks[i].cross_attn for i in (1, 3)]


def test_keys_of_two_images_are_told_apart(load):
    loaded, images = load("mllama"), [flat(size) for size in SIZES]
    for which in (0, 1):
        grids = check_painting(loaded, images, which, few)
    assert [grid.positions[0] for grid in grids] == [0, 4 * 17]
    inputs = encode(loaded, images)
    with pytest.raises(ValueError, match=r"1 image\(s\) should have given 1 images.* have 2"):
        find_patch_grids(loaded, inputs, images[:1])
    places = (inputs["input_ids"][0] == loaded.image_token_id).nonzero().ravel()
    inputs["input_ids"][0, places[1]] = loaded.tokenizer.eos_token_id
    with pytest.raises(ValueError, match=r"a place for each of the 2 image\(s\), it has 1"):
        find_patch_grids(loaded, inputs, images)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_has_no_known_grid_is_refused(name, tmp_path):
    handle = load_model(str(FAMILIES[name].build(tmp_path / "model")), device="cpu")
    images = [flat(SIZES[0])]
    with pytest.raises(ValueError, match=UNKNOWN[name]):
        find_patch_grids(handle.loaded, encode(handle.loaded, images), images)
    handle.unload()


def _turned(grid):
    grid.boxes = grid.boxes[:, [1, 0, 3, 2]]


def _next_token(grid):
    tokens = grid.blocks[-1].tokens.ravel()
    grid.boxes[tokens] = np.roll(grid.boxes[tokens], 1, axis=0)


def _next_state(grid):
    grid.encoder = grid.encoder[np.roll(np.arange(len(grid.positions)), 1)]


def _too_large(grid):
    grid.boxes = grid.boxes * [0.8, 1, 0.8, 1]


@pytest.mark.parametrize("fault", [_turned, _next_token, _next_state, _too_large])
def test_painting_finds_faults(fault, load, monkeypatch):
    def faulty(*args):
        grids = find_patch_grids(*args)
        fault(grids[0])
        return grids

    monkeypatch.setattr(_painting, "find_patch_grids", faulty)
    with pytest.raises(AssertionError):
        check_painting(load("llava-next"), [flat(SIZES[0])])


@pytest.mark.parametrize("size", [(300, 200), (120, 400)], ids=str)
def test_crops_of_gemma3(size, load, monkeypatch):
    loaded = load("gemma3")
    settings = {
        "do_pan_and_scan": True,
        "pan_and_scan_min_crop_size": 32,
        "pan_and_scan_max_num_crops": 3,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    }
    monkeypatch.setattr(loaded.processor, "images_kwargs", settings)
    (grid,) = check_painting(loaded, [flat(size)])
    n = 2 if size[0] == 300 else 3
    names = ["whole image", *(f"crop {i + 1} of {n}" for i in range(n))]
    assert [block.name for block in grid.blocks] == names
    # Cut across the longer side, and every crop is all of the shorter one.
    longer, shorter = (0, 1) if size[0] > size[1] else (1, 0)
    for i, block in enumerate(grid.blocks[1:]):
        boxes = grid.boxes[block.tokens.ravel()]
        np.testing.assert_allclose(boxes[:, longer].min(), i / n, atol=2 / max(size))
        np.testing.assert_allclose(boxes[:, longer + 2].max(), (i + 1) / n, atol=2 / max(size))
        assert (boxes[:, shorter].min(), boxes[:, shorter + 2].max()) == (0, 1)
    # Beside an image that is not cut.
    check_painting(loaded, [flat((90, 90)), flat(size)], 1, few)
