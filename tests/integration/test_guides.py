"""The guides, typed from top to bottom as a reader types them, beside a copy of the project."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from integration.desk import Desk, copied_project
from integration.pages import lacking, steps
from integration.prometheus_process import ROOT
from ports import held_port

GUIDES = ROOT / "guides"
START = GUIDES / "README.md"
PAGES = sorted(path.name for path in GUIDES.glob("*.md") if path != START)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A folder beside a clone with a server, as guides/README.md makes it."""
    folder = tmp_path_factory.mktemp("guides")
    copied_project(folder / "jumplora")
    (first, _), (second, _) = steps(START)
    with held_port() as port:
        desk = Desk(folder, port)
        with desk.served(first.text):
            desk.type(second.text)
            yield desk


@pytest.fixture(autouse=True)
def _no_more_files(desk: Desk) -> Iterator[None]:
    """Each guide finds the desk as the first page leaves it, but for the tasks in the store."""
    yield
    for path in (desk.folder / "desk").iterdir():
        if path.name != "store":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_does_what_its_page_shows(desk: Desk, page: str) -> None:
    for block, outputs in steps(GUIDES / page):
        printed = desk.follow(block)
        for shown in outputs:
            assert lacking(shown, printed) == [], f"{page}, line {shown.line}:\n{printed}"


def test_the_first_page_lists_every_guide() -> None:
    text = START.read_text("utf-8")
    assert [page for page in PAGES if f"]({page})" not in text] == []


def test_no_page_shows_more_than_it_types() -> None:
    """Each block is run or compared: none has a language that no test looks at."""
    languages = {
        block.language
        for page in PAGES
        for typed, outputs in steps(GUIDES / page)
        for block in (typed, *outputs)
    }
    assert languages == {"bash", "python", "text"}
