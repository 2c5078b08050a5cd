"""The page of one answer in a real browser, with mouse and with keyboard."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from semi_nmf_concepts.report import scaled, write_answer_html
from semi_nmf_concepts.report._answer_context import answer_context
from semi_nmf_concepts.report._answer_drawing import colour_table
from semi_nmf_concepts.report._answer_html import _SCRIPTS, _STYLES
from semi_nmf_concepts.report._html import render_page
from tests.report._answer_fixture import NASTY, example_explanation
from tests.report.test_html import one_line

pytestmark = pytest.mark.slow

HEAT = "document.querySelector('.heat').toDataURL()"


@pytest.fixture(scope="module")
def explanation():
    return example_explanation()


@pytest.fixture(scope="module")
def path(explanation, tmp_path_factory):
    path = tmp_path_factory.mktemp("answer") / "page.html"
    write_answer_html(explanation, path)
    return path


@pytest.fixture
def view(page, path):
    """The page, opened and unpacked."""
    return opened(page, path)


def opened(page, path):
    page.goto(path.as_uri())
    page.wait_for_selector("html.ready")
    return page


def word(page, i):
    return page.locator(f".word[data-word='{i}']")


def note(page, i):
    return word(page, i).locator(".wnote").inner_text()


def number(page, name):
    """The number with this name among those beside the picture."""
    return page.locator("#numbers div", has_text=name).locator("dd").inner_text()


def percent(share):
    """As the page writes it."""
    value = 100 * share
    if 0 < value < 0.1:
        return "<0.1%"
    return f"{value:.1f}%" if value < 10 else f"{value:.0f}%"


def click_patch(page, explanation, patch):
    left, top, right, bottom = explanation.trace.grids[0].boxes[patch]
    stage = page.locator("#stage-0")
    stage.scroll_into_view_if_needed()  # which waits until it stands still
    box = stage.bounding_box()
    x, y = (left + right) / 2 * box["width"], (top + bottom) / 2 * box["height"]
    page.mouse.click(box["x"] + x, box["y"] + y)


def saved_picture(download):
    return Image.open(io.BytesIO(download.path().read_bytes()))


def close(text, share):
    """Whether a percentage on the page is a share up to rounding and packing."""
    if text == "<0.1%":
        return share < 0.00105
    return abs(float(text.rstrip("%")) - 100 * share) <= (0.51 if share >= 0.095 else 0.11)


def test_pointing_at_a_word_shows_its_patches_until_one_leaves(view, explanation):
    before, about = view.evaluate(HEAT), view.locator("#about")
    assert "the whole answer" in about.inner_text()
    word(view, 1).hover()
    assert "“red”" in about.inner_text()
    assert view.evaluate(HEAT) != before
    image = explanation.trace.masses(1)["image"]
    assert close(number(view, "on the image"), image)
    assert close(number(view, "probability"), float(explanation.trace.probabilities[1]))
    assert "dog" in view.locator("#others").inner_text()
    word(view, 2).hover()  # of two tokens
    assert close(number(view, "probability"), float(explanation.trace.probabilities[2:4].prod()))
    view.mouse.move(5, 5)
    assert view.evaluate(HEAT) == before


def test_clicks_keep_words_and_let_them_go(view, explanation):
    for i in (1, 2):
        word(view, i).click()
        assert word(view, i).get_attribute("aria-pressed") == "true"
    view.mouse.move(5, 5)
    assert "“red”, “ball”" in view.locator("#about").inner_text()
    found = explanation.trace.masses([1, 2])
    assert close(number(view, "on the image"), found["image"])
    assert close(number(view, "on the question"), found["question"])
    assert abs(float(number(view, "entropy")) - found["entropy"]) < 0.02
    word(view, 1).click()
    assert word(view, 1).get_attribute("aria-pressed") == "false"
    view.locator("#clear-words").click()
    assert view.locator(".word[aria-pressed='true']").count() == 0


def test_clicking_patches_tells_which_words_looked_there(view, explanation):
    trace = explanation.trace
    for patch in (24, 25):
        click_patch(view, explanation, patch)
    view.mouse.move(5, 5)
    values = trace.words_for_patches([24, 25]).values
    assert all(close(note(view, i), value) for i, value in enumerate(values))
    strongest = int(np.argmax(values))
    tints = view.evaluate(
        "[...document.querySelectorAll('.word')].map(w => +w.style.getPropertyValue('--v'))"
    )
    np.testing.assert_allclose(tints, values / values.max(), atol=0.01)
    assert tints[strongest] == 1
    # The heads say what they give to these patches, too.
    heads = {
        int(card.get_attribute("data-head")): card.locator("small").inner_text()
        for card in view.locator(".headcard").all()
    }
    for head, text in heads.items():
        row = trace.image_attention(head=head).values[0]
        assert close(text.removeprefix("patches "), float(row[[24, 25]].mean()))
    click_patch(view, explanation, 24)
    assert view.locator(".marks .ring:not(.under)").count() == 1
    view.locator("#clear-patches").click()
    assert view.locator(".marks .ring").count() == 0


def corner(box, column, row):
    """A point of a grid of 7 x 7 in a box."""
    return box["x"] + column / 7 * box["width"], box["y"] + row / 7 * box["height"]


def test_a_frame_chooses_the_patches_in_it(view, explanation):
    box = view.locator("#stage-0").bounding_box()
    view.mouse.move(*corner(box, 4.9, 4.9))
    view.mouse.down()
    view.mouse.move(*corner(box, 3.5, 3.5))
    view.mouse.move(*corner(box, 2.2, 1.8))
    view.mouse.up()
    view.mouse.move(5, 5)
    inside = [7 * row + column for row in (2, 3, 4) for column in (2, 3, 4)]
    assert view.locator(".marks .ring:not(.under)").count() == len(inside)
    values = explanation.trace.words_for_patches(inside).values
    assert all(close(note(view, i), value) for i, value in enumerate(values))


def test_the_status_line_names_the_patch_and_its_rank(view, explanation):
    row = explanation.trace.image_attention().values[0]
    best = int(np.argmax(row))
    click_patch(view, explanation, best)
    text = view.locator("#status").inner_text()
    assert f"row {best // 7 + 1}, column {best % 7 + 1}" in text
    assert percent(float(row[best])) in text and "rank 1 of 49; chosen" in text


def test_layer_head_and_sinks(view, explanation):
    trace = explanation.trace
    view.select_option("#layer", "2")
    view.select_option("#head", "3")
    assert close(number(view, "on the image"), trace.image_attention(layer=2, head=3).share)
    view.check("#sinks")
    share = trace.image_attention(layer=2, head=3, drop_sinks=True).share
    assert close(number(view, "on the image"), share)
    masses = trace.heads_by_layers().values[2]
    order = [int(c.get_attribute("data-head")) for c in view.locator(".headcard").all()]
    without = [trace.image_attention(layer=2, head=h, drop_sinks=True).share for h in range(5)]
    assert order == np.argsort(-np.array(without)).tolist()
    view.uncheck("#sinks")
    order = [int(c.get_attribute("data-head")) for c in view.locator(".headcard").all()]
    assert order == np.argsort(-masses).tolist()
    assert view.locator(".headcard[aria-pressed='true']").get_attribute("data-head") == "3"


def test_the_matrix_chooses_a_head_and_shows_the_question(view, explanation):
    trace = explanation.trace
    masses = trace.heads_by_layers()
    texts = np.array([c.inner_text() for c in view.locator(".cell").all()], dtype=int)
    np.testing.assert_allclose(texts.reshape(4, 5), 100 * masses.values, atol=0.6)
    view.locator(".cell").nth(1 * 5 + 4).click()
    assert (view.input_value("#layer"), view.input_value("#head")) == ("1", "4")
    assert view.locator(".cell[aria-selected='true']").count() == 1
    view.locator("#matrix-to label", has_text="Question").click()
    texts = np.array([c.inner_text() for c in view.locator(".cell").all()], dtype=int)
    np.testing.assert_allclose(
        texts.reshape(4, 5), 100 * trace.heads_by_layers("question").values, atol=0.6
    )


@pytest.mark.parametrize("scale", ["linear", "sqrt", "log"])
def test_the_map_has_the_colours_of_the_figures(view, explanation, scale):
    """The script draws what `overlay` draws: one colour table, one scale."""
    view.locator("summary", has_text="How it is drawn").click()
    view.select_option("#scale", scale)
    view.fill("#opacity", "100")
    one = explanation.trace.image_attention()
    centres = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in one.grids[0].boxes]
    drawn = view.evaluate(
        """points => { const c = document.querySelector('.heat'), x = c.getContext('2d');
        return points.map(([u, v]) => [...x.getImageData(u * c.width, v * c.height, 1, 1).data]);
        }""",
        centres,
    )
    levels = np.rint(255 * scaled(one.values[0], scale)).astype(int)
    expected = colour_table("heat")[levels] * (1, 1, 1, 255)
    np.testing.assert_allclose(drawn, expected, atol=8)  # packing, and colours under alpha


def test_relevancy_of_explained_words_and_the_others(view, explanation):
    view.locator("label", has_text="Relevancy, both").click()
    found = explanation.relevancy["both"]
    assert not view.locator("#attention-controls").is_visible()
    word(view, 2).click()
    assert close(number(view, "on the image"), found.shares[2, 0])
    assert "language model and vision encoder" in view.locator("#about").inner_text()
    word(view, 5).hover()  # the last word has none
    assert "was not explained" in view.locator("#about").inner_text()
    assert note(view, 5) == "–"
    drawn = view.evaluate(
        "(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v))"
        "(document.querySelector('.heat'))"
    )
    assert not drawn


def test_a_shared_maximum_dims_weak_words(view):
    view.locator("summary", has_text="How it is drawn").click()
    word(view, 1).click()
    view.mouse.move(5, 5)
    own, high = view.evaluate(HEAT), view.locator("#legend-high").inner_text()
    view.select_option("#maximum", "shared")
    shared = view.locator("#legend-high").inner_text()
    assert float(shared.split("%")[0]) >= float(high.split("%")[0])
    assert (view.evaluate(HEAT) == own) == (shared == high)


def test_the_radius_takes_in_more_of_the_graph(view, explanation):
    view.select_option("#graph", "1")
    graph = explanation.causal[2]
    for radius in (1, 2, 3):
        view.fill("#radius", str(radius))
        inside = graph.explanation(radius)
        assert view.locator("#pag .node").count() == len(inside) + 1
        assert view.locator("#nodes li").count() == len(inside)
        weights = [float(t) for t in view.locator("#nodes strong").all_inner_texts()]
        np.testing.assert_allclose(weights, sorted(graph.weights[inside], reverse=True), atol=1e-3)
        among = [*inside, len(graph.nodes) - 1]
        marks = graph.marks[np.ix_(among, among)]
        assert view.locator("#pag .tip").count() == (marks == 2).sum()
        assert view.locator("#pag .open").count() == (marks == 1).sum()
        assert view.locator("#pag .edge").count() == np.count_nonzero(marks) // 2
    view.check("#outside")
    assert view.locator("#pag .node").count() == len(graph.nodes)


def test_concepts_show_the_patches_of_the_word_that_is_chosen(view):
    card = view.locator(".concept").first
    chosen = card.locator(".aword[aria-pressed='true']")
    first = chosen.inner_text()
    assert first in card.locator(".concept-map").inner_text()
    pixels = "(c => c.toDataURL())(document.querySelector('.concept .heat'))"
    before = view.evaluate(pixels)
    others = card.locator(".aword:not([aria-pressed='true'])")
    active = [b for b in others.all() if not b.get_attribute("title").endswith(": 0")]
    silent = [b for b in others.all() if b.get_attribute("title").endswith(": 0")]
    names = [button.get_attribute("title").rsplit(": ", 1)[0] for button in (active[0], silent[0])]
    card.locator(f".aword[title^='{names[0]}: ']").click()
    assert names[0] in chosen.inner_text() and view.evaluate(pixels) != before
    card.locator(f".aword[title^='{names[1]}: ']").click()
    assert f"Not active at “{names[1]}”" in card.inner_text()


def test_no_edge_of_the_graph_runs_over_a_node_that_it_does_not_join(view, explanation):
    """Measured on the drawing: a point of a path under the frame of a node between its ends."""
    crossed = """() => [...document.querySelectorAll('#pag g[data-edge]')].flatMap(group => {
        const path = group.querySelector('.edge'), length = path.getTotalLength();
        const points = [...Array(101).keys()].map(k => path.getPointAtLength(k * length / 100));
        return [...document.querySelectorAll('#pag .node')].filter(node => {
            const at = node.transform.baseVal.consolidate().matrix;
            const box = node.querySelector('.frame, .pill').getBBox();
            return points.some(p => Math.abs(p.x - at.e) < box.width / 2
                && Math.abs(p.y - at.f) < box.height / 2);
        }).map(node => group.dataset.edge + ' over ' + node.textContent);
    })"""
    for graph in ("0", "1"):
        view.select_option("#graph", graph)
        for radius in (1, 2, 3):
            view.fill("#radius", str(radius))
            for outside in (False, True):
                view.set_checked("#outside", outside)
                assert view.locator("#pag g[data-edge]").count() > 0
                assert view.evaluate(crossed) == []


def test_a_patch_has_one_name(view, explanation):
    view.fill("#radius", "1")
    node = next(n for n in explanation.causal[1].nodes if n["kind"] == "image")
    patch = node["patch"]
    name = f"atch {patch} (row {patch // 7 + 1}, column {patch % 7 + 1})"
    click_patch(view, explanation, patch)
    assert f"P{name}" in view.locator("#status").inner_text()
    view.select_option("#graph", "0")
    assert f"p{name}" in view.locator("#nodes").inner_text()
    drawn = view.locator("#pag text").all_text_contents()
    assert any(text.startswith(f"patch {patch} · ") for text in drawn)


def test_bars_of_all_concepts_share_one_scale_and_cards_open_on_their_map(page, tmp_path):
    explanation = example_explanation()
    found = explanation.concepts
    values = found.word_activations.copy()
    weak = int(np.argmax(values.max(axis=0)))
    values[:, weak] *= 0.01
    strongest = int(np.argmax(values[:, weak]))
    maps = {key: value for key, value in found.image.items() if key != (strongest, weak)}
    odd = replace(found, word_activations=values, image=maps)
    write_answer_html(replace(explanation, concepts=odd), tmp_path / "p.html")
    view = opened(page, tmp_path / "p.html")
    heights = """() => [...document.querySelectorAll('.concept')].map(card => [
        card.querySelector('.no').textContent,
        [...card.querySelectorAll('.abar')].map(bar => parseFloat(bar.style.height))])"""
    for index, bars in view.evaluate(heights):
        expected = 100 * values[:, int(index)] / values.max()
        np.testing.assert_allclose(bars, expected, atol=0.06)
    card = view.locator(".concept", has=view.locator(f"#concept-{weak}-title"))
    with_map = [w for w, k in maps if k == weak]
    best = max(with_map, key=lambda w: values[w, weak])
    pressed = card.locator(".aword[aria-pressed='true']").get_attribute("title")
    assert pressed.startswith(found.words[best] + ": ")
    assert f"Strongest at “{found.words[strongest]}”" in card.inner_text()
    card.locator(".aword").nth(strongest).click()
    assert "No map for this word: maps are made for the" in card.inner_text()


def test_on_a_narrow_screen_words_wrap_and_the_token_table_is_whole(page, path):
    page.set_viewport_size({"width": 390, "height": 800})
    view = opened(page, path)
    outside = """selector => [...document.querySelectorAll(selector)].filter(one => {
        const box = one.getBoundingClientRect();
        return box.width > 0 && (box.left < 0 || box.right > innerWidth);
    }).length"""
    for selector in (".aword", ".strip li", "#tokens td, #tokens tbody th"):
        assert view.locator(selector).count() > 0
        assert view.evaluate(outside, selector) == 0
    assert view.locator("#tokens tbody tr").first.locator("td").last.is_visible()


def test_saving_the_picture(view, explanation):
    word(view, 1).click()
    with view.expect_download() as download:
        view.locator("#save-png").click()
    assert download.value.suggested_filename == "red.png"
    picture = saved_picture(download.value)
    assert picture.format == "PNG" and picture.size == (747 + 32, 560 + 32 + 64)
    colours = {
        picture.convert("RGB").getpixel((16 + 100 * x, 80 * y))
        for x in range(7)
        for y in range(1, 7)
    }
    assert len(colours) > 8


def test_saving_the_data(view, explanation):
    trace = explanation.trace
    word(view, 1).click()
    view.select_option("#layer", "2")
    view.select_option("#head", "3")
    click_patch(view, explanation, 24)
    with view.expect_download() as download:
        view.locator("#save-json").click()
    assert download.value.suggested_filename == "red.json"
    data = json.loads(download.value.path().read_text(encoding="utf-8"))
    shown = data["view"]
    assert (shown["words"], shown["layer"], shown["head"], shown["patches"]) == ([1], 2, "3", [24])
    expected = trace.image_attention(1, 2, 3)
    atol = 0.0042 * expected.values[0].max()
    np.testing.assert_allclose(shown["map"][0], expected.values[0], atol=atol)
    assert shown["masses"]["image"] == pytest.approx(trace.masses(1, 2, 3)["image"], abs=1e-3)
    sums = np.array(data["attention"]["sums"]["image"]["layers"])
    np.testing.assert_allclose(sums[..., 1], trace.heads_by_layers("image", 1).values, atol=1e-3)
    assert [w["text"] for w in data["words"]] == [w.text for w in trace.words]
    found = explanation.relevancy["vision"]
    image = np.array(data["relevancy"][1]["image"])
    np.testing.assert_allclose(image, found.image[0], atol=0.0042 * image.max())
    assert data["faithfulness"][0]["deletion_area"] == 0.24
    assert "fingerprint" in json.dumps(data["record"])


def test_with_the_keyboard_alone(view, explanation):
    view.keyboard.press("Tab")  # the link that skips the bar
    for _ in range(30):
        view.keyboard.press("Tab")
        if view.evaluate("document.activeElement.id") == "stage-0":
            break
    assert view.evaluate("document.activeElement.id") == "stage-0"
    best = int(np.argmax(explanation.trace.image_attention().values[0]))
    name = f"row {best // 7 + 1}, column {best % 7 + 1}"
    assert name in view.locator("#status").inner_text()  # begins at the strongest patch
    view.keyboard.press("ArrowRight")
    assert name not in view.locator("#status").inner_text()
    view.keyboard.press("Enter")
    assert view.locator(".marks .ring:not(.under)").count() == 1
    view.keyboard.press("ArrowDown")
    view.keyboard.press("Space")
    assert view.locator(".marks .ring:not(.under)").count() == 2
    view.keyboard.press("Escape")
    assert view.locator(".marks .ring").count() == 0
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.dataset.word") == "0"
    assert "“a”" in view.locator("#about").inner_text()  # focus shows as pointing does
    view.keyboard.press("ArrowRight")
    view.keyboard.press("Space")
    assert word(view, 1).get_attribute("aria-pressed") == "true"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert view.evaluate(outline) == "solid"
    view.keyboard.press("Escape")
    assert word(view, 1).get_attribute("aria-pressed") == "false"
    view.locator(".cell").first.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "Enter"):
        view.keyboard.press(key)
    assert (view.input_value("#layer"), view.input_value("#head")) == ("2", "1")
    assert view.locator(".cell[tabindex='0']").count() == 1  # one stop on the way through


def test_markup_in_words_names_and_questions_stays_text(page, tmp_path):
    page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
    write_answer_html(example_explanation(nasty=True, n_images=2, tiles=True), tmp_path / "p.html")
    view = opened(page, tmp_path / "p.html")
    assert one_line(NASTY) in word(view, 1).inner_text()
    word(view, 1).click()
    view.fill("#radius", "3")
    view.locator("label", has_text="Relevancy, language").click()
    assert view.locator("img").count() == 0
    assert view.evaluate("document.scripts.length") == 2
    assert one_line(NASTY) in view.locator("#about").inner_text()
    with view.expect_download() as download:
        view.locator("#save-png").click()
    assert re.fullmatch(r"[\w-]+\.png", download.value.suggested_filename)
    wide = saved_picture(download.value)
    assert wide.width == 2 * 747 + 3 * 16  # both images


def test_parts_of_an_image_that_has_several_blocks(page, tmp_path):
    explanation = example_explanation(n_images=2, tiles=True)
    write_answer_html(explanation, tmp_path / "p.html")
    view = opened(page, tmp_path / "p.html")
    select = view.locator(".shot").first.locator("select")
    assert select.locator("option").all_inner_texts() == [
        "all", "whole image", "tile 1 of 2", "tile 2 of 2",
    ]  # fmt: skip
    before = view.evaluate(HEAT)
    select.select_option(label="tile 1 of 2")
    assert view.evaluate(HEAT) != before
    right = """(c => c.getContext('2d').getImageData(c.width - 2, 5, 1, 1).data[3])
        (document.querySelector('.heat'))"""
    floor = round(255 * 0.8 * colour_table("heat")[0, 3])
    assert view.evaluate(right) == pytest.approx(floor, abs=1)  # nothing beyond the tile
    row = explanation.trace.image_attention().values
    lost = [np.isnan(grid.boxes[:, 0]) for grid in explanation.trace.grids]
    share = sum(v[at].sum() for v, at in zip(row, lost, strict=True)) / sum(map(np.sum, row))
    assert close(number(view, "without a place"), float(share))
    box = view.locator("#stage-0").bounding_box()
    view.mouse.click(box["x"] + 5, box["y"] + 5)
    assert "row 1, column 1 of the tile 1 of 2 of image 1" in view.locator("#status").inner_text()
    values = explanation.trace.words_for_patches([49], image=0).values
    assert all(close(note(view, i), value) for i, value in enumerate(values))
    # The keys go from tile to tile when all parts are shown.
    select.select_option(label="all")
    view.keyboard.press("Tab")
    view.keyboard.press("Shift+Tab")
    view.locator("#stage-0").focus()
    names = set()
    for key in ["ArrowLeft"] * 14 + ["ArrowRight"] * 14:
        view.keyboard.press(key)
        names.add(re.search("tile . of 2", view.locator("#status").inner_text())[0])
    assert names == {"tile 1 of 2", "tile 2 of 2"}


def test_heads_that_were_left_out_cannot_be_chosen(page, explanation, tmp_path):
    context = answer_context(explanation, 0)
    (tmp_path / "p.html").write_text(
        render_page("answer.html", context, _STYLES, _SCRIPTS), encoding="utf-8"
    )
    view = opened(page, tmp_path / "p.html")
    disabled = view.locator("#head option[disabled]")
    assert disabled.all_inner_texts() == [str(head) for head in range(5)]
    assert view.locator("#layer option[disabled]").count() == 4
    assert view.locator("#strip-empty").is_visible()
    view.locator(".cell").first.click()  # the numbers are there; the map is not
    assert (view.input_value("#layer"), view.input_value("#head")) == ("mean", "mean")


def test_dark_and_light(view):
    ground = "getComputedStyle(document.body).backgroundColor"
    view.emulate_media(color_scheme="light")
    light = view.evaluate(ground)
    view.emulate_media(color_scheme="dark")
    assert view.evaluate(ground) != light
    view.locator("#theme").click()
    assert view.evaluate(ground) == light


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_sticks_out_sideways(page, width, tmp_path):
    write_answer_html(example_explanation(nasty=True, n_images=2, tiles=True), tmp_path / "p.html")
    page.set_viewport_size({"width": width, "height": 800})
    view = opened(page, tmp_path / "p.html")
    view.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert view.evaluate("document.documentElement.scrollWidth") <= width


def test_without_script_the_answer_and_the_tables_are_there(browser, path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("#stage-0 .photo").is_visible()
    assert "need JavaScript" in page.locator("noscript").inner_text()
    assert page.locator("#tokens tbody tr").count() == 8
    assert not page.locator("#controls").is_visible()
    context.close()


def test_a_page_of_summed_places_and_an_explanation_of_nothing(page, explanation, tmp_path):
    graph = explanation.causal[1]
    alone = replace(graph, radius=np.where(graph.radius == 0, 0, -1), weights=0 * graph.weights)
    large = example_explanation(shape=(20, 20), n_layers=2, n_heads=2)
    context = answer_context(replace(large, causal={1: alone, 2: large.causal[2]}), 1_000)
    (tmp_path / "p.html").write_text(
        render_page("answer.html", context, _STYLES, _SCRIPTS), encoding="utf-8"
    )
    view = opened(page, tmp_path / "p.html")
    assert "it has 100 places of 400" in view.locator(".notice").all_inner_texts()[0]
    assert number(view, "as if evenly on").endswith(" of 100")
    click_patch(view, explanation, 24)  # of 7 x 7: in the middle
    assert "row 6, column 6" in view.locator("#status").inner_text()
    assert view.locator("#pag .node svg").count() > 0
    view.locator("#graph").select_option("0")
    assert "stays dependent on “red”" in view.locator("#nodes").inner_text()
    assert "another head" in view.locator("#nodes").inner_text()
    assert view.locator("#radius").is_disabled()
