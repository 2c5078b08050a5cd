"""What image processors do to an image, as geometry: scale, crop, pad, cut into tiles."""

import math

import numpy as np

from ._patch_pieces import View


def shape_only(size):
    """An array (3, height, width) that takes no memory, for functions which read shapes."""
    return np.broadcast_to(np.uint8(0), (3, size[1], size[0]))


def setting(processor, name):
    """What the processor passes to its image processor, or else what that one is set to."""
    if name in (getattr(processor, "images_kwargs", None) or {}):
        return processor.images_kwargs[name]
    return getattr(processor.image_processor, name, None)


def resized(wanted, size):
    """(width, height) of an image of `size`, scaled as `wanted`, the image processor's, says."""
    from transformers.image_transforms import (
        get_resize_output_image_size,
        get_size_with_aspect_ratio,
    )
    from transformers.image_utils import get_image_size_for_max_height_width

    shape = size[::-1]
    short, long = side(wanted, "shortest_edge"), side(wanted, "longest_edge")
    max_sides = side(wanted, "max_height"), side(wanted, "max_width")
    if short and long:
        new = get_size_with_aspect_ratio(shape, short, long)
    elif short:
        new = get_resize_output_image_size(
            shape_only(size), short, default_to_square=False, input_data_format="channels_first"
        )
    elif all(max_sides):
        new = get_image_size_for_max_height_width(shape, *max_sides)
    else:
        new = side(wanted, "height"), side(wanted, "width")
    return new[1], new[0]


def side(size, name):
    """An entry of a size, which is a dictionary or something with attributes, or None."""
    return size.get(name) if isinstance(size, dict) else getattr(size, name, None)


def scaled_and_cropped(processor, size, final, *, square=False):
    """View of an image of `size` as the image processor scales and crops it to `final`.

    `square`: padded to a square before, equally at both sides.
    """
    view = View.whole(size)
    if square:
        longest = max(size)
        view = view.moved(*(-((longest - length) // 2) for length in size))
        size = (longest, longest)
    if processor.do_resize:
        new_size = resized(processor.size, size)
        view, size = view.resized(size, new_size), new_size
    if getattr(processor, "do_center_crop", None):
        starts = (_crop_start(*pair, processor) for pair in zip(size, final, strict=True))
        view, size = view.moved(*starts), final
    if size != final:
        raise ValueError(
            f"the image processor's settings make {size[0]} x {size[1]} pixels of an image, but "
            f"the inputs have {final[0]} x {final[1]}; they must come from the model's processor."
        )
    return view


def _crop_start(length, crop, processor):
    """Where a centre crop begins; where it has to pad, the odd pixel is before or behind."""
    if crop > length and processor.backend == "torchvision":
        return -((crop - length) // 2)
    return (length - crop) // 2


def idefics_tiles(processor, size):
    """(rows, columns) of the tiles of Idefics3 and SmolVLM; (0, 0) where there is one picture."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        get_resize_output_image_size,
    )

    tile = side(processor.max_image_size, "longest_edge")
    width, height = size
    if processor.do_resize:
        longest = side(processor.size, "longest_edge")
        height, width = get_resize_output_image_size(shape_only(size), longest)
    ratio = width / height
    if width >= height:
        width = math.ceil(width / tile) * tile
        height = math.ceil(int(width / ratio) / tile) * tile
    else:
        height = math.ceil(height / tile) * tile
        width = math.ceil(int(height * ratio) / tile) * tile
    rows, cols = height // tile, width // tile
    return (rows, cols) if rows * cols > 1 else (0, 0)


def pan_and_scan_crops(processor, size):
    """(left, top, right, bottom) of Gemma 3's crops of an image of `size`, in pixels."""
    width, height = size
    shortest = setting(processor, "pan_and_scan_min_crop_size")
    ratio = max(size) / min(size)
    if ratio < setting(processor, "pan_and_scan_min_ratio_to_activate"):
        return []
    n = max(2, min(max(size) // shortest, math.floor(ratio + 0.5)))
    n = min(setting(processor, "pan_and_scan_max_num_crops"), n)
    across, down = (n, 1) if width >= height else (1, n)
    crop_width, crop_height = math.ceil(width / across), math.ceil(height / down)
    if min(crop_width, crop_height) < shortest:
        return []
    return [
        (left, top, min(left + crop_width, width), min(top + crop_height, height))
        for top in range(0, crop_height * down, crop_height)
        for left in range(0, crop_width * across, crop_width)
    ]
