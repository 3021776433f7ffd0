"""Chromium for tests of pages: Debian's, or the one that CONSOLE_BROWSER names.

A page may load from its own server only. What it or the browser complains of, and what it asks of
other servers, is kept, and fails the test at the end of the page's block.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

PATIENCE = 20.0  # seconds that a test waits for what must happen
Scheme = Literal["light", "dark"]
SERIOUS = frozenset({"serious", "critical"})
REFUSED = "the server responded with a status of 4"  # which Chromium reports of each such answer

expect.set_options(timeout=PATIENCE * 1000)


def program() -> str:
    """The browser's path. Skips the test without one, and says how to get it."""
    named = os.environ.get("CONSOLE_BROWSER")
    found = shutil.which(named or "chromium")
    if found is None:
        told = f"no {named or 'chromium'} found: apt-get install chromium, or set CONSOLE_BROWSER"
        assert "REQUIRE_BROWSER" not in os.environ, f"{told}; it is required"
        pytest.skip(told)
    return found


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Headless Chromium, until the end of the block."""
    path = program()
    with sync_playwright() as playwright:
        # Its sandbox needs rights that containers do not give.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Faults:
    """What should not have happened on a page."""

    origin: str
    found: list[str] = field(default_factory=list)

    def on_route(self, route: Route) -> None:
        """Let requests of the page's own server through, and keep the others."""
        parts = urlsplit(route.request.url)
        if f"{parts.scheme}://{parts.netloc}" == self.origin:
            route.continue_()
        else:
            self.found.append(f"asks {route.request.url[:200]}")
            route.abort()

    def on_console(self, message: ConsoleMessage) -> None:
        """Keep warnings and errors."""
        if message.type in ("warning", "error", "assert"):
            where = message.location.get("url", "")
            self.found.append(f"{message.type}: {message.text} ({where})")


@contextmanager
def open_page(
    browser: Browser,
    url: str,
    path: str = "/",
    *,
    key: str | None = None,
    scheme: Scheme = "light",
    size: tuple[int, int] = (1440, 900),
    expected: str | None = None,
) -> Iterator[Page]:
    """A page in a context of its own; `key` is as if typed into the console before.

    Complaints with the text `expected` are no faults.
    """
    faults = Faults(url)
    context = browser.new_context(
        base_url=url,
        color_scheme=scheme,
        viewport={"width": size[0], "height": size[1]},
        reduced_motion="reduce",
        permissions=["clipboard-read", "clipboard-write"],
    )
    try:
        context.set_default_timeout(PATIENCE * 1000)
        context.route("**/*", faults.on_route)
        if key is not None:
            context.add_init_script(f"sessionStorage.setItem('jumplora.key', '{key}')")
        page = context.new_page()
        page.on("console", faults.on_console)
        page.on(
            "pageerror", lambda error: faults.found.append(f"throws {error.message}: {error.stack}")
        )
        page.goto(path)
        yield page
        wrong = [fault for fault in faults.found if expected is None or expected not in fault]
        assert wrong == [], "\n".join(wrong)
    finally:
        context.close()


def check_accessible(page: Page) -> None:
    """axe-core has no serious or critical finding."""
    found = Axe().run(page).response["violations"]
    told = [
        f"{each['impact']} {each['id']}: {each['help']}: "
        + "; ".join(f"{node['target']} {node['html'][:120]}" for node in each["nodes"][:5])
        for each in found
        if each["impact"] in SERIOUS
    ]
    assert told == [], "\n".join(told)
