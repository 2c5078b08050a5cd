"""The page of an answer of a model whose image tokens are queries, in a real browser."""

import numpy as np
import pytest

from semi_nmf_concepts.attention import explain_answer
from tests._families import FAMILIES
from tests._tiny_llava import tiny_images

pytestmark = pytest.mark.slow

MAP = """
() => {
  const canvas = document.querySelector('#graph-map canvas');
  const { width, height } = canvas;
  const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
  const alphas = Array.from({ length: width * height }, (_, i) => data[4 * i + 3]);
  return { alphas, width, height };
}
"""


@pytest.fixture(scope="module")
def explanation(tmp_path_factory):
    folder = FAMILIES["blip2-opt"].build(tmp_path_factory.mktemp("blip2") / "model")
    image = tiny_images(1)[0].resize((64, 64))
    made = explain_answer(
        str(folder), image, "what is this", "a dog", words="dog", faithfulness=False
    )
    [graph] = made.causal.values()
    # One query explains the word, and reads a single patch.
    node = next(i for i, one in enumerate(graph.nodes) if one["kind"] == "image")
    graph.radius[:-1], graph.weights[:] = -1, 0.0
    graph.radius[node], graph.weights[node] = 1, 0.8
    weights = np.eye(17)[[0] * 4]  # the class token
    query = graph.nodes[node]["position"] - made.trace.grids[0].positions[0]
    weights[query] = np.eye(17)[1 + 6]  # the third place of the second row
    grid = made.trace.grids[0].read_by(weights)
    made.trace.grids = graph.grids = [grid]
    return made


def test_a_query_is_drawn_where_it_reads(explanation, page, tmp_path):
    explanation.to_html(tmp_path / "page.html")
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector("html.ready")
    assert page.locator("#sinks").count() == 0
    node = page.locator("#nodes li:not(.out)")
    assert "query" in node.inner_text()
    assert node.locator("svg").count() == 0
    drawn = page.evaluate(MAP)
    alphas = np.array(drawn["alphas"]).reshape(drawn["height"], drawn["width"])
    rows, columns = (np.linspace(0.5, 3.5, 4) / 4 * n for n in alphas.shape)
    at = alphas[np.ix_(rows.astype(int), columns.astype(int))]
    assert np.argwhere(at > 100).tolist() == [[1, 2]]
