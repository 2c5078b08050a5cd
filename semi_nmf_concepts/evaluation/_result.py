"""The result of an evaluation: records, tables, figures, the page, and the files of all of it."""

import base64
import hashlib
import io
import json
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd

from semi_nmf_concepts import report

from .._files import write_atomically
from ._records import COLUMNS

RECORDS, DETAILS, PAGE = "results.json", "evaluation.json", "report.html"
_FRAMES = ("points", "factors", "tests")
_FORMAT = 1


@dataclass(eq=False, repr=False)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes
    ----------
    records : DataFrame
        One row per number: ``table``, ``token`` ("mean": average over the reported tokens),
        ``method``, ``metric``, ``top``, ``layer``, ``n_components``, ``alpha``, ``seed``, ``mean``,
        ``std``, ``n``. ``alpha`` is the weight of the L1 term that was used, as it is (None in rows
        that average over tokens with weights of their own); in the table "alpha" it is the relative
        weight asked for. ``std`` is over what ``n`` counts: images, concepts, pairs of seeds, or
        tokens in the rows of token "mean".
    points : DataFrame
        One row per concept of the reference runs: ``token``, ``method``, ``concept``, ``words``,
        and the MAS scores ``clip``, ``bert`` of its words and ``random_clip``, ``random_bert`` of
        as many random words on the same images.
    factors : DataFrame
        One row per factor value that was scored: ``token``, ``method``, ``prefix`` ("all" samples,
        or those whose caption begins with the most frequent prefix) and the columns of
        ``FactorRecovery.table``. Empty where no factors are known.
    tests : DataFrame
        Paired tests over test images: ``token``, ``metric``, ``top``, ``method``, ``baseline``,
        ``difference``, ``p_value``, ``n``.
    concepts : dict of str to list of dict
        The concepts of each token: ``concept``, ``words``, ``images`` (JPEG bytes, most activating
        first), ``share``, ``mas_clip``, ``mas_bert``.
    settings : dict
        How it was made: model, tokens, methods, encoders, sizes, versions, seconds, notes.
    """

    records: pd.DataFrame
    points: pd.DataFrame
    factors: pd.DataFrame
    tests: pd.DataFrame
    concepts: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)

    def __repr__(self):
        tokens = self.settings.get("tokens", [])
        return f"<Evaluation: {len(self.records)} records of {len(tokens)} tokens>"

    def table(self, name):
        """A table for people: methods or settings in rows, tokens in columns.

        Parameters
        ----------
        name : str
            "table1" (words against test images and captions), "tests", "table2" (overlap of words),
            "scatter", "layers", "n_components", "alpha", "stability", "recovery",
            "recovery_prefix" or "codes".

        Returns
        -------
        DataFrame of str
            One row a line; its first columns say which.
        """
        tables = self.tables()
        if name not in tables:
            raise ValueError(f"name must be one of {list(tables)}, got {name!r}.")
        return tables[name]

    def tables(self):
        """All tables that there are, by name."""
        return report.evaluation_tables(self.records, self.tests)

    def to_html(self, path):
        """Write the standalone page.

        Parameters
        ----------
        path : path-like

        Raises
        ------
        OSError
            The file cannot be written.
        """
        report.write_evaluation_html(self, path)

    def save(self, folder):
        """Write records, tables, figures and the page.

        ``results.json`` (the records), ``evaluation.json`` (the rest), ``tables/*.csv`` and
        ``*.md``, ``figures/*.png`` and ``*.svg``, and ``report.html``, each of them whole or not at
        all, the page last.

        Parameters
        ----------
        folder : path-like
            Made if needed.

        Raises
        ------
        OSError
            A file cannot be written; the message names it.
        """
        folder = Path(folder)
        write_atomically(folder / RECORDS, _dump(_rows(self.records)))
        frames = {name: _rows(getattr(self, name)) for name in _FRAMES}
        details = {"format": _FORMAT, "settings": self.settings, **frames}
        write_atomically(folder / DETAILS, _dump(details | {"concepts": _encoded(self.concepts)}))
        _write_folder(folder / "tables", self._table_files())
        _write_folder(folder / "figures", self._figure_files())
        self.to_html(folder / PAGE)

    def _table_files(self):
        """Names and texts of the tables: those for people, then single rows."""
        for name, table in self.tables().items():
            yield f"{name}.csv", table.to_csv(index=False)
            yield f"{name}.md", report.to_markdown_table(table)
        for name in _FRAMES:
            yield f"{name}_in_full.csv", getattr(self, name).to_csv(index=False)

    def _figure_files(self):
        """Names and contents of the figures."""
        for name, figure in _figures(self):
            for kind in ("png", "svg"):
                yield f"{name}.{kind}", _image(figure, kind)

    @classmethod
    def load(cls, folder):
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            If the folder holds no saved evaluation, or a damaged one.
        """
        folder = Path(folder)
        try:
            records = json.loads((folder / RECORDS).read_text(encoding="utf-8"))
            details = json.loads((folder / DETAILS).read_text(encoding="utf-8"))
            if details["format"] != _FORMAT:
                raise ValueError(f"format {details['format']!r}, this version reads {_FORMAT}")
            frames = {name: pd.DataFrame(details[name]) for name in _FRAMES}
            concepts, settings = _decoded(details["concepts"]), details["settings"]
            table = pd.DataFrame(records, columns=COLUMNS)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{str(folder)!r} holds no saved evaluation: {error}") from error
        table["top"] = table["top"].astype("Int64")
        return cls(table, **frames, concepts=concepts, settings=settings)


def _write_folder(folder, files):
    """Write files, and remove those of the same kinds that an earlier evaluation left there."""
    written = set()
    for name, content in files:
        write_atomically(folder / name, content)
        written.add(name)
    for path in folder.iterdir():
        if path.name not in written and path.suffix in (".csv", ".md", ".png", ".svg"):
            path.unlink()


def _figures(evaluation):
    """Name and figure of all that there is to draw."""
    records, settings = evaluation.records, evaluation.settings
    reported = evaluation.points
    if len(reported):  # as in the averages, without the tokens on which settings were chosen
        reported = reported[~reported["token"].isin(settings.get("chosen_on", ()))]
    draw = {
        "table1": lambda: report.plot_table1(records),
        "scatter": lambda: report.plot_scatter(reported),
        "stability": lambda: report.plot_stability(records),
    }
    for table in ("layers", "n_components", "alpha"):
        draw[table] = partial(report.plot_curves, records, table)
    for name, make in draw.items():
        known = records[records["table"] == name]["mean"]
        if known.notna().any():
            yield name, make()
    for token, concepts in evaluation.concepts.items():
        yield f"concepts_{_file_name(token)}", report.plot_concept_grid(concepts)


def _file_name(token):
    """A token as a part of a file name, which it might else lead out of the folder."""
    plain = re.sub(r"\W+", "-", token)
    if plain == token:
        return token
    return f"{plain}-{hashlib.sha256(token.encode()).hexdigest()[:6]}"  # "a/b" is not "a-b"


def _image(figure, kind):
    """A figure as the content of a file; the same figure gives the same file."""
    from matplotlib import rc_context

    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    # Text stays text in an SVG: it can be searched, and edited in a drawing program.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "semi_nmf_concepts"}):
        figure.savefig(content, format=kind, dpi=130, metadata=metadata)
    return content.getvalue()


def _rows(table):
    """A table as a list of records with None for what is not known."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _dump(value):
    return json.dumps(value, indent=1, ensure_ascii=False, default=_plain).encode(
        errors="backslashreplace"
    )


def _plain(value):
    """NumPy numbers as Python's, anything else (a setting) as its text."""
    return value.item() if hasattr(value, "item") else repr(value)


def _encoded(concepts):
    return {
        token: [
            {**one, "images": [base64.b64encode(image).decode() for image in one["images"]]}
            for one in grid
        ]
        for token, grid in concepts.items()
    }


def _decoded(concepts):
    return {
        token: [
            {**one, "images": [base64.b64decode(image) for image in one["images"]]} for one in grid
        ]
        for token, grid in concepts.items()
    }
