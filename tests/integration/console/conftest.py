"""One browser and one server of each kind a module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from integration.console.chromium import running_browser
from integration.console.sites import ADMIN_KEY, API_KEY, DEMO, Console, thousand_tasks
from jumplora_bench.server_process import served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """`jumplora serve` on a copy of the demo, with an api key and an admin key."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(DEMO / "store", folder / "store")
    settings = {"admin_keys": ADMIN_KEY, "api_keys": API_KEY, "threads": 1}
    with served(DEMO / "backbone", folder / "store", folder / "log", settings) as server:
        yield Console(server.url, folder)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A server of 1,000 tasks, of which some are loaded."""
    with thousand_tasks(tmp_path_factory.mktemp("thousand")) as console:
        yield console
