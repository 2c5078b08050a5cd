"""The page of one answer as text: complete, escaped, self-contained, and its data right."""

import base64
import hashlib
import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest

from semi_nmf_concepts.report import render_answer, write_answer_html
from semi_nmf_concepts.report._answer_context import answer_context
from semi_nmf_concepts.report._answer_data import Rows
from semi_nmf_concepts.report._answer_fitting import Pool
from semi_nmf_concepts.report._answer_layout import points_of
from semi_nmf_concepts.report._answer_packing import as_script, pack, pack_finely, spread
from tests.report._answer_fixture import NASTY, example_explanation
from tests.report.test_html import Page, one_line


@pytest.fixture(scope="module")
def explanation():
    return example_explanation()


@pytest.fixture(scope="module")
def html(explanation):
    return render_answer(explanation)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def data(html):
    return data_of(html)


@pytest.fixture(scope="module")
def nasty():
    """Markup in words, the question, file names, the model's name and tokens."""
    return example_explanation(nasty=True, n_images=2, tiles=True)


def script_of(html):
    (text,) = re.findall(r'id="answer-data">(.*?)</script>', html, re.DOTALL)
    return text


def data_of(html):
    return json.loads(script_of(html))


def unpacked(packed):
    """The page's arrays, read as its script is to read them."""
    stream = zlib.decompress(base64.b64decode(packed["data"]))
    shape = packed["shape"]
    if packed.get("fine"):
        scale = np.frombuffer(stream[:4], "<f4")[0]
        return scale * np.frombuffer(stream[4:], "<u2").reshape(shape) / 65535
    count = int(np.prod(shape[:-1]))
    scales = np.frombuffer(stream[: 4 * count], "<f4").reshape(shape[:-1])
    codes = np.frombuffer(stream[4 * count :], np.uint8).reshape(shape)
    return scales[..., None] * (codes / 255.0) ** 2


def part(parts, key):
    (found,) = [unpacked(one) for one in parts if one["layer"] == key]
    return found


# ---- what is on the page -----------------------------------------------------------------------


def test_sections_in_order(page):
    ids = [attrs["id"] for attrs in page.all("section")]
    expected = ["heads", "relevancy", "causal", "faithfulness", "concepts", "tokens", "record"]
    assert ids == expected
    links = [value[1:] for value in page.values("href") if value.startswith("#")]
    assert set(expected) <= set(links)


def test_words_are_buttons_and_tokens_have_their_numbers(explanation, page):
    trace = explanation.trace
    buttons = [attrs for attrs in page.all("button") if "data-word" in attrs]
    assert [int(attrs["data-word"]) for attrs in buttons] == list(range(len(trace.words)))
    for word in trace.words:
        assert word.text in page.content
    for logit in trace.logits:
        assert f"{logit:.3g}" in page.content
    masses = [trace.masses(i) for i, word in enumerate(trace.words) if word.stop - word.start == 1]
    assert masses and all(f"{m['entropy']:.2f}" in page.content for m in masses)
    assert all(f"{m['image']:.0%}" in page.content for m in masses)


def test_relevancy_shares_top_words_and_areas_are_there_without_script(explanation, page):
    found = explanation.relevancy["both"]
    for word, (image, text) in zip(found.words, found.shares, strict=True):
        assert f"{word} {image:.0%} {text:.0%}" in page.content
    assert "0.240" in page.content and "5 random orders" in page.content
    assert page.content.count("through the vision encoder") == 0  # which says nothing of text


def test_the_record_says_how_to_run_it_again(page):
    for text in ("fingerprint", "0123456789abcdef", "transformers", "5.23.0", "image tokens", "49"):
        assert text in page.content
    assert "scene 1.png (224 × 168)" in page.content


def test_the_record_of_an_answer_to_the_default_prompt(explanation):
    trace = replace(explanation.trace, question="", question_words=[])
    content = Page(render_answer(replace(explanation, trace=trace))).content
    assert "question (the model’s default)" in content


def test_the_page_says_which_concepts_it_shows_and_where_they_mean_little(explanation):
    found, report = explanation.concepts, explanation.concept_report
    n_kept = report.settings["n_kept"]
    found = replace(found, token="ball", explained=np.full(len(found.explained), 0.9, np.float32))
    concepts = answer_context(replace(explanation, concepts=found), 10**7)["concepts"]
    method = report.settings["decomposer"]
    assert concepts["about"] == (
        f"Concepts of “ball”: 8 learned by {method} from {n_kept} samples, of the states at "
        f"layer {found.layer}."
    )
    assert concepts["doubts"] == []
    shares = np.full(len(found.explained), 0.9, np.float32)
    shares[found.spans[1][0]] = 0.2  # "red"
    odd = replace(explanation, concepts=replace(found, token="zebra", explained=shares))
    page = Page(render_answer(odd))
    assert "“zebra” is not a word of this answer" in page.content
    assert "At 1 of 6 words the concepts explain less than half" in page.content
    (block,) = (b for b in answer_context(odd, 10**7)["record"] if b["name"] == "Concepts")
    rows = {row["name"]: row["value"] for row in block["rows"]}
    assert (rows["token"], rows["method"], rows["samples"]) == ("zebra", method, str(n_kept))
    unknown = replace(found, explained=np.full(len(found.explained), np.nan))
    assert answer_context(replace(explanation, concepts=unknown), 10**7)["concepts"]["doubts"] == []


@pytest.mark.parametrize(
    ("own", "random", "verdict"),
    [
        (0.1, [0.2, 0.3, 0.4, 0.5, 0.6], "Better than all 5 random orders."),
        (0.2, [0.2] + 19 * [0.5], "Better than 19 of 20 random orders."),
        (0.25, [0.2, 0.3, 0.4, 0.5, 0.6], "Not clearly better than random orders: 1 of 5"),
        (0.7, [0.2, 0.3, 0.4, 0.5, 0.6], "No better than random orders: 5 of 5"),
        (0.7, [], ""),
    ],
)
def test_a_map_no_better_than_chance_is_said_to_be(explanation, own, random, verdict):
    random = np.array(random)
    curves = replace(
        explanation.faithfulness[2],
        deletion_area=own,
        random_deletion_areas=random,
        insertion_area=1 - own,
        random_insertion_areas=1 - random,
    )
    context = answer_context(replace(explanation, faithfulness={2: curves}), 10**7)
    for panel in context["curves"][0]["panels"]:
        assert panel["verdict"].startswith(verdict) and bool(panel["verdict"]) == bool(verdict)
        assert panel["is_chance"] == ("better than random" in panel["verdict"])
    if len(random) == 5:
        deletion, _ = context["curves"][0]["panels"]
        assert deletion["random_area"] == "0.400 ± 0.158"


def test_example_images_and_the_image_are_stored_once(page):
    ids = page.values("id")
    assert ids.count("image-0") == 1
    shown = [attrs["href"] for attrs in page.all("use")]
    assert {f"#{i}" for i in ids if i.startswith(("image-", "picture-"))} == set(shown)


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"concepts": False}, ["concepts"]),
        ({"causal": False}, ["causal", "faithfulness"]),
        ({"through": ()}, ["relevancy"]),
    ],
)
def test_what_was_not_made_is_left_out_with_its_link(options, gone):
    page = Page(render_answer(example_explanation(**options)))
    ids = [attrs["id"] for attrs in page.all("section")]
    assert not set(gone) & set(ids)
    assert not {f"#{name}" for name in gone} & set(page.values("href"))


def test_reasons_of_what_could_not_be_made(explanation):
    settings = {"left_out": {"relevancy (vision)": "its tokens are <no> mixture"}}
    content = Page(render_answer(replace(explanation, settings=settings))).content
    assert "Left out: relevancy (vision). its tokens are <no> mixture" in content


def test_an_answer_of_one_word():
    found = example_explanation(words=["dog"], through=("language",), concepts=False)
    trace = replace(found.trace, question="", question_words=[])
    assert "What the model wrote" in Page(render_answer(replace(found, trace=trace))).content


# ---- escaped and self-contained -----------------------------------------------------------------


def test_strings_make_no_markup(nasty):
    html = render_answer(nasty)
    page = Page(html)
    assert len(page.all("script")) == 2  # the script and its data
    assert not page.all("img")
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert one_line(NASTY) in page.content  # shown, not run
    assert html.count("</script>") == 2
    script = script_of(html)
    assert not set("<>&\u2028") & set(script)
    texts = data_of(html)
    assert texts["words"][1]["text"] == one_line(NASTY) == texts["images"][0]["name"]


def test_no_string_can_end_the_data():
    text = as_script({"a": "</script><!-- \u2028 \u2029 & é"})
    assert not set("<>&\u2028\u2029é") & set(text)
    assert json.loads(text) == {"a": "</script><!-- \u2028 \u2029 & é"}


def test_text_direction_and_lone_surrogates(explanation):
    trace = replace(explanation.trace, image_names=["\u202egnp.exe\udcff"], question="a\u202eb")
    html = render_answer(replace(explanation, trace=trace))
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", html)
    assert not re.search(r"\\u202e|\\udcff", html)
    html.encode("utf-8")


def test_nothing_points_outside(html, page):
    for attribute in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
        for value in page.values(attribute):
            assert value.startswith(("#", "data:image/"))
    code = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|innerHTML|eval\(|Function\(", code)
    assert not re.search(r"https?://", re.sub(r"base64,[\w+/=]+", "", html))


def test_policy_admits_exactly_the_inlined_style_and_script(html, page):
    (policy,) = [attrs["content"] for attrs in page.all("meta") if "http-equiv" in attrs]
    for kind in ("style", "script"):
        text = re.search(rf"<{kind}>(.*?)</{kind}>", html, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    assert not page.values("style")


def test_references_inside_the_page_resolve_and_controls_have_names(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [value for value in page.values("href") if value.startswith("#")]
    for name in ("aria-labelledby", "aria-describedby", "aria-controls", "for"):
        targets += ["#" + value for value in page.values(name)]
    assert {target[1:] for target in targets} <= set(ids)
    heads = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert heads.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(heads, heads[1:], strict=False))
    for tag, attrs in page.elements:
        if attrs.get("role") in ("img", "region", "application", "grid"):
            assert "aria-label" in attrs, (tag, attrs)


def test_same_explanation_same_page(html):
    assert render_answer(example_explanation()) == html


def test_numbers_that_are_not_finite(explanation):
    trace = replace(explanation.trace, logits=np.full_like(explanation.trace.logits, np.inf))
    graph = replace(explanation.causal[1], weights=np.full(10, np.nan))
    curves = replace(explanation.faithfulness[2], deletion=np.full(9, np.nan))
    odd = replace(explanation, trace=trace, causal={1: graph}, faithfulness={2: curves})
    html = render_answer(odd)
    assert data_of(html)["causal"][0]["nodes"][0]["weight"] is None
    assert not {"nan", "inf", "NaN", "None"} & set(Page(html).content.split())


def test_the_file_is_written_whole(explanation, html, tmp_path):
    explanation.to_html(tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == html
    with pytest.raises(OSError, match="cannot write"):
        write_answer_html(explanation, tmp_path)


# ---- the data are those of the trace ------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 3, "mean", "max"])
@pytest.mark.parametrize("head", [2, "mean", "max"])
def test_maps_are_those_of_the_trace(explanation, data, layer, head):
    trace, found = explanation.trace, data["attention"]
    if isinstance(head, int):
        rows = part(found["by_head"], layer)[head]
    else:
        rows = part(found["planes"], layer)[("mean", "max").index(head)]
    for word in range(len(trace.words)):
        expected = np.concatenate(trace.image_attention(word, layer, head).values)
        np.testing.assert_allclose(rows[word], expected, atol=0.0042 * expected.max())


def test_maps_of_several_words_are_means_over_their_tokens(explanation, data):
    trace = explanation.trace
    rows = part(data["attention"]["planes"], "mean")[0]
    counts = np.array([word["tokens"] for word in data["words"]])
    assert set(counts) == {1, 2}
    expected = np.concatenate(trace.image_attention([1, 2, 5]).values)
    mean = np.average(rows[[1, 2, 5]], axis=0, weights=counts[[1, 2, 5]])
    np.testing.assert_allclose(mean, expected, atol=0.005 * expected.max())


def test_sums_are_the_masses_of_the_trace(explanation, data):
    trace = explanation.trace
    sums = {name: unpacked(packed) for name, packed in data["attention"]["sums"].items()}
    keys = ["mean", "max", 0, 1, 2, 3]
    for (i, layer), (j, head) in [
        ((0, "mean"), (0, "mean")),
        ((1, "max"), (4, 2)),
        ((3, 1), (1, "max")),
    ]:
        assert keys[i] == layer
        for word in range(len(trace.words)):
            masses = trace.masses(word, layer, head)
            whole = sums["all"][i, j, word]
            for name in ("image", "question"):
                assert sums[name][i, j, word] / whole == pytest.approx(masses[name], abs=2e-4)
            share = trace.image_attention(word, layer, head, drop_sinks=True).share
            kept = sums["image_kept"][i, j, word] / sums["all_kept"][i, j, word]
            assert kept == pytest.approx(share, abs=2e-4)
    for to in ("image", "question"):
        expected = trace.heads_by_layers(to, 1).values
        np.testing.assert_allclose(sums[to][2:, 2:, 1], expected, atol=2e-4)


def test_relevancy_and_concept_maps(explanation, data):
    for found in data["relevancy"]:
        one = explanation.relevancy[found["through"]]
        rows = unpacked(found["image"])
        for row, word in zip(rows, one.word_indices, strict=True):
            expected = np.concatenate(one.map(word).values)
            np.testing.assert_allclose(row, expected, atol=0.0042 * expected.max())
        assert found["words"] == one.word_indices
    maps = unpacked(data["concepts"]["maps"])
    item = data["concepts"]["items"][0]
    for word, row in item["maps"].items():
        expected = np.concatenate(explanation.concepts.map(item["index"], int(word)).values)
        np.testing.assert_allclose(maps[row], expected, atol=0.0042 * expected.max())
    peaks = [max(item["values"]) for item in data["concepts"]["items"]]
    assert peaks == sorted(peaks, reverse=True) and min(peaks) > 0


def test_the_causal_graph_is_whole(explanation, data):
    graph = explanation.causal[1]
    found = data["causal"][0]
    np.testing.assert_array_equal(found["marks"], graph.marks)
    assert [node["label"] for node in found["nodes"]] == [node["label"] for node in graph.nodes]
    np.testing.assert_allclose([n["weight"] for n in found["nodes"]], graph.weights, rtol=1e-5)


def test_each_radius_has_a_layout_of_its_nodes_whose_edges_touch_no_other(explanation, data):
    graph, found = explanation.causal[1], data["causal"][0]
    assert len(found["layouts"]) == graph.radius.max() + 1
    for radius, layout in enumerate(found["layouts"], start=1):
        is_last = radius > graph.radius.max()
        among = [i for i, r in enumerate(graph.radius) if is_last or 0 <= r <= radius]
        places = {i: np.array([x, y]) for i, x, y in layout["at"]}
        assert list(places) == among and not places[len(graph.nodes) - 1].any()
        bends = {(i, j): (x, y) for i, j, x, y in layout["bends"]}
        for i, j in zip(*np.nonzero(np.triu(graph.marks)), strict=True):
            if not {i, j} <= set(among):
                continue
            control = bends.pop((i, j), (places[i] + places[j]) / 2)
            curve = points_of(places[i], control, places[j], 301)
            for k in set(among) - {i, j}:
                away = np.abs(curve - places[k]) > found["nodes"][k]["half"]
                assert away.any(axis=1).all(), (radius, i, j, k)
        assert not bends


def test_tokens_without_a_place_have_no_box(nasty):
    images = data_of(render_answer(nasty))["images"]
    for image, grid in zip(images, nasty.trace.grids, strict=True):
        missing = [box is None for box in image["boxes"]]
        assert sum(missing) == 14 and missing == np.isnan(grid.boxes[:, 0]).tolist()
        assert [block["name"] for block in image["blocks"]] == [b.name for b in grid.blocks]


def test_rows_without_question_words(explanation):
    rows = Rows(replace(explanation.trace, question_words=[]))
    assert not rows.sums("mean")["question"].any()


# ---- what fits ----------------------------------------------------------------------------------


def test_a_large_model_stays_below_five_megabytes_and_says_what_is_missing():
    words = [f"word{i}" for i in range(15)]
    large = example_explanation(words=words, n_layers=32, n_heads=32, shape=(24, 24))
    assert large.trace.n_tokens == 20
    html = render_answer(large)
    assert 3_500_000 < len(html.encode()) < 5_000_000  # the room is used
    attention = data_of(html)["attention"]
    kept = [one["layer"] for one in attention["by_head"]]
    assert {"mean", "max", 0, 31} <= set(kept) and len(kept) < 34
    assert len(attention["planes"]) == 34  # the means over heads of every layer
    assert f"single heads for {len(kept) - 2} of the 32 layers" in Page(html).content


def test_little_room_keeps_the_means(explanation):
    context = answer_context(explanation, 0)
    attention = json.loads(context["data"])["attention"]
    assert [one["layer"] for one in attention["planes"]] == ["mean", "max"]
    assert attention["by_head"] == []
    assert any("single heads for no layer" in text for text in context["left_out"])
    assert answer_context(explanation, 5_000_000)["left_out"] == []


def test_many_places_are_summed_until_the_page_is_small_enough():
    words = [f"word{i}" for i in range(60)]
    large = example_explanation(words=words, n_heads=2, n_layers=2, shape=(128, 128))
    html = render_answer(large)
    assert 4_000_000 < len(html.encode()) < 5_000_000
    page, data = Page(html), data_of(html)
    assert "2 × 2 neighbouring patches each: it has 4,096 places of 16,384" in page.content
    assert "sinks" not in page.values("id")  # single patches
    assert len(data["words"]) == 60
    image = data["images"][0]
    assert image["blocks"][0]["rows"] == image["blocks"][0]["cols"] == 64
    assert image["boxes"][65] == pytest.approx([1 / 64, 1 / 64, 2 / 64, 2 / 64], abs=1e-5)
    for found, values in [
        (part(data["attention"]["planes"], "mean")[0], large.trace.image_attention(5).values),
        (unpacked(data["relevancy"][0]["image"]), large.relevancy["language"].map(5).values),
    ]:
        expected = values[0].reshape(64, 2, 64, 2).sum(axis=(1, 3)).ravel()
        np.testing.assert_allclose(found[5], expected, atol=0.0042 * expected.max())
    graph = large.causal[1]
    node, patch = data["causal"][0]["nodes"][0], graph.nodes[0]["patch"]
    np.testing.assert_allclose(node["box"], large.trace.grids[0].boxes[patch], atol=1e-5)
    assert node["patch"] == patch // 128 // 2 * 64 + patch % 128 // 2


def test_a_long_answer_is_cut_where_nothing_else_helps():
    words = [f"word{i}" for i in range(40)]
    long = example_explanation(words=words, n_layers=4, n_heads=4)
    context = answer_context(long, 1_000)
    data = json.loads(context["data"])
    assert len(data["words"]) == len(context["words"]) == 12
    assert "this page has the first 12 words of the answer, of 40" in "".join(context["left_out"])
    assert len(data["tokens"]) == len(context["tokens"]) == 16
    assert data["relevancy"][0]["words"] == list(range(12))
    rows = dict((row["name"], row["value"]) for row in context["record"][0]["rows"])
    assert rows["answer tokens"] == str(long.trace.n_tokens)
    expected = np.concatenate(long.trace.image_attention(11).values)
    found = part(data["attention"]["planes"], "mean")[0, 11]
    np.testing.assert_allclose(found, expected, atol=0.0042 * expected.max())


def test_tiles_and_tokens_without_a_place_are_summed_apart():
    trace = example_explanation(n_images=2, tiles=True, shape=(5, 7)).trace
    pool = Pool(trace.grids, 2)
    image = pool.images[1]
    assert [tokens.shape for _, tokens in image.blocks] == [(3, 4)] * 3
    assert len(image.boxes) == 3 * 12 + 1 and pool.n == 2 * 37
    assert np.isnan(image.boxes).all(axis=1).sum() == 1
    values = np.random.default_rng(0).random((2, sum(len(g.boxes) for g in trace.grids)))
    summed = pool.sum(values)
    np.testing.assert_allclose(summed.sum(axis=1), values.sum(axis=1), rtol=1e-5)
    placeless = np.concatenate([np.isnan(grid.boxes[:, 0]) for grid in trace.grids])
    nowhere = np.concatenate([np.isnan(one.boxes[:, 0]) for one in pool.images])
    np.testing.assert_allclose(
        summed[:, nowhere].sum(axis=1), values[:, placeless].sum(axis=1), rtol=1e-5
    )
    tile = image.boxes[image.blocks[2][1]]
    np.testing.assert_allclose(tile[-1, -1], [0.5 + 6 / 14, 4 / 5, 1, 1])


@pytest.mark.parametrize("n", [1, 2, 3, 28, 32, 80])
def test_every_beginning_of_the_order_is_spread(n):
    order = spread(n)
    assert sorted(order) == list(range(n))
    for count in range(2, n):
        gaps = np.diff(sorted(order[:count]))
        assert gaps.max() <= 2 * (n - 1) / (count - 1) + 2


def test_packing_is_close_and_keeps_small_values():
    rng = np.random.default_rng(0)
    values = rng.gamma(0.3, 1.0, (3, 4, 50))
    values[0, 0] = 0
    found = unpacked(pack(values))
    np.testing.assert_allclose(found, values, atol=0.0042 * values.max())
    small = (values > 1e-3 * values.max(axis=-1, keepdims=True)) & (values > 0)
    np.testing.assert_allclose(found[small], values[small], rtol=0.13)
    np.testing.assert_allclose(unpacked(pack_finely(values)), values, atol=values.max() / 1e5)
    assert not unpacked(pack([[np.nan, -1.0]])).any()
