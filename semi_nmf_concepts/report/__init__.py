"""Showing concept reports, evaluations, answers: standalone HTML pages, matplotlib figures, tables.

A page is one file: its templates, style and script are in ``templates/``, pictures are stored
inline, and nothing is loaded from a network. All that comes from a model or a file is escaped.
"""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "render_html": "_html",
        "write_html": "_html",
        "plot_concepts": "_plots",
        "plot_local": "_plots",
        "render_evaluation": "_evaluation_html",
        "write_evaluation_html": "_evaluation_html",
        "evaluation_tables": "_evaluation_tables",
        "to_markdown_table": "_evaluation_tables",
        "plot_table1": "_evaluation_plots",
        "plot_scatter": "_evaluation_plots",
        "plot_curves": "_evaluation_plots",
        "plot_stability": "_evaluation_plots",
        "plot_concept_grid": "_evaluation_plots",
        "render_answer": "_answer_html",
        "write_answer_html": "_answer_html",
        "overlay": "_answer_drawing",
        "scaled": "_answer_drawing",
        "plot_trace": "_answer_plots",
        "plot_image_map": "_answer_plots",
        "plot_heads": "_answer_plots",
        "plot_words": "_answer_plots",
        "plot_pag": "_answer_plots",
        "plot_relevancy": "_answer_plots",
        "plot_causal_graph": "_answer_plots",
        "plot_faithfulness": "_answer_plots",
        "plot_concept_activations": "_answer_plots",
        "plot_concept_ablation": "_answer_plots",
    },
)
