"""Images to run on: the bundled scenes with their known factors, the bundled models, and readers
of image folders and data sets."""

from ._bundled import bundled_clip_path, bundled_model_path
from ._folder import load_image_folder
from ._karpathy import load_karpathy
from ._scenes import load_scenes
from ._vocabulary import FACTOR_WORDS

__all__ = [
    "FACTOR_WORDS",
    "bundled_clip_path",
    "bundled_model_path",
    "load_image_folder",
    "load_karpathy",
    "load_scenes",
]
