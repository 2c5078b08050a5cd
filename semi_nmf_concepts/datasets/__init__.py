"""Images to run on: the bundled scenes with their known factors, the bundled model, and readers of
image folders."""

from ._bundled import bundled_model_path
from ._folder import load_image_folder
from ._scenes import load_scenes
from ._vocabulary import FACTOR_WORDS

__all__ = ["FACTOR_WORDS", "bundled_model_path", "load_image_folder", "load_scenes"]
