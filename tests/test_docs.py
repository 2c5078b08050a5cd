"""The pages agree with the code: links lead somewhere, names exist, commands parse."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

import semi_nmf_concepts
from semi_nmf_concepts.cli import build_parser

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, *languages):
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_that_examples_import_exist(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("semi_nmf_concepts"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    for block in blocks(page, "bash", "shell", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["semi-nmf-concepts"]:
                build_parser().parse_args(words[1:])


@pytest.mark.slow
def test_examples_of_the_page_on_answers_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for number, block in enumerate(blocks(ROOT / "docs" / "attention.md", "python"), start=1):
        exec(compile(block, f"attention.md, example {number}", "exec"), namespace)
    assert namespace["curves"].deletion_area < namespace["curves"].random_deletion_areas.mean()
    assert namespace["without"].answer_after
    assert "</html>" in (tmp_path / "page.html").read_text(encoding="utf-8")[-20:]


@pytest.mark.parametrize("room", semi_nmf_concepts._SUBPACKAGES)
def test_the_api_page_lists_every_public_name(room):
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    sections = page.split("## ")
    (section,) = [s for s in sections if f"currentmodule:: semi_nmf_concepts.{room}\n" in s]
    module = importlib.import_module(f"semi_nmf_concepts.{room}")
    assert set(module.__all__) <= set(re.findall(r"\w+", section))
    listed = set(re.findall(r"^   (\w+)$", section, re.MULTILINE))
    assert listed <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
