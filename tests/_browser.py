"""Pages in a real browser: Debian's Chromium, driven through Playwright, which downloads none.

The fixture `page` fails its test for whatever the page complains about (errors of the console,
uncaught errors), and for every request that would leave this machine. Import both fixtures into the
conftest.py of the tests that need them.
"""

import os
import shutil
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
REQUIRED = "SEMI_NMF_CONCEPTS_REQUIRE_BROWSER"
LOCAL_SCHEMES = {"file", "data", "blob", "about"}
LOCAL_HOSTS = {"127.0.0.1", "localhost"}
_FLAGS = (
    "--no-sandbox",  # Chromium refuses to run as root with it, which continuous integration is
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    # Whatever asks for another host is told that there is none.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
)


def find_browser():
    """Path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def is_local(url):
    """Whether an address is of this machine."""
    parts = urlsplit(url)
    return parts.scheme in LOCAL_SCHEMES or parts.hostname in LOCAL_HOSTS


def lacking(what):
    """Skip the test for want of a browser, or fail it where there has to be one."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{what}, and {REQUIRED}=1 asks for it")
    pytest.skip(what)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium for the tests of one file.

    No longer than that: while Playwright runs, nothing else in its thread can run an event loop.
    """
    path = find_browser()
    if path is None:
        lacking(f"no Chromium is installed ({', '.join(NAMES)})")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("Playwright is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """An empty page of its own profile; what it complains about fails the test.

    A test that expects complaints reads and clears the list `page.complaints`. `page.requests` are
    the addresses that the page has asked for.
    """
    context = browser.new_context(accept_downloads=True, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    watch(context, page)
    yield page
    context.close()
    if page.complaints:
        pytest.fail(f"the page complained: {page.complaints}")
    elsewhere = [url for url in page.requests if not is_local(url)]
    if elsewhere:
        pytest.fail(f"the page asked other machines: {elsewhere}")


def watch(context, page):
    """Collect complaints and requests of a page, and of those it opens, in the page's lists."""
    page.complaints, page.requests = [], []
    context.on("request", lambda request: page.requests.append(request.url))
    context.on("weberror", lambda error: page.complaints.append(str(error.error)))
    context.on(
        "console",
        lambda message: page.complaints.append(message.text) if message.type == "error" else None,
    )
    page.on("websocket", lambda socket: page.requests.append(socket.url))
