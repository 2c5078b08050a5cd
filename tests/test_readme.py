"""The README's Python examples run, in order, as one script."""

import re
from pathlib import Path

import pytest

from semi_nmf_concepts.datasets import bundled_model_path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_python_examples_of_the_readme_run(tmp_path, monkeypatch):
    bundled_model_path()
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(README.read_text(encoding="utf-8"))
    assert blocks
    namespace = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README.md, example {number}", "exec"), namespace)
    assert (tmp_path / "dog.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
