"""Image tokens and their places: the record, the geometry of LLaVA's processors, bad input."""

import numpy as np
import pytest
import torch
from PIL import Image

from semi_nmf_concepts.datasets import bundled_model_path
from semi_nmf_concepts.lmm import Block, PatchGrid, find_patch_grids, load_model
from tests._families import FAMILIES
from tests.lmm._painting import check_painting, encode, flat, make_position_wise


def grid_of(boxes, size=(60, 40)):
    boxes = np.array(boxes, dtype=float)
    n = len(boxes)
    return PatchGrid(np.arange(n), boxes, [Block("image", np.arange(n)[None])], None, size)


@pytest.fixture
def overlapping():
    """A whole image as one token, its left third as another, and one without a place."""
    return grid_of([[0, 0, 1, 1], [0, 0, 1 / 3, 1], [np.nan] * 4])


@pytest.mark.parametrize("size", [None, (60, 40), (7, 5), (1, 1), (200, 3)])
def test_the_sum_of_a_density_is_that_of_the_values(overlapping, size):
    density = overlapping.to_pixels([2.0, 3.0, 50.0], size)
    assert density.shape == ((40, 60) if size is None else size[::-1])
    assert density.sum() == pytest.approx(5.0)


def test_a_density_lies_where_the_boxes_are(overlapping):
    density = overlapping.to_pixels([2.0, 3.0, 50.0], (6, 2))
    expected = np.full((2, 6), 2 / 12)
    expected[:, :2] += 3 / 4
    np.testing.assert_allclose(density, expected)
    np.testing.assert_allclose(overlapping.to_pixels([0, 0, 1.0]), 0.0)


def test_pixels_are_shared_by_the_boxes_that_cut_them():
    grid = grid_of([[0.0, 0.0, 0.3, 1.0], [0.3, 0.0, 1.0, 1.0]])
    np.testing.assert_allclose(grid.to_pixels([3.0, 0.7], (2, 1)), [[3.2, 0.5]])


def test_densities_are_those_of_a_slow_sum():
    random, fine = np.random.default_rng(0), 60
    starts, sides = random.integers(0, 40, (9, 2)), random.integers(1, 20, (9, 2))
    grid = grid_of(np.hstack([starts, starts + sides]) / fine)
    values, density = random.normal(size=9), np.zeros((fine, fine))
    for value, (x, y), (width, height) in zip(values, starts, sides, strict=True):
        density[y : y + height, x : x + width] += value / (width * height)
    np.testing.assert_allclose(grid.to_pixels(values, (fine, fine)), density)
    coarse = density.reshape(6, 10, 5, 12).sum(axis=(1, 3))
    np.testing.assert_allclose(grid.to_pixels(values, (5, 6)), coarse, atol=1e-12)


def test_coverage_is_the_share_of_a_box(overlapping):
    mask = np.zeros((4, 6), dtype=bool)
    mask[:2, :1] = True
    np.testing.assert_allclose(overlapping.coverage(mask), [2 / 24, 1 / 4, 0.0])
    np.testing.assert_allclose(overlapping.coverage(mask[:, :2]), [1 / 4, 1 / 2, 0.0])


def queries_of(weights):
    """A grid of two queries that read the class token and two patches."""
    patches = grid_of([[0, 0, 0.5, 1], [0.5, 0, 1, 1]])
    patches.encoder, patches.positions = np.eye(3)[1:], np.array([1, 2])
    nowhere = np.full((2, 4), np.nan)
    unread = PatchGrid(np.arange(2), nowhere, [], None, (60, 40), ["layer"], patches)
    return unread, unread if weights is None else unread.read_by(weights)


def test_values_of_queries_lie_where_they_read():
    unread, grid = queries_of([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    assert unread.encoder is None
    assert len(grid.boxes) == len(grid.blocks[0].tokens.ravel()) == 2
    np.testing.assert_allclose(grid.to_places([1.0, 2.0]), [2.3, 0.5])
    np.testing.assert_allclose(grid.to_pixels([2.3, 0.5], (2, 1)), [[2.3, 0.5]])
    random = np.random.default_rng(0)
    values, places = random.normal(size=(5, 4, 2)), random.normal(size=2)
    np.testing.assert_allclose(grid.to_places(values) @ places, values @ grid.from_places(places))
    assert grid.to_places(values.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(grid.coverage([[True, False]]), [1, 0])


def test_other_tokens_are_their_own_places(overlapping):
    values = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(overlapping.to_places(values), values)
    np.testing.assert_array_equal(overlapping.from_places(values), values)
    assert overlapping.place_encoder is overlapping.encoder
    with pytest.raises(ValueError, match="are no queries"):
        overlapping.read_by(np.eye(3))


@pytest.mark.parametrize("method", ["to_places", "from_places"])
def test_what_is_not_read_or_does_not_fit_is_not_carried(overlapping, method):
    unread, grid = queries_of(np.eye(3)[1:])
    with pytest.raises(ValueError, match="the image tokens are queries"):
        getattr(unread, method)([1.0, 2.0])
    for one, n in ((grid, 2), (overlapping, 3)):
        for wrong in (np.ones((n, n + 1)), 1.0):
            with pytest.raises(ValueError, match=f"one value for each of the {n} .* last axis"):
                getattr(one, method)(wrong)
    with pytest.raises(ValueError, match=r"weights must have the shape \(2, 3\) .*got \(2, 2\)"):
        unread.read_by(np.eye(2))


@pytest.mark.parametrize("values", [[1.0, 2.0], np.ones((3, 1)), 1.0])
def test_values_must_be_one_for_each_token(overlapping, values):
    with pytest.raises(ValueError, match="values must have one entry for each of the 3 image"):
        overlapping.to_pixels(values)


def test_a_mask_has_two_dimensions(overlapping):
    with pytest.raises(ValueError, match=r"mask must have the shape \(height, width\), got \(3,\)"):
        overlapping.coverage([True, False, True])


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A tiny LLaVA of 2 x 2 patches, whose vision encoder looks at every patch by itself."""
    folder = FAMILIES["llava"].build(tmp_path_factory.mktemp("llava") / "model")
    handle = load_model(str(folder), device="cpu", dtype="float32")
    make_position_wise(handle.loaded.model)
    yield handle.loaded
    handle.unload()


def extent(grid):
    return [*grid.boxes[:, :2].min(axis=0), *grid.boxes[:, 2:].max(axis=0)]


def find(loaded, *images):
    return find_patch_grids(loaded, encode(loaded, list(images)), list(images))


def test_the_bundled_model():
    loaded = load_model(str(bundled_model_path()), device="cpu", dtype="float32").loaded
    image = Image.new("RGB", (160, 80))
    (grid,) = find(loaded, image)
    assert [block.tokens.shape for block in grid.blocks] == [(7, 7)]
    np.testing.assert_array_equal(grid.blocks[0].tokens, np.arange(49).reshape(7, 7))
    # It squeezes the whole image into a square.
    np.testing.assert_allclose(extent(grid), [0, 0, 1, 1])
    np.testing.assert_allclose(grid.boxes[8], [1 / 7, 1 / 7, 2 / 7, 2 / 7])
    expected = np.zeros((49, 50))
    expected[np.arange(49), np.arange(1, 50)] = 1  # state 0 is the class token
    np.testing.assert_array_equal(grid.encoder.toarray(), expected)


@pytest.mark.parametrize("size", [(300, 200), (201, 333), (40, 40), (64, 301)], ids=str)
def test_what_clips_processor_cuts_off_is_in_no_box(llava, size):
    (grid,) = check_painting(llava, [flat(size)])
    short = min(size)
    scaled = [int(32 * length / short) for length in size]  # the shorter side becomes 32
    left, top = ((length - 32) // 2 for length in scaled)
    expected = [left, top, left + 32, top + 32] / np.tile(scaled, 2)
    np.testing.assert_allclose(extent(grid), expected)


@pytest.mark.parametrize(("scaled", "before"), [(25, 4), (24, 4), (33, 0)])
def test_what_clips_processor_pads_has_no_place(llava, monkeypatch, scaled, before):
    """A crop of 32 pixels of an image of `scaled` x 2 `scaled`, by Pillow."""
    processor = llava.processor.image_processor
    monkeypatch.setattr(processor, "size", {"shortest_edge": scaled})
    (grid,) = check_painting(llava, [flat((10 * scaled, 20 * scaled))])
    if processor.backend == "torchvision":
        before = (32 - scaled) // 2 if scaled < 32 else 0
    expected = np.clip(np.array([-before, 16 - before, 32 - before]) / scaled, 0, 1)
    np.testing.assert_allclose(grid.boxes[:2, [0, 2]], [expected[:2], expected[1:]])


@pytest.mark.vision
@pytest.mark.parametrize("scaled", [25, 24, 33])
def test_what_torchvision_pads_has_no_place(llava, monkeypatch, scaled):
    pytest.importorskip("torchvision")
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(
        size={"shortest_edge": scaled}, crop_size={"height": 32, "width": 32}
    )
    monkeypatch.setattr(llava.processor, "image_processor", processor)
    check_painting(llava, [flat((10 * scaled, 20 * scaled))])


@pytest.mark.parametrize("size", [(300, 200), (201, 300)], ids=str)
def test_an_image_that_is_padded_to_a_square(llava, monkeypatch, size):
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    side = {"height": 32, "width": 32}
    processor = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 32}, crop_size=side)
    monkeypatch.setattr(llava.processor, "image_processor", processor)
    (grid,) = check_painting(llava, [flat(size)])
    np.testing.assert_allclose(extent(grid), [0, 0, 1, 1])
    assert grid.boxes[0, 3] == pytest.approx(0.5, abs=0.01)


def test_what_is_no_whole_patch_is_not_seen(llava, monkeypatch):
    """36 pixels are two patches of 16."""
    side = {"height": 36, "width": 36}
    monkeypatch.setattr(llava.processor.image_processor, "size", side)
    monkeypatch.setattr(llava.processor.image_processor, "crop_size", side)
    monkeypatch.setattr(llava.model.model.vision_tower.embeddings, "image_size", 36)
    (grid,) = check_painting(llava, [flat((300, 200))])
    np.testing.assert_allclose(extent(grid), [0, 0, 32 / 36, 32 / 36])


def test_the_class_token_has_no_place(llava, monkeypatch):
    monkeypatch.setattr(llava.model.config, "vision_feature_select_strategy", "full")
    monkeypatch.setattr(llava.processor, "vision_feature_select_strategy", "full")
    images = [flat((300, 200)), flat((100, 100))]
    for grid in check_painting(llava, images, 1):
        assert np.isnan(grid.boxes).all(axis=1).tolist() == [True] + [False] * 4
        assert grid.encoder[[0]].nnz == 0
        np.testing.assert_array_equal(grid.blocks[0].tokens, [[1, 2], [3, 4]])


def test_videos_are_no_images(llava):
    """Some models write both with the same token, and say which is which."""
    image = flat((300, 200))
    inputs = encode(llava, [image])
    (before,) = find_patch_grids(llava, inputs, [image])
    more = torch.full((1, 3), llava.image_token_id)
    inputs["input_ids"] = torch.cat([more, inputs["input_ids"]], dim=1)
    with pytest.raises(ValueError, match=r"2 x 2 make 4 image tokens, but the prompt has 7\."):
        find_patch_grids(llava, inputs, [image])
    kinds = (inputs["input_ids"] == llava.image_token_id).long()
    kinds[0, :3] = 2
    (after,) = find_patch_grids(llava, {**inputs, "mm_token_type_ids": kinds}, [image])
    assert after.positions.tolist() == (before.positions + 3).tolist()


def test_several_rows_are_refused(llava):
    image = flat((300, 200))
    inputs = dict(encode(llava, [image]))
    inputs["input_ids"] = inputs["input_ids"].repeat(2, 1)
    with pytest.raises(ValueError, match="inputs must be those of one prompt, got 2 rows"):
        find_patch_grids(llava, inputs, [image])


def test_inputs_without_images_are_refused(llava):
    image = flat((300, 200))
    inputs = dict(encode(llava, [image]))
    del inputs["pixel_values"]
    with pytest.raises(ValueError, match="inputs must have 'pixel_values', got attention_mask"):
        find_patch_grids(llava, inputs, [image])
    with pytest.raises(ValueError, match="images must have at least one image, got none"):
        find_patch_grids(llava, inputs, [])


def test_images_that_are_not_those_of_the_prompt_are_refused(llava):
    image = flat((300, 200))
    inputs = encode(llava, [image])
    with pytest.raises(ValueError, match=r"2 image\(s\) should have given 2 pictures, but .* 1\."):
        find_patch_grids(llava, inputs, [image, image])


def test_a_vision_encoder_whose_states_are_not_known_is_refused(llava, monkeypatch):
    monkeypatch.setattr(llava.model.config.vision_config, "model_type", "dinov9")
    with pytest.raises(ValueError, match="a vision encoder of type 'dinov9' is not known; it is"):
        find(llava, flat((300, 200)))


def test_a_first_patch_that_is_dropped_is_refused(llava, monkeypatch):
    """As if a vision encoder without class token were told to drop it."""
    monkeypatch.setattr(llava.model.config.vision_config, "model_type", "siglip_vision_model")
    with pytest.raises(ValueError, match="not known where the first patch is dropped"):
        find(llava, flat((300, 200)))


def test_settings_that_do_not_give_these_pixels_are_refused(llava, monkeypatch):
    image = flat((300, 200))
    inputs = encode(llava, [image])
    monkeypatch.setattr(llava.processor.image_processor, "do_center_crop", False)
    with pytest.raises(ValueError, match="48 x 32 pixels of an image, but the inputs have 32 x 32"):
        find_patch_grids(llava, inputs, [image])


def test_llava_next_knows_the_sizes_of_its_images(tmp_path):
    handle = load_model(str(FAMILIES["llava-next"].build(tmp_path / "model")), device="cpu")
    image = flat((300, 200))
    inputs = encode(handle.loaded, [image])
    with pytest.raises(ValueError, match=r"of \[\(300, 200\)\], got \[\(300, 201\)\]"):
        find_patch_grids(handle.loaded, inputs, [flat((300, 201))])
    monkey = dict(inputs, pixel_values=inputs["pixel_values"][:, :3])
    with pytest.raises(ValueError, match="should have given 5 pictures, but the inputs have 3"):
        find_patch_grids(handle.loaded, monkey, [image])
    handle.unload()
