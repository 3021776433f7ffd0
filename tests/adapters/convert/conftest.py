"""One tiny backbone for all conversions; nothing here writes to it."""

from __future__ import annotations

import pytest

from factories import tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.convert.draft import Draft


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return read_backbone(tiny_t5(tmp_path_factory.mktemp("backbone") / "tiny"))


@pytest.fixture
def draft() -> Draft:
    return Draft(task="task", created="2026-01-01T00:00:00Z")
