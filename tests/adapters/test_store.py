"""Changes to the store: what each does, what it refuses, and that a refusal leaves nothing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from factories import toy_backbone, write_random_adapter
from jumplora_adapters.errors import (
    FormatError,
    HasDescendants,
    MissingAncestor,
    StoreError,
    TaskExists,
    TaskIdInvalid,
    UnknownTask,
    UnknownVersion,
    VersionConflict,
)
from jumplora_adapters.format import read_adapter
from jumplora_adapters.store import Published, Store
from jumplora_adapters.store_steps import Step

BACKBONE = toy_backbone()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store whose folder is not there yet."""
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four versions of task `agnews`."""
    folder = tmp_path_factory.mktemp("adapters")
    return [write_random_adapter(folder, BACKBONE, task="agnews", seed=seed) for seed in range(4)]


def files_of(store: Store) -> list[str]:
    """Every file and folder of the store, except its lock."""
    return sorted(
        str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.name != ".lock"
    )


def test_publish_makes_a_version_current(store: Store, adapters: list[Path]) -> None:
    first, second = (store.publish(path, BACKBONE) for path in adapters[:2])
    assert (first.task, first.outcome, second.outcome) == ("agnews", "created", "created")
    assert store.pointers() == {"agnews": second.digest}
    assert store.tasks() == ["agnews"]
    assert store.versions("agnews") == tuple(sorted([first.digest, second.digest]))
    adapter = read_adapter(store.path_of(first.digest), BACKBONE, expect_digest=first.digest)
    assert store.manifest(first.digest) == adapter.manifest
    assert files_of(store) == sorted(
        ["agnews", "agnews/current", "agnews/history.jsonl"]
        + [f"agnews/{published.digest}.safetensors" for published in (first, second)]
    )
    assert (store.root / "agnews" / "current").read_text() == f"{second.digest}\n"


def test_publishing_again_changes_nothing_or_repoints(store: Store, adapters: list[Path]) -> None:
    first = store.publish(adapters[0], BACKBONE)
    assert store.publish(adapters[0], BACKBONE).outcome == "unchanged"
    assert len(store.history("agnews")) == 1
    store.publish(adapters[1], BACKBONE)
    again = store.publish(adapters[0], BACKBONE)
    assert (again.outcome, again.digest) == ("repointed", first.digest)
    assert store.current("agnews") == first.digest
    events = [(entry.digest == first.digest, entry.event) for entry in store.history("agnews")]
    assert events == [(True, "publish"), (False, "publish"), (True, "repoint")]


def test_publishing_again_mends_a_damaged_version(store: Store, adapters: list[Path]) -> None:
    published = store.publish(adapters[0], BACKBONE)
    path = store.path_of(published.digest)
    path.write_bytes(path.read_bytes()[:-1])
    assert store.publish(adapters[0], BACKBONE).outcome == "unchanged"
    read_adapter(path, BACKBONE, expect_digest=published.digest)


def test_rollback_goes_back_step_by_step(store: Store, adapters: list[Path]) -> None:
    a, b, c, d = (store.publish(path, BACKBONE).digest for path in adapters)
    assert store.trail("agnews") == (a, b, c, d)
    assert store.rollback("agnews") == c
    assert store.rollback("agnews") == b
    assert store.trail("agnews") == (a, b)
    assert store.rollback("agnews", to=d) == d == store.current("agnews")
    assert store.rollback("agnews") == b
    assert store.rollback("agnews", to=b) == b
    assert store.rollback("agnews") == a
    with pytest.raises(UnknownVersion, match="no version before"):
        store.rollback("agnews")
    assert [entry.digest for entry in store.history("agnews")] == [a, b, c, d, c, b, d, b, a]


@pytest.mark.parametrize("to", ["0" * 64, "abc", "../../x", ""])
def test_rollback_to_what_is_not_there(store: Store, adapters: list[Path], to: str) -> None:
    store.publish(adapters[0], BACKBONE)
    with pytest.raises(UnknownVersion):
        store.rollback("agnews", to=to)


def test_refused_files_leave_nothing(store: Store, adapters: list[Path], tmp_path: Path) -> None:
    store.publish(adapters[0], BACKBONE)
    before = files_of(store)
    content = adapters[1].read_bytes()
    flipped = bytearray(content)
    flipped[-1] ^= 0x7F
    for name, bad in {"cut": content[:-1], "empty": b"", "flipped": bytes(flipped)}.items():
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(FormatError):
            store.publish(tmp_path / name, BACKBONE)
    with pytest.raises(FormatError) as caught:
        store.publish(adapters[1], toy_backbone(fingerprint="cd" * 32))
    assert caught.value.code == "fingerprint"
    with pytest.raises(FormatError, match="'agnews', not 'dbpedia'"):
        store.publish(adapters[1], BACKBONE, expect_task="dbpedia")
    with pytest.raises(VersionConflict):
        store.publish(adapters[1], BACKBONE, if_match="0" * 64)
    assert files_of(store) == before


def test_files_over_the_stores_limit_are_refused(tmp_path: Path, adapters: list[Path]) -> None:
    store = Store(tmp_path / "store", max_file_bytes=1000)
    with pytest.raises(FormatError) as caught:
        store.publish(adapters[0], BACKBONE)
    assert caught.value.code == "file_size"
    assert not store.root.exists()


def test_publish_only_over_the_expected_version(store: Store, adapters: list[Path]) -> None:
    with pytest.raises(VersionConflict, match="none"):
        store.publish(adapters[0], BACKBONE, if_match="0" * 64)
    first = store.publish(adapters[0], BACKBONE).digest
    second = store.publish(adapters[1], BACKBONE, if_match=first).digest
    with pytest.raises(VersionConflict, match=second):
        store.publish(adapters[2], BACKBONE, if_match=first)
    # A retry of what has happened already is no conflict.
    assert store.publish(adapters[1], BACKBONE, if_match=first).outcome == "unchanged"


def adopted(store: Store, path: Path) -> Published:
    store.prepare()
    with store.incoming() as incoming:
        incoming.write(path.read_bytes())
        incoming.finish()
        return store.adopt(incoming, BACKBONE, only_new=True)


def test_publish_only_of_a_new_task(store: Store, adapters: list[Path]) -> None:
    first = adopted(store, adapters[0]).digest
    before = files_of(store)
    for path in adapters[:2]:  # an equal file is no new task either
        with pytest.raises(TaskExists, match=first):
            adopted(store, path)
    assert files_of(store) == before
    (store.root / "agnews" / "current").write_text("damaged")
    with pytest.raises(TaskExists, match="damaged"):
        adopted(store, adapters[1])
    store.remove("agnews")
    assert adopted(store, adapters[1]).outcome == "created"


def test_of_publishes_of_a_new_task_at_once_one_succeeds(
    tmp_path: Path, adapters: list[Path]
) -> None:
    all_here = threading.Barrier(len(adapters), timeout=20)

    def on_step(step: Step) -> None:
        if step == "copied":
            all_here.wait()

    store = Store(tmp_path / "store", on_step=on_step)

    def publish(path: Path) -> str:
        try:
            return adopted(store, path).outcome
        except TaskExists:
            return "refused"

    with ThreadPoolExecutor(len(adapters)) as threads:
        outcomes = sorted(threads.map(publish, adapters))
    assert outcomes == ["created"] + ["refused"] * (len(adapters) - 1)
    assert len(store.versions("agnews")) == 1


def publish_chain(store: Store, folder: Path, length: int = 3) -> list[str]:
    """Publish t0, t1, ..., each with all earlier ones as its lineage."""
    digests: list[str] = []
    for index in range(length):
        path = write_random_adapter(folder, BACKBONE, task=f"t{index}", lineage=digests)
        digests.append(store.publish(path, BACKBONE).digest)
    return digests


def test_ancestors_must_be_there(store: Store, tmp_path: Path) -> None:
    path = write_random_adapter(tmp_path, BACKBONE, task="child", lineage=["0" * 64])
    with pytest.raises(MissingAncestor, match="oldest first"):
        store.publish(path, BACKBONE)
    assert files_of(store) == []


def test_ancestors_must_be_of_the_same_backbone(store: Store, tmp_path: Path) -> None:
    other = toy_backbone(fingerprint="cd" * 32)
    parent = store.publish(write_random_adapter(tmp_path, other, task="parent"), other).digest
    path = write_random_adapter(tmp_path, BACKBONE, task="child", lineage=[parent])
    with pytest.raises(MissingAncestor, match="another backbone"):
        store.publish(path, BACKBONE)


def test_ancestors_are_kept_while_they_are_needed(
    store: Store, adapters: list[Path], tmp_path: Path
) -> None:
    t0, t1, t2 = publish_chain(store, tmp_path)
    assert store.descendants(t0) == (("t1", t1), ("t2", t2))
    assert store.descendants(t2) == ()
    for task in ("t0", "t1"):
        with pytest.raises(HasDescendants, match="t2@" if task == "t1" else "t1@"):
            store.remove(task)
    store.publish(write_random_adapter(tmp_path, BACKBONE, task="t0", seed=9), BACKBONE)
    with pytest.raises(HasDescendants):
        store.remove_version("t0", t0)
    for task in ("t2", "t1", "t0"):
        store.remove(task)
    assert files_of(store) == []


def test_a_version_that_cannot_be_read_holds_up_no_other_task(store: Store, tmp_path: Path) -> None:
    t0, t1, t2 = publish_chain(store, tmp_path)
    store.publish(write_random_adapter(tmp_path, BACKBONE, task="t0", seed=9), BACKBONE)
    damaged = store.path_of(t2)
    content = damaged.read_bytes()
    damaged.write_bytes(content[:100])
    fresh = Store(store.root)
    assert fresh.descendants(t0) == (("t1", t1),)
    with pytest.raises(HasDescendants, match="t1@"):  # what can be read counts as before
        fresh.remove("t0")
    fresh.remove("t1")
    assert fresh.withdraw("t0", t0) == "older"
    assert t0 not in fresh.versions("t0")
    fresh.remove("t2")
    fresh.remove("t0")


def test_a_damaged_header_is_forgotten_once_it_is_mended(
    store: Store, adapters: list[Path]
) -> None:
    digest = store.publish(adapters[0], BACKBONE).digest
    path, content = store.path_of(digest), adapters[0].read_bytes()
    sound = store.manifest(digest)
    # Another adapter's bytes under this name: its header is sound, and not this version's.
    path.write_bytes(adapters[1].read_bytes())
    reader = Store(store.root)
    assert reader.manifest(digest) != sound
    assert store.manifest(digest) != sound  # nor is what was read before the damage kept
    assert store.publish(adapters[0], BACKBONE).outcome == "unchanged"
    assert path.read_bytes() == content
    assert reader.manifest(digest) == store.manifest(digest) == sound


def test_a_removed_version_is_gone_from_the_history(store: Store, adapters: list[Path]) -> None:
    a, b, c = (store.publish(path, BACKBONE).digest for path in adapters[:3])
    with pytest.raises(VersionConflict, match="current"):
        store.remove_version("agnews", c)
    store.remove_version("agnews", b)
    with pytest.raises(UnknownVersion):
        store.path_of(b)
    with pytest.raises(UnknownVersion):
        store.manifest(b)
    with pytest.raises(UnknownVersion):
        store.remove_version("agnews", b)
    assert store.trail("agnews") == (a, c)
    assert [entry.digest for entry in store.history("agnews")] == [a, c]
    assert store.rollback("agnews") == a
    assert store.publish(adapters[1], BACKBONE).outcome == "created"


def test_changes_tell_of_removed_versions_too(store: Store, adapters: list[Path]) -> None:
    a, b = (store.publish(path, BACKBONE).digest for path in adapters[:2])
    store.remove_version("agnews", a)
    changes = [(entry.digest, entry.event) for entry in store.changes("agnews")]
    assert changes == [(a, "publish"), (b, "publish"), (a, "remove")]
    assert store.changes("nothing-here") == ()
    (store.root / "agnews" / "current").write_text("damaged")
    assert [entry.digest for entry in store.changes("agnews")] == [a, b, a]
    store.remove("agnews")
    assert store.changes("agnews") == ()
    with pytest.raises(TaskIdInvalid):
        store.changes("../agnews")


def test_a_task_can_come_back(store: Store, adapters: list[Path]) -> None:
    store.publish(adapters[0], BACKBONE)
    store.remove("agnews")
    with pytest.raises(UnknownTask):
        store.remove("agnews")
    assert store.publish(adapters[0], BACKBONE).outcome == "created"
    assert len(store.history("agnews")) == 1


def test_sweep_removes_leftovers_and_nothing_else(store: Store, adapters: list[Path]) -> None:
    store.publish(adapters[0], BACKBONE)
    before = files_of(store)
    (store.root / ".tmp-1").write_bytes(b"half a copy")
    (store.root / "agnews" / ".tmp-2").write_bytes(b"half a pointer")
    (store.root / ".removed-3" / "inner").mkdir(parents=True)
    orphan = store.root / "agnews" / f"{'0' * 64}.safetensors"
    orphan.write_bytes(b"not ours to judge")
    store.sweep()
    assert files_of(store) == sorted([*before, f"agnews/{orphan.name}"])


def test_sweep_leaves_a_publish_under_way_alone(tmp_path: Path, adapters: list[Path]) -> None:
    root = tmp_path / "store"
    store = Store(root, on_step=lambda step: Store(root).sweep() if step == "copied" else None)
    assert store.publish(adapters[0], BACKBONE).outcome == "created"


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path, adapters: list[Path]) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "store").publish(adapters[0], BACKBONE)


def test_a_change_that_cannot_be_written_says_so(store: Store, adapters: list[Path]) -> None:
    for path in adapters[:2]:
        store.publish(path, BACKBONE)
    lock = store.root / ".lock"
    lock.unlink()
    lock.mkdir()
    for change in (store.rollback, store.remove):
        with pytest.raises(StoreError, match="cannot be written"):
            change("agnews")


def test_changes_at_once_all_happen(store: Store, adapters: list[Path]) -> None:
    threads = [
        threading.Thread(target=Store(store.root).publish, args=(path, BACKBONE))
        for path in adapters * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = store.history("agnews")
    assert {entry.digest for entry in entries} == set(store.versions("agnews"))
    assert len(store.versions("agnews")) == 4
    assert entries[-1].digest == store.current("agnews")
    assert not [name for name in files_of(store) if ".tmp-" in name]
