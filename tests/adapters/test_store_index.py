"""Finding versions among many tasks, while other processes change the folder."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from jumplora_adapters.catalogue import Catalogue
from jumplora_adapters.errors import StoreError, UnknownVersion
from jumplora_adapters.store_index import FEW_FOLDERS, REFRESH_SECONDS, StoreIndex

COUNTS = [3, 2 * FEW_FOLDERS]


def digest_of(number: int) -> str:
    return f"{number:064x}"


def place(root: Path, task: str, digest: str) -> Path:
    """A version's file, as another process would put it there; its pointer too."""
    folder = root / task
    folder.mkdir(exist_ok=True)
    path = folder / f"{digest}.safetensors"
    path.write_bytes(b"content")
    (folder / "current").write_text(f"{digest}\n")
    return path


@pytest.fixture(params=COUNTS)
def catalogue(request: pytest.FixtureRequest, tmp_path: Path) -> Catalogue:
    """A store of some tasks, each with one version."""
    for number in range(request.param):
        place(tmp_path, f"task-{number}", digest_of(number))
    return Catalogue(tmp_path)


def make_old(root: Path) -> None:
    """Let everything look as if it was written long ago, so that stamps are trusted."""
    deadline = time.monotonic() + 10
    for path in [root, *root.rglob("*")]:
        os.utime(path, (1, 1))
    while time.time_ns() - max(p.stat().st_ctime_ns for p in [root, *root.rglob("*")]) < 2.1e9:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_version_is_found_as_soon_as_it_is_there(catalogue: Catalogue) -> None:
    root = catalogue.root
    for round_ in range(3):
        new = digest_of(1000 + round_)
        assert not catalogue.files_of(new)
        assert not catalogue.stamps_of(new)
        path = place(root, "task-1", new)
        assert catalogue.files_of(new) == (path,)
        path.unlink()
        with pytest.raises(UnknownVersion):
            catalogue.path_of(new)
        path = place(root, f"fresh-{round_}", new)
        assert catalogue.path_of(new) == path
        shutil.rmtree(path.parent)
        assert catalogue.files_of(new) == ()


def test_stamps_tell_that_a_file_changed(catalogue: Catalogue) -> None:
    (before,) = catalogue.stamps_of(digest_of(0))
    path = catalogue.path_of(digest_of(0))
    other = path.with_name("other")
    other.write_bytes(b"content")
    other.replace(path)
    assert catalogue.stamps_of(digest_of(0)) != (before,)


def test_copies_are_found_in_the_order_of_their_tasks(tmp_path: Path) -> None:
    times = iter([float(n) for n in range(100)])
    for number in range(2 * FEW_FOLDERS):
        place(tmp_path, f"task-{number:03}", digest_of(number))
    index = StoreIndex(tmp_path, clock=lambda: next(times))  # every question is a second later
    assert REFRESH_SECONDS < 1
    first = tmp_path / "task-005" / f"{digest_of(5)}.safetensors"
    assert [path for path, _ in index.files_of(digest_of(5))] == [first]
    copy = place(tmp_path, "task-001", digest_of(5))
    assert [path for path, _ in index.files_of(digest_of(5))] == [copy, first]
    copy.unlink()
    assert [path for path, _ in index.files_of(digest_of(5))] == [first]


def test_survey_follows_pointers_that_look_old(catalogue: Catalogue) -> None:
    root = catalogue.root
    make_old(root)
    before = catalogue.survey()
    assert catalogue.survey() == before
    pointer = root / "task-0" / "current"
    pointer.write_text(f"{digest_of(7)}\n")  # as long as before, in the same file
    os.utime(pointer, (1, 1))
    assert catalogue.survey() == {**before, "task-0": digest_of(7)}
    for number in (8, 9, 10):  # just written, so that two writes may share a time
        pointer.write_text(f"{digest_of(number)}\n")
        assert catalogue.survey()["task-0"] == digest_of(number)


def test_a_store_that_is_none(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "store")
    with pytest.raises(StoreError, match="is not there"):
        catalogue.survey()
    catalogue.root.mkdir()
    (catalogue.root / "lost+found").mkdir()
    with pytest.raises(StoreError, match="volume mounted"):
        catalogue.survey()
    with pytest.raises(StoreError, match="volume mounted"):
        catalogue.current("task")
    (catalogue.root / ".lock").touch()
    assert catalogue.survey() == {}
    (catalogue.root / ".lock").unlink()
    place(catalogue.root, "task", digest_of(1))
    assert catalogue.survey() == {"task": digest_of(1)}
    shutil.rmtree(catalogue.root)
    catalogue.root.write_text("a file")
    with pytest.raises(StoreError, match="cannot be read"):
        catalogue.survey()
