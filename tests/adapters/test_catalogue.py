"""Reading a store: names, prefixes, histories, and files that should not be there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from factories import toy_backbone, write_random_adapter
from jumplora_adapters.catalogue import Catalogue
from jumplora_adapters.errors import (
    StoreError,
    TaskIdInvalid,
    UnknownTask,
    UnknownVersion,
)
from jumplora_adapters.store import Store

BACKBONE = toy_backbone()


def ticking_clock() -> Iterator[datetime]:
    """One second later each time."""
    start = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    step = 0
    while True:
        yield start + timedelta(seconds=step)
        step += 1


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store whose folder is not there yet."""
    clock = ticking_clock()
    return Store(tmp_path / "store", clock=lambda: next(clock))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four versions of task `agnews`."""
    folder = tmp_path_factory.mktemp("adapters")
    return [write_random_adapter(folder, BACKBONE, task="agnews", seed=seed) for seed in range(4)]


def test_an_empty_store_has_nothing(store: Store) -> None:
    store.sweep()
    assert not store.root.exists()
    store.prepare()
    assert store.tasks() == []
    assert store.pointers() == {}
    with pytest.raises(UnknownTask):
        store.current("agnews")
    with pytest.raises(UnknownVersion):
        store.path_of("0" * 64)


def test_history_tells_when(store: Store, adapters: list[Path]) -> None:
    store.publish(adapters[0], BACKBONE)
    store.publish(adapters[1], BACKBONE)
    assert [entry.published_at for entry in store.history("agnews")] == [
        "2026-01-02T03:04:05.000+00:00",
        "2026-01-02T03:04:06.000+00:00",
    ]


def test_resolve_takes_tasks_and_prefixes(store: Store, adapters: list[Path]) -> None:
    first = store.publish(adapters[0], BACKBONE).digest
    second = store.publish(adapters[1], BACKBONE).digest
    assert store.resolve("agnews") == ("agnews", second)
    assert store.resolve(f"agnews@{first[:8]}") == ("agnews", first)
    assert store.resolve(f"agnews@{first}") == ("agnews", first)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("agnew", UnknownTask),
        ("agnew@00000000", UnknownTask),
        ("agnews@", UnknownVersion),
        ("agnews@0000000", UnknownVersion),
        ("agnews@00000000", UnknownVersion),
        ("agnews@../../..", UnknownVersion),
        ("agnews@" + "A" * 8, UnknownVersion),
        ("agnews@" + "0" * 65, UnknownVersion),
        ("../agnews", TaskIdInvalid),
        ("", TaskIdInvalid),
        ("@" + "0" * 8, TaskIdInvalid),
    ],
)
def test_resolve_refuses(
    store: Store, adapters: list[Path], spec: str, error: type[Exception]
) -> None:
    store.publish(adapters[0], BACKBONE)
    with pytest.raises(error):
        store.resolve(spec)


def test_an_ambiguous_prefix_is_refused(store: Store, adapters: list[Path]) -> None:
    digest = store.publish(adapters[0], BACKBONE).digest
    twin = digest[:10] + ("0" if digest[10] != "0" else "1") + digest[11:]
    (store.root / "agnews" / f"{twin}.safetensors").write_bytes(b"")
    with pytest.raises(UnknownVersion, match="2 versions"):
        store.resolve(f"agnews@{digest[:8]}")
    assert store.resolve(f"agnews@{digest[:11]}") == ("agnews", digest)


def test_unknown_tasks_come_with_the_closest(store: Store, adapters: list[Path]) -> None:
    store.publish(adapters[0], BACKBONE)
    with pytest.raises(UnknownTask, match="agnews") as caught:
        store.current("ag-news")
    assert caught.value.closest == ["agnews"]


def test_links_out_of_the_store_are_not_followed(
    store: Store, adapters: list[Path], tmp_path: Path
) -> None:
    digest = store.publish(adapters[0], BACKBONE).digest
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "current").write_text(f"{digest}\n")
    (outside / f"{'1' * 64}.safetensors").write_bytes(b"secret")
    (store.root / "linked").symlink_to(outside)
    (store.root / "agnews" / f"{'1' * 64}.safetensors").symlink_to(
        outside / f"{'1' * 64}.safetensors"
    )
    assert store.tasks() == ["agnews"]
    assert store.versions("agnews") == (digest,)
    with pytest.raises(StoreError):
        store.current("linked")
    with pytest.raises(UnknownVersion):
        store.path_of("1" * 64)
    (store.root / "agnews" / "current").unlink()
    (store.root / "agnews" / "current").symlink_to(outside / "current")
    assert store.pointers() == {}
    with pytest.raises(StoreError):
        store.current("agnews")
    assert store.publish(adapters[0], BACKBONE).outcome == "repointed"
    assert store.current("agnews") == digest
    assert (outside / "current").is_file()


def test_a_pointer_that_is_none_is_told(store: Store, adapters: list[Path]) -> None:
    store.publish(adapters[0], BACKBONE)
    (store.root / "agnews" / "current").write_text("../../etc/passwd\n")
    assert store.pointers() == {}
    with pytest.raises(StoreError, match="64 hexadecimal"):
        store.current("agnews")


def test_a_pointer_set_by_hand_is_followed(store: Store, adapters: list[Path]) -> None:
    a, b, c = (store.publish(path, BACKBONE).digest for path in adapters[:3])
    (store.root / "agnews" / "current").write_text(a)
    assert store.current("agnews") == a
    assert store.publish(adapters[3], BACKBONE).outcome == "created"
    assert store.rollback("agnews") == a
    assert {b, c} <= set(store.versions("agnews"))


def test_other_files_in_the_folder_do_no_harm(store: Store, adapters: list[Path]) -> None:
    store.publish(adapters[0], BACKBONE)
    (store.root / "README.txt").write_text("hello")
    (store.root / "empty").mkdir()
    (store.root / "agnews" / "notes.safetensors").write_text("hello")
    assert store.tasks() == ["agnews"]
    assert len(store.versions("agnews")) == 1
    with pytest.raises(UnknownTask):
        store.current("empty")


def test_readers_never_see_half_a_change(store: Store, adapters: list[Path]) -> None:
    digests = {store.publish(path, BACKBONE).digest for path in adapters[:2]}
    done = threading.Event()
    seen: set[str] = set()
    faults: list[Exception] = []

    def read() -> None:
        catalogue = Catalogue(store.root)
        try:
            while not done.is_set():
                task, digest = catalogue.resolve("agnews")
                assert catalogue.trail(task)
                seen.add(digest)
        except Exception as error:
            faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(20):
        store.publish(adapters[step % 2], BACKBONE)
    done.set()
    reader.join()
    assert faults == []
    assert seen <= digests
