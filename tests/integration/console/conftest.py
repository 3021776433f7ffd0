"""One browser and one server of each kind for all tests of pages.

They end with this package, for which it needs its __init__.py: without one they would live until
all tests are through, and Playwright leaves no other event loop to the thread that it runs in.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from integration.console.chromium import running_browser
from integration.console.sites import Demo, Listening, demo_server, thousand_tasks


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="package")
def demo(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """After the browser, so that nothing starts where there is none."""
    with demo_server(tmp_path_factory.mktemp("demo")) as demo:
        yield demo


@pytest.fixture(scope="package")
def thousand(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """A server of 1,000 tasks, of which some are loaded."""
    with thousand_tasks(tmp_path_factory.mktemp("thousand")) as thousand:
        yield thousand
