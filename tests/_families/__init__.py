"""Tiny random models of every family that transformers loads as image-text-to-text.

Each builder saves a model, its processor and tokenizer under a folder, exactly as a real checkpoint
of the family is saved, with a few ten thousand random weights. What they write is word salad, but
it depends on the image and on the words so far.
"""

from functools import partial

from tests._families import _idefics_gemma, _llava_qwen
from tests._families._family import Family
from tests._tiny_depalm import build_tiny_depalm

_DEPALM = {
    f"depalm-{text_model}": Family(partial(build_tiny_depalm, text_model=text_model))
    for text_model in ("opt", "llama", "gpt2")
}
# name -> Family
FAMILIES = {**_llava_qwen.FAMILIES, **_idefics_gemma.FAMILIES, **_DEPALM}
