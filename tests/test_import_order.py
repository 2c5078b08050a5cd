"""Rooms import only from those to their left, and only public names (docs/design.md)."""

import ast
from pathlib import Path

import pytest

import semi_nmf_concepts

ROOT = Path(semi_nmf_concepts.__file__).parent
ORDER = (
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
    "cli",
    "__main__",
)
# Rooms that see less than all to their left, or stand outside the order (`testing`: check_lmm).
LEFT = {"streaming": (), "decomposition": ("streaming",), "testing": ("lmm",)}
# Inside functions alone: plot and to_html of results; the words that ConceptScorer scores.
EXCEPTIONS = {
    ("grounding/_report.py", "report"),
    ("metrics/_scorers.py", "grounding"),
    ("attention/_results.py", "report"),
    ("attention/_explain.py", "report"),
}


def imported(tree, path):
    """Pairs of the dotted name inside the package that is imported and whether in a function."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    late = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            parents = path.relative_to(ROOT.parent).parts[: -node.level] if node.level else ()
            module = ".".join([*parents, *filter(None, [node.module])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            package, _, inner = name.partition(".")
            if package == ROOT.name and inner:
                yield inner, id(node) in late


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_public_names_from_their_left(path):
    here = path.relative_to(ROOT)
    room = here.parts[0].removesuffix(".py")
    left = LEFT.get(room, ORDER[: ORDER.index(room)] if room in ORDER else ())
    for name, late in imported(ast.parse(path.read_text(encoding="utf-8")), path):
        first, *rest = name.split(".")
        if first == room or first.startswith("_"):  # of this room, or shared by all
            continue
        assert first in left or (late and (here.as_posix(), first) in EXCEPTIONS), name
        assert not any(part.startswith("_") for part in rest), f"{name} is private"
