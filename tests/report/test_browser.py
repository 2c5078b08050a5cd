"""The page in a real browser: nothing is blocked or fetched, and the controls work."""

import pytest

from semi_nmf_concepts.report import write_html
from tests._example_report import example_report
from tests.report._browser import CHROMIUM, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]

SHOWN = "[...document.querySelectorAll('.card')].filter(c => !c.hidden).map(c => +c.dataset.index)"


@pytest.fixture(scope="module")
def report():
    return example_report(n_concepts=8, n_local=6)


@pytest.fixture(scope="module")
def browser(report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    write_html(report, folder / "page.html")
    with Browser(folder / "profile") as browser:
        browser.page = folder / "page.html"
        yield browser


@pytest.fixture(autouse=True)
def fresh_page(browser):
    browser.open(browser.page)


def type_search(browser, text):
    browser.js(
        f"(s => {{ s.value = {text!r}; s.dispatchEvent(new Event('input')); }})"
        "(document.getElementById('search'))"
    )


def sort_by(browser, key):
    browser.js(
        f"(s => {{ s.value = {key!r}; s.dispatchEvent(new Event('change')); }})"
        "(document.getElementById('sort'))"
    )


def test_nothing_is_fetched_blocked_or_injected(browser):
    assert browser.js("document.documentElement.className") == "js"
    # Pictures do count as requests, of the data that the page itself holds.
    fetched = {url.split(":", 1)[0] for url in browser.requests}
    assert fetched <= {"file", "data"}
    assert {url for url in browser.requests if url.startswith("file:")} == {browser.page.as_uri()}
    assert browser.complaints == []
    assert browser.js("document.scripts.length") == 1
    assert browser.js("document.querySelectorAll('img').length") == 0


def test_stored_pictures_are_drawn_where_they_are_used(browser):
    sizes = browser.js(
        "[...document.querySelectorAll('.strip use')].map(u => u.getBoundingClientRect().width)"
    )
    assert sizes and min(sizes) > 20


def test_search_needs_every_word_and_can_be_cleared(browser, report):
    word = report.concepts[2].words[0]
    type_search(browser, word.upper())
    shown = browser.js(SHOWN)
    assert 2 in shown
    assert len(shown) == int(browser.js("document.getElementById('found').textContent").split()[0])
    type_search(browser, f"{word} nosuchword")
    assert browser.js(SHOWN) == []
    browser.js("document.getElementById('clear').click()")
    assert len(browser.js(SHOWN)) == 8


def test_sorting(browser, report):
    sort_by(browser, "share")
    expected = sorted(report.concepts, key=lambda c: (-c.share, c.index))
    assert browser.js(SHOWN) == [concept.index for concept in expected]
    sort_by(browser, "mean")
    expected = sorted(report.concepts, key=lambda c: (-c.mean_activation, c.index))
    assert browser.js(SHOWN) == [concept.index for concept in expected]
    sort_by(browser, "index")
    assert browser.js(SHOWN) == list(range(8))


def test_a_link_to_a_concept_overrides_the_search(browser):
    type_search(browser, "nosuchword")
    browser.js("location.hash = 'concept-3'")
    browser.js("new Promise(done => setTimeout(done, 50))")  # events of the address run later
    assert 3 in browser.js(SHOWN)


def test_samples_by_mouse_and_keyboard(browser):
    opened = "[...document.querySelectorAll('.sample.open')].map(s => s.id)"
    assert browser.js(opened) == ["sample-0"]
    browser.js("document.getElementById('sample-3-tab').click()")
    assert browser.js(opened) == ["sample-3"]
    for key, now in (("ArrowRight", 4), ("End", 5), ("ArrowRight", 0), ("ArrowLeft", 5)):
        browser.press(key)
        assert browser.js(opened) == [f"sample-{now}"]
        assert browser.js("document.activeElement.id") == f"sample-{now}-tab"


def test_theme_button(browser):
    background = "getComputedStyle(document.body).backgroundColor"
    first = browser.js(background)
    browser.js("document.getElementById('theme').click()")
    second = browser.js(background)
    browser.js("document.getElementById('theme').click()")
    assert browser.js(background) == first != second


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_sticks_out_sideways(browser, width):
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=False,
    )
    try:
        assert browser.js("document.documentElement.scrollWidth") <= width
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")
