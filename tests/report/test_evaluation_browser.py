"""The page of an evaluation in a real browser: nothing blocked, fetched, or sticking out."""

import pytest

from semi_nmf_concepts.report import write_evaluation_html
from tests._example_evaluation import example_evaluation
from tests.report._browser import CHROMIUM, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]

_FIGURES = "[...document.querySelectorAll('.plot img')]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    write_evaluation_html(example_evaluation(n_concepts=4), folder / "page.html")
    with Browser(folder / "profile") as browser:
        browser.page = folder / "page.html"
        yield browser


@pytest.fixture(autouse=True)
def fresh_page(browser):
    browser.open(browser.page)


def test_nothing_is_fetched_blocked_or_injected(browser):
    assert browser.js("document.documentElement.className") == "js"
    assert {url.split(":", 1)[0] for url in browser.requests} <= {"file", "data"}
    assert {url for url in browser.requests if url.startswith("file:")} == {browser.page.as_uri()}
    assert browser.complaints == []
    assert browser.js("document.scripts.length") == 1


def test_every_image_is_drawn(browser):
    assert browser.js("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_figures_follow_the_theme(browser):
    shown = f"{_FIGURES}.filter(i => i.offsetWidth > 0).map(i => i.className)"
    assert set(browser.js(shown)) == {"on-light"}
    browser.js("document.getElementById('theme').click()")
    try:
        assert set(browser.js(shown)) == {"on-dark"}
    finally:
        browser.js("document.getElementById('theme').click()")


def test_a_link_opens_the_folded_part_that_it_leads_to(browser):
    assert not browser.js("document.getElementById('token-1').open")
    browser.js("location.hash = 'concept-1-2'")
    browser.js("new Promise(done => setTimeout(done, 200))")
    assert browser.js("document.getElementById('token-1').open")


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_sticks_out_sideways(browser, width):
    browser.js("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", **metrics)
    try:
        assert browser.js("document.documentElement.scrollWidth") <= width
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")
