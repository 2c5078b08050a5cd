"""The fixture `page` notices what it promises to notice."""

import pytest

from tests import _browser
from tests._browser import browser, page  # noqa: F401


@pytest.mark.parametrize(
    "html, complaint",
    [
        ("<script>console.error('of the console')</script>", "of the console"),
        ("<script>throw new Error('uncaught')</script>", "uncaught"),
        ("<script>Promise.reject(new Error('promised'))</script>", "promised"),
        ("<img src='nothing.png'>", "ERR_FILE_NOT_FOUND"),
    ],
)
def test_complaints_are_collected(page, tmp_path, html, complaint):  # noqa: F811
    show(page, tmp_path, html)
    assert any(complaint in text for text in page.complaints)
    page.complaints.clear()


@pytest.mark.parametrize(
    "html",
    [
        "<img src='http://example.com/a.png'>",
        "<link rel=stylesheet href='https://fonts.example.com/a.css'>",
        "<script>fetch('https://192.0.2.1/')</script>",
        "<script>new WebSocket('wss://example.com')</script>",
    ],
)
def test_requests_elsewhere_are_collected(page, tmp_path, html):  # noqa: F811
    show(page, tmp_path, html)
    assert [url for url in page.requests if not _browser.is_local(url)]
    page.complaints.clear()
    page.requests.clear()


def test_a_quiet_page(page, tmp_path):  # noqa: F811
    show(page, tmp_path, "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='><p>hello")
    assert page.complaints == []
    assert all(map(_browser.is_local, page.requests))


def test_a_missing_browser_skips_or_fails(monkeypatch):
    monkeypatch.delenv(_browser.REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        _browser.lacking("no browser")
    monkeypatch.setenv(_browser.REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match=_browser.REQUIRED):
        _browser.lacking("no browser")


def show(page, folder, html):  # noqa: F811
    path = folder / "page.html"
    path.write_text(f"<!doctype html><title>page</title>{html}")
    page.goto(path.as_uri())
    page.wait_for_timeout(200)
