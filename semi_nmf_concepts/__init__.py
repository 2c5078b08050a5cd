"""Multimodal concepts of large multimodal models.

An image captioner writes a word, say "dog". The internal state that chose this word, collected over
many images, is factorised into a few non-negative, sparse concept activations and as many concept
directions. Every concept is then shown by the words that its direction promotes and by the images
that activate it most.

The names below are loaded at first use, so that importing the package stays light: neither torch
nor transformers is imported until something needs a model.
"""

import importlib

from ._lazy import attach

__version__ = "0.1.0"

# Public name -> the sub-package that defines it, in the order of the data flow.
_HOMES = {
    "load_image_folder": "datasets",
    "load_karpathy": "datasets",
    "load_scenes": "datasets",
    "RowBlocks": "streaming",
    "open_codes": "streaming",
    "open_rows": "streaming",
    "LMMTokenFeaturizer": "lmm",
    "TokenRepresentations": "lmm",
    "load_model": "lmm",
    "RECOMMENDED": "decomposition",
    "KMeansConcepts": "decomposition",
    "PCAConcepts": "decomposition",
    "SemiNMFConcepts": "decomposition",
    "SimpleConcepts": "decomposition",
    "sparse_encode_nonneg": "decomposition",
    "Concept": "grounding",
    "ConceptReport": "grounding",
    "LocalExplanation": "grounding",
    "explain_concepts": "grounding",
    "explain_sample": "grounding",
    "ground_images": "grounding",
    "ground_text": "grounding",
    "AnswerExplanation": "attention",
    "AnswerTrace": "attention",
    "ablate_concept": "attention",
    "causal_graph": "attention",
    "concept_activation_map": "attention",
    "deletion_insertion": "attention",
    "explain_answer": "attention",
    "icd": "attention",
    "relevancy": "attention",
    "trace_answer": "attention",
    "ConceptScorer": "metrics",
    "bert_score": "metrics",
    "clip_score": "metrics",
    "factor_recovery_score": "metrics",
    "mas_bert_score": "metrics",
    "mas_clip_score": "metrics",
    "overlap_score": "metrics",
    "stability_score": "metrics",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
}
_SUBPACKAGES = (
    "datasets",
    "streaming",
    "lmm",
    "decomposition",
    "metrics",
    "grounding",
    "attention",
    "report",
    "evaluation",
    "app",
    "testing",
)

_public_name, _public_names, __all__ = attach(__name__, _HOMES)
__all__ += [*_SUBPACKAGES, "__version__"]


def __getattr__(name):
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    return _public_name(name)


def __dir__():
    return sorted({*_public_names(), *_SUBPACKAGES})
