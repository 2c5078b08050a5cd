"""Inside one answer: attention, relevancy, causal graphs, and the concepts at work.

Notation in this room: a prompt of P tokens (image tokens included) and an answer of T tokens make a
sequence of S = P + T positions; answer token t is *predicted at row P - 1 + t*. There are L kept
layers with H heads; I stands for the positions of image tokens.
"""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "AnswerExplanation": "_explain",
        "AnswerTrace": "_trace",
        "AnswerWord": "_words",
        "CausalGraph": "_causal",
        "ConceptAblation": "_ablation",
        "ConceptActivationMap": "_concepts",
        "FaithfulnessCurves": "_faithfulness",
        "HeadMasses": "_maps",
        "ImageMap": "_maps",
        "PAG": "_pag",
        "Relevancy": "_relevancy",
        "WordScores": "_maps",
        "ablate_concept": "_ablation",
        "causal_graph": "_causal",
        "concept_activation_map": "_concepts",
        "deletion_insertion": "_faithfulness",
        "explain_answer": "_explain",
        "explain_trace": "_explain",
        "icd": "_icd",
        "relevancies": "_relevancy",
        "relevancy": "_relevancy",
        "trace_answer": "_tracing",
    },
)
