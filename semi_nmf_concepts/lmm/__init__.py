"""Large multimodal models: loading one, and the state in which it chooses a word.

Images in, one row of features per image out: :class:`LMMTokenFeaturizer` writes a caption for every
image and returns the residual-stream state that predicts the token of interest.
"""

from .._lazy import attach

# Loaded at first use because torch and transformers are slow to import.
__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Answer": "_answer",
        "Block": "_patch_grid",
        "DePALMConfig": "depalm._configuration",
        "DePALMForConditionalGeneration": "depalm._modeling",
        "DePALMProcessor": "depalm._processing",
        "LMMTokenFeaturizer": "_featurizer",
        "LoadedModel": "_loading",
        "ModelHandle": "_handle",
        "NoSampleKeptError": "_representations",
        "PatchGrid": "_patch_grid",
        "TokenRepresentations": "_representations",
        "check_image_size": "_answer",
        "find_blocks": "_architecture",
        "find_patch_grids": "_patch_grid",
        "layer_index": "_architecture",
        "load_model": "_handle",
        "load_xl_vlms_features": "_xl_vlms",
        "make_depalm": "depalm._make",
        "mentions": "_words",
        "read_images": "_answer",
        "split_samples": "_images",
        "to_rgb": "_images",
        "train_depalm": "depalm._training",
        "word_spans": "_answer",
        "write_answer": "_answer",
    },
)
