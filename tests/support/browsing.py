"""The page in a real browser: headless Chromium, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATIENCE_MS = 90_000
"""Machines that test are busy. This only guards against hanging."""


@dataclass
class Opened:
    """A page, and what went wrong in it: console errors, failed requests, and requests that would leave this machine."""

    page: Page
    address: str
    wrong: list[str] = field(default_factory=list)


@contextmanager
def opened(address: str, drawn: str = "body[data-drawn]", **options: Any) -> Iterator[Opened]:
    """The page at `address`, as soon as there is an element `drawn`. options: of the browser's context, such as color_scheme="dark"."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            page = browser.new_context(viewport={"width": 1366, "height": 860}, **options).new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.set_default_navigation_timeout(PATIENCE_MS)
            found = Opened(page, address)
            page.on("console", lambda message: found.wrong.append(message.text) if message.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: found.wrong.append(str(error)))
            page.on("requestfailed", lambda request: found.wrong.append(f"{request.url}: {request.failure}") if "ABORTED" not in str(request.failure) else None)
            page.on(
                "request",
                lambda request: None if request.url.startswith((address.split("?")[0].split("#")[0], "data:", "blob:")) else found.wrong.append(request.url),
            )
            page.goto(address)
            page.wait_for_selector(drawn)
            yield found
        finally:
            browser.close()


def until(page: Page, expression: str) -> None:
    """Wait until a JavaScript expression is true. The page's own policy forbids what playwright has for this: code that is made from text."""
    for _ in range(PATIENCE_MS // 100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"it is never true: {expression}")
