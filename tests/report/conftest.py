"""Fixtures that pages are opened with."""

from tests._browser import browser, page  # noqa: F401
