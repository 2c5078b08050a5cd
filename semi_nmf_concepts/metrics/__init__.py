"""Metrics of concepts: how well they fit images, captions and known factors, and each other.

Scores of words against images (CLIP) and captions (BERT), overlap of words, recovery of known
factors, what the activations alone say, stability over several fits, the baselines to compare
with, and all of these as scorers of scikit-learn.

All but the scorers work on plain arrays, tables, word lists, captions and sequences of images; they
know nothing of the model that the concepts come from. The CLIP and BERT models that some of them
ask are loaded at first use.
"""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "CLIP_TEMPLATE": "_clip",
        "ClipEncoder": "_clip_handle",
        "clip_concept_scores": "_clip",
        "clip_score": "_clip",
        "clip_similarity": "_clip",
        "concept_texts": "_clip",
        "ground_truth_clip_score": "_clip",
        "load_clip": "_clip_handle",
        "mas_clip_score": "_clip",
        "BertEncoder": "_bert_encoder",
        "bert_baseline": "_bert",
        "bert_concept_scores": "_bert",
        "bert_score": "_bert",
        "ground_truth_bert_score": "_bert",
        "load_bert": "_bert_encoder",
        "mas_bert_score": "_bert",
        "mas_scores": "_ranking",
        "top_concepts": "_ranking",
        "top_scores": "_ranking",
        "noise_images": "_baselines",
        "random_words": "_baselines",
        "dead_fraction": "_codes",
        "reconstruction_score": "_codes",
        "sparsity": "_codes",
        "stability_score": "_stability",
        "DCI": "_dci",
        "dci": "_dci",
        "FactorRecovery": "_factors",
        "choose_columns": "_factors",
        "factor_recovery": "_factors",
        "factor_recovery_score": "_factors",
        "linear_probe_recovery": "_factors",
        "split_rows": "_factors",
        "auroc": "_auroc",
        "auroc_interval": "_auroc",
        "overlap_matrix": "_overlap",
        "overlap_score": "_overlap",
        "DETECTED": "_word_hits",
        "WordHits": "_word_hits",
        "chance_word_hits": "_word_hits",
        "factor_word_hits": "_word_hits",
        "naming_words": "_word_hits",
        "ConceptScorer": "_scorers",
    },
)
