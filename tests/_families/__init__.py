"""Tiny random models of every family that transformers loads as image-text-to-text.

Each builder saves a model, its processor and tokenizer under a folder, exactly as a real checkpoint
of the family is saved, with a few ten thousand random weights. What they write is word salad, but
it depends on the image and on the words so far.
"""

from tests._families import _idefics_gemma, _llava_qwen

# name -> Family
FAMILIES = {**_llava_qwen.FAMILIES, **_idefics_gemma.FAMILIES}
