"""Whatever lies in a store: its own task is told of it, nothing leaks or waits, and it heals."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import odd_entries
from factories import toy_backbone, write_random_adapter
from jumplora_adapters.errors import AdapterError, NoPointer, StoreError, UnknownVersion
from jumplora_adapters.format import read_adapter
from jumplora_adapters.store import Store
from odd_entries import ENTRIES, NOT_FILES, descriptors

BACKBONE = toy_backbone()


@dataclass(frozen=True)
class Odd:
    """A store with something odd in task `odd`, whose versions were `older`, then `newer`."""

    store: Store
    file: Path
    older: str
    newer: str
    other: str
    outside: Path

    def is_sound(self, task: str) -> bool:
        """Whether a task's current version is whole, as a reader that knows nothing finds it."""
        reader = Store(self.store.root)
        digest = reader.survey().get(task)
        if not isinstance(digest, str):
            return False
        return read_adapter(reader.path_of(digest), BACKBONE, expect_digest=digest) is not None


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], list[str]]:
    """A sound store, the files in it, and their digests."""
    folder = tmp_path_factory.mktemp("sound")
    store = Store(folder / "store")
    files = [
        write_random_adapter(folder, BACKBONE, task=task, seed=seed)
        for task, seed in (("odd", 0), ("odd", 1), ("other", 2))
    ]
    return store.root, files, [store.publish(file, BACKBONE).digest for file in files]


@pytest.fixture
def odd(
    request: pytest.FixtureRequest,
    sound: tuple[Path, list[Path], list[str]],
    tmp_path: Path,
) -> Iterator[Odd]:
    """The store with the entry that the test is parametrized with; nothing may leak from it."""
    root, files, (older, newer, other) = sound
    shutil.copytree(root, tmp_path / "store")
    odd_entries.put(tmp_path / "store", newer, request.param)
    outside = tmp_path / "outside"
    store = Store(tmp_path / "store")
    before = descriptors()
    yield Odd(store, files[1], older, newer, other, outside)
    assert descriptors() == before
    if outside.exists():  # links out of the store were not followed
        assert [path.name for path in outside.iterdir()] == ["current"]
    assert not [path.name for path in store.root.rglob(".[rt]*")]


every_entry = pytest.mark.parametrize("odd", ENTRIES, indirect=True)
of_pointers = pytest.mark.parametrize(
    "odd", [name for name in ENTRIES if name.startswith("current")], indirect=True
)


@every_entry
def test_survey_tells_of_the_task_alone(odd: Odd, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["odd"]
    for _ in range(3):
        found = odd.store.survey()
        assert found["other"] == odd.other
        if name == "task: pipe":
            assert "odd" not in found
        elif name.startswith(("current", "task")):
            assert isinstance(found["odd"], StoreError)
            assert isinstance(found["odd"], NoPointer) == (name == "task: folder")
            assert str(odd.store.root) in str(found["odd"])
        else:
            assert found["odd"] == odd.newer


@every_entry
def test_versions_are_found_where_they_are(odd: Odd, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["odd"]
    assert odd.store.path_of(odd.other).is_file()
    assert odd.store.manifest(odd.other).task == "other"
    assert len(odd.store.stamps_of(odd.other)) == 1
    is_there = name.startswith(("current", "history"))
    if name.startswith("version") and name.removeprefix("version: ") not in NOT_FILES:
        is_there = True  # as a file; whether it is whole its reader finds out
    assert len(odd.store.files_of(odd.newer)) == is_there
    if not is_there:
        with pytest.raises(UnknownVersion):
            odd.store.path_of(odd.newer)


@every_entry
def test_publishing_heals(odd: Odd) -> None:
    published = odd.store.publish(odd.file, BACKBONE)
    assert published.digest == odd.newer
    assert odd.is_sound("odd")
    assert odd.is_sound("other")
    assert odd.store.publish(odd.file, BACKBONE).outcome == "unchanged"
    assert stat.S_ISREG((odd.store.root / "odd" / "current").lstat().st_mode)


@every_entry
def test_removing_heals(odd: Odd) -> None:
    odd.store.remove("odd")
    assert odd.store.survey() == {"other": odd.other}
    assert not os.path.lexists(odd.store.root / "odd")
    assert odd.store.publish(odd.file, BACKBONE).outcome == "created"
    assert odd.is_sound("odd")


@every_entry
def test_rollback_heals_or_says_why_not(odd: Odd, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["odd"]
    if name.startswith("task"):  # no version is left
        with pytest.raises(AdapterError, match="odd"):
            odd.store.rollback("odd")
        return
    assert odd.store.rollback("odd", odd.older) == odd.older
    assert odd.is_sound("odd")
    assert odd.store.history("odd")[-1].event == "rollback"


@of_pointers
def test_a_lost_pointer_goes_back_to_what_it_named(odd: Odd) -> None:
    assert odd.store.rollback("odd") == odd.newer
    assert odd.is_sound("odd")
    assert odd.store.rollback("odd") == odd.older


@pytest.mark.parametrize("kind", NOT_FILES)
def test_sweeping_takes_what_has_the_stores_own_names(tmp_path: Path, kind: str) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    (store.root / "task").mkdir()
    for path in (".tmp-1", ".removed-1", "task/.tmp-2", "task/.removed-2"):
        NOT_FILES[kind](store.root / path)
    before = descriptors()
    store.sweep()
    assert descriptors() == before
    assert sorted(path.name for path in store.root.rglob("*")) == [".lock", "task"]


@pytest.mark.parametrize("kind", NOT_FILES)
def test_a_lock_that_is_no_file(
    tmp_path: Path, sound: tuple[Path, list[Path], list[str]], kind: str
) -> None:
    shutil.copytree(sound[0], tmp_path / "store")
    lock = tmp_path / "store" / ".lock"
    lock.unlink()
    NOT_FILES[kind](lock)
    store = Store(tmp_path / "store")
    before = descriptors()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"cannot be written.*\.lock is"):
            store.publish(sound[1][0], BACKBONE)
        with pytest.raises(StoreError, match=r"cannot be written.*\.lock is"):
            store.remove("odd")
    assert descriptors() == before
    assert store.current("odd") == sound[2][1]
    assert not list(store.root.glob(".tmp*"))
