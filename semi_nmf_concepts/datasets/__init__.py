"""Images to run on: the bundled scenes with their known factors, the bundled models, and readers
of image folders and data sets."""

from ._bundled import bundled_clip_path, bundled_model_path
from ._flickr30k import load_flickr30k
from ._folder import load_image_folder
from ._hf_dataset import load_hf_dataset
from ._karpathy import load_karpathy
from ._scenes import load_scenes
from ._vocabulary import FACTOR_WORDS
from ._vqav2 import load_vqav2

__all__ = [
    "FACTOR_WORDS",
    "bundled_clip_path",
    "bundled_model_path",
    "load_flickr30k",
    "load_hf_dataset",
    "load_image_folder",
    "load_karpathy",
    "load_scenes",
    "load_vqav2",
]
