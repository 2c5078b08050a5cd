"""The chosen answer as files: a page for others, data for programs."""

import os
from dataclasses import replace
from pathlib import Path

PARTS = ("relevancy", "causal graphs", "faithfulness", "concepts")


def export_tab(frame, chat):
    """Write the files and offer them."""
    gr = frame.gr
    gr.Markdown(
        "`answer.html` is one page that needs no server and no network; `answer.json` holds the "
        "numbers, `trace.npz` the attention (read it with `AnswerTrace.load`). Views that run the "
        "model for every word are made for the chosen words, or for those that are no stop words."
    )
    parts = PARTS if frame.report is not None else PARTS[:-1]
    asked = gr.CheckboxGroup(
        list(parts), value=["relevancy", *parts[3:]], label="Besides attention", elem_id="parts"
    )
    write = gr.Button("Write the files", variant="primary", elem_id="write")
    files = gr.File(label="Files", file_count="multiple", interactive=False, elem_id="files")

    def export(session, number, words, asked):
        trace, folder = session.trace(number), session.folder_of(number)
        return write_files(folder, trace, asked, frame.report, words or None)

    frame.on([write.click], export, [frame.words, asked], [files], job=True)
    frame.empty(files)


def write_files(folder, trace, parts, report=None, words=None):
    """Write a trace as page, JSON and NPZ into a folder; return their paths.

    A model in a folder goes by the folder's name in them: where the server keeps it is not for
    visitors, and would be of no use to them.

    Parameters
    ----------
    folder : Path
    trace : AnswerTrace
    parts : list of str
        Of `PARTS`: what is computed and shown besides attention.
    report : ConceptReport, default=None
    words : list of int, default=None
        Words for which views are made that run the model for each.
    """
    from semi_nmf_concepts.attention import explain_trace

    explanation = explain_trace(
        trace,
        words=words,
        concepts=report if "concepts" in parts else None,
        through=("language", "vision", "both") if "relevancy" in parts else (),
        causal="causal graphs" in parts,
        faithfulness="faithfulness" in parts,
    )
    explanation = without_folders(explanation)
    paths = [folder / name for name in ("answer.html", "answer.json", "trace.npz")]
    explanation.to_html(paths[0])
    explanation.to_json(paths[1])
    explanation.trace.save(paths[2])
    return [str(path) for path in paths]


def without_folders(explanation):
    """The explanation, with the name of its model's folder in place of the whole path."""
    trace, path = explanation.trace, explanation.trace.model.model
    if path == "bundled" or not os.path.isdir(path):  # an id of the hub
        return explanation
    name, settings = Path(path).resolve().name, explanation.settings
    left_out = {k: text.replace(path, name) for k, text in settings["left_out"].items()}
    trace = replace(
        trace,
        model=replace(trace.model, model=name),
        provenance=trace.provenance | {"model": name},
    )
    return replace(explanation, trace=trace, settings=settings | {"left_out": left_out})
