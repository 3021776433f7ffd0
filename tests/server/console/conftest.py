"""The console's pure modules, run by node; without it these tests skip."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from console_in_node import Console


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    if shutil.which("node") is None:
        pytest.skip("node runs the console's modules here, and is not installed")
    with Console(tmp_path_factory.mktemp("console")) as modules:
        yield modules
