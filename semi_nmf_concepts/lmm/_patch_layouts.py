"""The order of the image tokens in every family of models, one function for each layout."""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np

from ._patch_pieces import Encoder, Piece, Queries, View, pooled
from ._patch_processing import (
    idefics_tiles,
    pan_and_scan_crops,
    resized,
    scaled_and_cropped,
    setting,
    shape_only,
    side,
)


@dataclass(frozen=True)
class Prepared:
    """What a layout is found from.

    Attributes
    ----------
    loaded : LoadedModel
    inputs : mapping of str to tensor
    sizes : list of tuple of int
        Width and height of the images as they were given to the processor.
    """

    loaded: object
    inputs: object
    sizes: list

    @property
    def config(self):
        """transformers.PreTrainedConfig: of the model."""
        return self.loaded.model.config

    @property
    def vision(self):
        """transformers.PreTrainedConfig: of the vision encoder."""
        return self.config.vision_config

    @property
    def processor(self):
        """transformers.ProcessorMixin"""
        return self.loaded.processor

    def input(self, name):
        """torch.Tensor: one of the inputs."""
        if name not in self.inputs:
            raise ValueError(f"inputs must have {name!r}, got {', '.join(sorted(self.inputs))}.")
        return self.inputs[name]

    def rows(self, name):
        """An input of one entry per image, as lists; it must have as many as there are images."""
        entries = self.input(name).tolist()
        self.check_count(len(entries), len(self.sizes), "images")
        return entries

    def check_sizes(self):
        """Where the inputs say how large the images were, it must be these images."""
        said = [(width, height) for height, width in self.rows("image_sizes")]
        if said != self.sizes:
            raise ValueError(f"images must be those of the inputs, of {said}, got {self.sizes}.")

    def check_count(self, n_inputs, n_expected, what):
        """The inputs must have what the images should have been turned into."""
        if n_inputs != n_expected:
            raise ValueError(
                f"the images do not fit the prompt: {len(self.sizes)} image(s) should have given "
                f"{n_expected} {what}, but the inputs have {n_inputs}."
            )


def lay_out(prepared):
    """(layout of each image: a list of pieces, number of encoder states).

    Raises
    ------
    ValueError
        If the order of the image tokens is not known for this type of model.
    """
    model_type = prepared.config.model_type
    if model_type in _NO_PLACE:
        raise ValueError(
            f"the image tokens of {model_type!r} models have no patch grid: "
            + _NO_PLACE[model_type]
        )
    if model_type not in _LAYOUTS:
        raise ValueError(
            f"the patch grid of {model_type!r} models is not known; it is for "
            f"{', '.join(sorted(_LAYOUTS))}."
        )
    return _LAYOUTS[model_type](prepared)


# Tokens that vision encoders put before those of their patches.
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


def _encoder(prepared, n_before=None):
    """The vision encoder, given pictures of the size that the inputs have."""
    vision = prepared.vision
    if n_before is None:
        if vision.model_type not in _CLASS_TOKENS:
            raise ValueError(
                f"the patch grid of {prepared.config.model_type!r} models with a vision encoder of "
                f"type {vision.model_type!r} is not known; it is for "
                f"{', '.join(sorted(_CLASS_TOKENS))}."
            )
        n_before = _CLASS_TOKENS[vision.model_type]
    height, width = prepared.input("pixel_values").shape[-2:]
    patch = vision.patch_size
    return Encoder((width, height), patch if isinstance(patch, int) else patch[0], n_before)


def _filling(size, encoder, rows=1, cols=1):
    """View of an image of `size` that is scaled to `rows` x `cols` of the encoder's pictures."""
    return View.whole(size).resized(size, (cols * encoder.size[0], rows * encoder.size[1]))


def _tiles(size, encoder, rows, cols, first, merge):
    """Pieces of `rows` x `cols` tiles that an image fills, row by row, from picture `first` on."""
    view, (width, height) = _filling(size, encoder, rows, cols), encoder.size
    return [
        encoder.piece(
            f"tile {row * cols + col + 1} of {rows * cols}",
            view.moved(col * width, row * height),
            first + row * cols + col,
            merge,
        )
        for row in range(rows)
        for col in range(cols)
    ]


def _llava(prepared):
    """LLaVA: one picture for each image, scaled and cropped; the first state is dropped, or not."""
    if prepared.vision.model_type == "pixtral":
        return _pixtral(prepared)
    encoder = _encoder(prepared)
    n_pictures = len(prepared.input("pixel_values"))
    prepared.check_count(n_pictures, len(prepared.sizes), "pictures")
    # VipLLaVA always drops it, which its configuration does not say.
    strategy = getattr(prepared.config, "vision_feature_select_strategy", "default")
    before = encoder.n_before - (strategy == "default")
    if before < 0:
        raise ValueError(
            "the patch grid is not known where the first patch is dropped, as "
            "vision_feature_select_strategy='default' does for an encoder without class token."
        )
    processor = prepared.processor.image_processor
    # Other processors pad, if at all, after the rest, and not images of one size.
    square = bool(hasattr(processor, "pad_to_square") and processor.do_pad)
    layouts = []
    for i, size in enumerate(prepared.sizes):
        view = scaled_and_cropped(processor, size, encoder.size, square=square)
        layouts.append([Piece.gap(before), encoder.piece("image", view, i)])
    return layouts, n_pictures * encoder.n_states


def _llava_next(prepared):
    """LLaVA-NeXT and OneVision: the whole image, then all tiles as one, without their padding."""
    encoder = _encoder(prepared)
    prepared.check_sizes()
    _check_tile_side(prepared, encoder)
    shapes = [_tile_shape(prepared, size, encoder) for size in prepared.sizes]
    n_pictures = [1 + rows * cols for rows, cols in shapes]
    prepared.check_count(prepared.input("pixel_values").shape[1], max(n_pictures), "pictures")
    layouts, first = [], 0
    for size, shape, n in zip(prepared.sizes, shapes, n_pictures, strict=True):
        whole = encoder.piece("whole image", _base_view(prepared, size, encoder, n), first)
        rest = _unpadded_tiles(prepared, size, shape, encoder, first + 1) if n > 1 else Piece.gap(1)
        layouts.append([whole, rest])
        first += n
    return layouts, first * encoder.n_states


def _check_tile_side(prepared, encoder):
    """Tiles go to the encoder as they were cut, which is so for all published checkpoints."""
    processor = prepared.processor.image_processor
    cut = side(processor.crop_size or {}, "height") or resized(processor.size, (1, 1))[1]
    if not cut == encoder.size[0] == encoder.size[1] == prepared.vision.image_size:
        raise ValueError(
            f"the patch grid is not known where tiles of {cut} pixels become pictures of "
            f"{encoder.size[0]} x {encoder.size[1]} pixels, and the vision encoder's image_size is "
            f"{prepared.vision.image_size}."
        )


def _tile_shape(prepared, size, encoder):
    """(rows, columns) of tiles; (0, 0) where several images of a prompt are not cut into tiles."""
    from transformers.image_processing_utils import select_best_resolution

    n_images = prepared.inputs.get("batch_num_images")
    if n_images is not None and int(n_images[0]) > 1:
        return 0, 0
    best = select_best_resolution(size[::-1], prepared.config.image_grid_pinpoints)
    return best[0] // encoder.size[1], best[1] // encoder.size[0]


def _base_view(prepared, size, encoder, n_pictures):
    """The whole image as one picture: squeezed into a square, or padded to one beside others."""
    if n_pictures > 1:
        return _filling(size, encoder)
    processor = prepared.processor.image_processor
    return scaled_and_cropped(processor, size, encoder.size, square=True)


def _unpadded_tiles(prepared, size, shape, encoder, first):
    """The tiles side by side, without the patches of padding; an end after every row."""
    from transformers.image_processing_utils import get_patch_output_size

    canvas = (shape[1] * encoder.size[0], shape[0] * encoder.size[1])
    height, width = get_patch_output_size(shape_only(size), canvas[::-1], "channels_first")
    view = View.whole(size).resized(size, (width, height))
    view = view.moved(-((canvas[0] - width) // 2), -((canvas[1] - height) // 2))
    states = np.block(
        [
            [encoder.states(first + row * shape[1] + col) for col in range(shape[1])]
            for row in range(shape[0])
        ]
    )
    top, left = _padding(size, states.shape)
    states = states[top : len(states) - top, left : states.shape[1] - left]
    view = view.moved(left * encoder.patch, top * encoder.patch)
    if not states.size:  # of a line, the model takes all rows for padding
        return Piece.gap(0)
    rows, cols = _limited(prepared, states.shape, encoder)
    cell = (encoder.patch * states.shape[1] / cols, encoder.patch * states.shape[0] / rows)
    boxes = view.boxes(rows, cols, *cell)
    weights = _interpolated(states, rows, cols) if states.shape != (rows, cols) else None
    states = states.reshape(-1, 1) if weights is None else weights
    return Piece("tiles", (rows, cols), boxes, states, row_ends=1)


def _padding(size, shape):
    """(rows, columns) of patches that the model takes for padding, at either side."""
    (width, height), (rows, cols) = size, shape
    if width / height > cols / rows:
        return (rows - int(round(height * (cols / width), 7))) // 2, 0
    return 0, (cols - int(round(width * (rows / height), 7))) // 2


def _limited(prepared, shape, encoder):
    """Rows and columns of tokens: OneVision scales down what is more than so many tiles."""
    limit = getattr(prepared.config, "vision_aspect_ratio", None)
    if limit is None:
        return shape
    n_tiles = int(limit.removeprefix("anyres_max_"))
    ratio = math.sqrt(shape[0] * shape[1] / (n_tiles * encoder.shape[0] ** 2))
    return shape if ratio <= 1.1 else tuple(int(n // ratio) for n in shape)


def _interpolated(states, rows, cols):
    """(cell, state, weight) of a grid of states that is scaled down bilinearly."""
    from scipy.sparse import csr_array, kron

    down, across = _bilinear(len(states), rows), _bilinear(states.shape[1], cols)
    weights = kron(csr_array(down), csr_array(across), format="coo")
    return weights.row, states.ravel()[weights.col], weights.data


def _bilinear(n_old, n_new):
    """(n_new, n_old): weights of bilinear sampling at the middles of the new cells."""
    at = np.clip((np.arange(n_new) + 0.5) * n_old / n_new - 0.5, 0, n_old - 1)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(n_old)))


def _qwen_vl(prepared):
    """Qwen-VL and GLM-V: native resolution, m x m patches to a token, states token by token."""
    return _native_resolution(prepared, lambda rows, cols: np.arange(rows * cols))


def _qwen2_5_vl(prepared):
    """Qwen2.5-VL: the same, but the encoder goes through the tokens window by window."""
    vision = prepared.vision
    window = vision.window_size // vision.spatial_merge_size // vision.patch_size

    def order(rows, cols):
        row, col = np.divmod(np.arange(rows * cols), cols)
        return np.lexsort((col, row, col // window, row // window))

    return _native_resolution(prepared, order)


def _native_resolution(prepared, order):
    """One picture for each image, of `image_grid_thw` patches.

    Parameters
    ----------
    prepared : Prepared
    order : callable
        Of rows and columns of tokens: the tokens, in the order in which the encoder has them.
    """
    merge = prepared.vision.spatial_merge_size
    layouts, first = [], 0
    for frames, height, width in prepared.rows("image_grid_thw"):
        if frames != 1:
            raise ValueError(f"an image must have one frame, got {frames} in image_grid_thw.")
        rows, cols = height // merge, width // merge
        place = np.argsort(order(rows, cols))
        states = first + place[:, None] * merge**2 + np.arange(merge**2)
        boxes = View.whole((cols, rows)).boxes(rows, cols, 1, 1)
        layouts.append([Piece("image", (rows, cols), boxes, states)])
        first += height * width
    prepared.check_count(len(prepared.input("pixel_values")), first, "patches")
    return layouts, first


def _idefics3(prepared):
    """Idefics3 and SmolVLM: tiles row by row, then the whole image; both fill their pictures."""
    processor, merge = prepared.processor.image_processor, prepared.config.scale_factor
    n_pictures = prepared.input("pixel_values").shape[1]
    tiles = functools.partial(idefics_tiles, processor)
    return _tiles_then_whole(prepared, _encoder(prepared, 0), merge, n_pictures, tiles)


def _internvl(prepared):
    """InternVL: tiles row by row, then the whole image, if there are several tiles."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    encoder, merge = _encoder(prepared, 1), round(1 / prepared.config.downsample_ratio)
    limits = [setting(prepared.processor, name) for name in ("min_patches", "max_patches")]

    def tiles(size):
        cols, rows = get_optimal_tiled_canvas(size[::-1], encoder.size[::-1], *limits)
        return rows, cols

    n_pictures = len(prepared.input("pixel_values"))
    return _tiles_then_whole(prepared, encoder, merge, n_pictures, tiles)


def _tiles_then_whole(prepared, encoder, merge, n_pictures, tiles):
    """Tiles row by row, then the whole image, if there are several tiles; all fill their pictures.

    Parameters
    ----------
    prepared : Prepared
    encoder : Encoder
    merge : int
        Patches to a side of a token.
    n_pictures : int
        Of all images in the inputs; one each means that no image was cut.
    tiles : callable
        From the size of an image to its rows and columns of tiles.
    """
    layouts, first = [], 0
    for size in prepared.sizes:
        rows, cols = tiles(size) if n_pictures > len(prepared.sizes) else (1, 1)
        pieces = _tiles(size, encoder, rows, cols, first, merge) if rows * cols > 1 else []
        name = "whole image" if pieces else "image"
        pieces.append(encoder.piece(name, _filling(size, encoder), first + len(pieces), merge))
        layouts.append(pieces)
        first += len(pieces)
    prepared.check_count(n_pictures, first, "pictures")
    return layouts, first * encoder.n_states


def _paligemma(prepared):
    """PaliGemma: one square picture for each image, which the image fills."""
    return _one_picture_each(prepared, _encoder(prepared))


def _one_picture_each(prepared, encoder):
    n_pictures = len(prepared.input("pixel_values"))
    prepared.check_count(n_pictures, len(prepared.sizes), "pictures")
    layouts = [
        [encoder.piece("image", _filling(size, encoder), i)]
        for i, size in enumerate(prepared.sizes)
    ]
    return layouts, n_pictures * encoder.n_states


def _blip2(prepared):
    """BLIP-2 and InstructBLIP: queries, which read one square picture for each image."""
    layouts, n_states = _one_picture_each(prepared, _encoder(prepared, 1))
    names = [name for name, _ in prepared.loaded.model.named_modules()]
    layers = [name for name in names if name.endswith(".crossattention.attention")]
    n_queries = prepared.config.num_query_tokens
    return [[Queries(n_queries, patches, layers)] for (patches,) in layouts], n_states


def _gemma3(prepared):
    """Gemma 3: the whole image, then crops of long ones, if wanted; squares of patches pooled."""
    encoder = _encoder(prepared)
    merge = encoder.shape[0] // math.isqrt(prepared.config.mm_tokens_per_image)
    n_pictures = len(prepared.input("pixel_values"))
    layouts, first = [], 0
    for size in prepared.sizes:
        crops = []
        if n_pictures > len(prepared.sizes):
            crops = pan_and_scan_crops(prepared.processor, size)
        name = "whole image" if crops else "image"
        pieces = [encoder.piece(name, _filling(size, encoder), first, merge)]
        for i, (left, top, right, bottom) in enumerate(crops):
            view = View.whole(size).moved(left, top)
            view = view.resized((right - left, bottom - top), encoder.size)
            label = f"crop {i + 1} of {len(crops)}"
            pieces.append(encoder.piece(label, view, first + 1 + i, merge))
        layouts.append(pieces)
        first += len(pieces)
    prepared.check_count(n_pictures, first, "pictures")
    return layouts, first * encoder.n_states


def _pixtral(prepared):
    """Pixtral and Mistral 3: native resolution, all images in one sequence of the encoder."""
    patch, merge = prepared.vision.patch_size, getattr(prepared.config, "spatial_merge_size", 1)
    layouts, first = [], 0
    for size, (height, width) in zip(prepared.sizes, prepared.rows("image_sizes"), strict=True):
        rows, cols = height // patch, width // patch
        states = pooled(first + np.arange(rows * cols).reshape(rows, cols), merge)
        view = View.whole(size).resized(size, (width, height))
        shape = (rows // merge, cols // merge)
        boxes = view.boxes(*shape, merge * patch, merge * patch)
        layouts.append([Piece("image", shape, boxes, states)])
        first += rows * cols
    return layouts, first


def _mllama(prepared):
    """Mllama: tiles of a canvas that the image fills up to its right or lower border.

    Tokens are the keys of cross-attention: of every picture, its class token and its patches, also
    of pictures of nothing where an image has fewer tiles than the most.
    """
    from transformers.models.mllama import image_processing_pil_mllama as mllama

    pixels = prepared.input("pixel_values")
    n_images, most, _, height, width = pixels.shape[1:]
    prepared.check_count(n_images, len(prepared.sizes), "images")
    encoder = Encoder((width, height), prepared.vision.patch_size, 1)
    # The encoder's attention sees every picture with states up to a multiple of 8.
    encoder = replace(encoder, n_after=-encoder.n_states % 8)
    shapes = mllama.get_all_supported_aspect_ratios(most)
    layouts, nothing = [], Piece.gap(encoder.shape[0] * encoder.shape[1])
    for i, (size, shape) in enumerate(
        zip(prepared.sizes, prepared.input("aspect_ratio_ids")[0].tolist(), strict=True)
    ):
        rows, cols = shapes[shape - 1]
        scaled = mllama.get_image_size_fit_to_canvas(
            *size[::-1], rows * height, cols * width, tile_size=height
        )
        view, n_tiles = View.whole(size).resized(size, scaled[::-1]), rows * cols
        pieces = []
        for tile in range(most):
            left, top = tile % cols * width, tile // cols * height
            name = f"tile {tile + 1} of {n_tiles}" if n_tiles > 1 else "image"
            piece = encoder.piece(name, view.moved(left, top), i * most + tile)
            pieces += [Piece.gap(1), piece if tile < n_tiles else nothing]
        layouts.append(pieces)
    return layouts, n_images * most * encoder.n_states


def find_cross_layers(model):
    """Names of the cross-attention modules by which images are read beside the prompt, in order.

    Empty for models whose prompt has the images in it.
    """
    if model.config.model_type != "mllama":
        return []
    return [name for name, _ in model.named_modules() if name.endswith(".cross_attn")]


_LAYOUTS = {
    "blip-2": _blip2,
    "gemma3": _gemma3,
    "glm46v": _qwen_vl,
    "glm4v": _qwen_vl,
    "idefics3": _idefics3,
    "instructblip": _blip2,
    "internvl": _internvl,
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_next,
    "mistral3": _pixtral,
    "mllama": _mllama,
    "paligemma": _paligemma,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen2_vl": _qwen_vl,
    "qwen3_5": _qwen_vl,
    "qwen3_5_moe": _qwen_vl,
    "qwen3_vl": _qwen_vl,
    "qwen3_vl_moe": _qwen_vl,
    "smolvlm": _idefics3,
    "vipllava": _llava,
}
_QUERIES = "they are learned queries, each of which reads the whole image."
_NO_PLACE = {
    "aria": _QUERIES,
    "depalm": _QUERIES,
    "idefics2": _QUERIES,
    "kosmos-2": _QUERIES,
}
