"""A full disk, a quota, a store that may only be read: an error of its own, and nothing stays."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest

from crashing import change_store, fixed_clock
from factories import toy_backbone, write_random_adapter
from jumplora_adapters.errors import StoreError, StoreFull, StoreReadOnly
from jumplora_adapters.routing import ROUTING
from jumplora_adapters.store import Step, Store
from odd_entries import descriptors

BACKBONE = toy_backbone()
CHANGES = (
    "publish new", "publish next", "publish again", "rollback", "remove", "remove_version",
    "stage", "stage_file", "promote", "unstage", "alias",
)  # fmt: skip
CAUSES = {
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EROFS: StoreReadOnly,
    errno.EIO: StoreError,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], list[str]]:
    """A store with two versions of task `a`, four files, and the digests of the first two."""
    folder = tmp_path_factory.mktemp("faults")
    files = [
        write_random_adapter(folder, BACKBONE, task=task, seed=seed)
        for task, seed in (("a", 0), ("a", 1), ("a", 2), ("b", 0))
    ]
    store = Store(folder / "store")
    return store.root, files, [store.publish(file, BACKBONE).digest for file in files[:2]]


def contents(root: Path) -> dict[str, bytes]:
    """Every file, and every folder as no bytes."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b""
        for path in root.rglob("*")
    }


def make(store: Store, change: str, files: list[Path], digests: list[str]) -> None:
    name, _, which = change.partition(" ")
    arguments = {
        "publish": [str(files[{"new": 3, "next": 2, "again": 0}.get(which, 0)])],
        "remove_version": ["a", digests[0]],
        "stage": ["a", digests[0], "0.25"],
        "stage_file": [str(files[2])],
        "alias": ["a", "best", digests[0]],
    }.get(name, ["a"])
    change_store(store, name, arguments)


def fault_of(change: Callable[[], object]) -> type[StoreError] | None:
    try:
        change()
    except StoreError as error:
        return type(error)
    return None


@pytest.mark.parametrize("number", CAUSES, ids=errno.errorcode.get)
@pytest.mark.parametrize("step", get_args(Step))
@pytest.mark.parametrize("change", CHANGES)
def test_a_fault_at_any_step_leaves_old_or_new(
    base: tuple[Path, list[Path], list[str]], tmp_path: Path, change: str, step: Step, number: int
) -> None:
    root, files, digests = base
    root = shutil.copytree(root, tmp_path / "base")
    if change in ("promote", "unstage"):
        Store(root, clock=fixed_clock).stage("a", digests[0], 0.5)
    old, new = (shutil.copytree(root, tmp_path / name) for name in ("old", "new"))
    make(Store(new, clock=fixed_clock), change, files, digests)
    seen: list[Step] = []

    def fail(done: Step) -> None:
        seen.append(done)
        if done == step:
            raise OSError(number, os.strerror(number))

    store = Store(shutil.copytree(root, tmp_path / "store"), clock=fixed_clock, on_step=fail)
    before = descriptors()
    outcome = fault_of(lambda: make(store, change, files, digests))
    assert outcome is (CAUSES[number] if step in seen else None)
    assert descriptors() == before
    is_through = step not in seen or step in ("moved", "pointed", "routed", "detached")
    Store(store.root).sweep()
    if step == "moved" and step in seen and change == "promote":
        # What it was staged as is still in the file, and counts as nothing.
        assert Store(store.root).routing("a") == Store(new).routing("a")
        shutil.copy(new / "a" / ROUTING, store.root / "a" / ROUTING)
    assert contents(store.root) == contents(new if is_through else old)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full(small_disk: Path, tmp_path: Path) -> None:
    store = Store(small_disk / "store")
    first = write_random_adapter(tmp_path, BACKBONE, task="a", seed=0)
    digest = store.publish(first, BACKBONE).digest
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(b"x" * 300_000)
    before, held = contents(store.root), descriptors()
    with pytest.raises(StoreFull, match="make room"):
        store.publish(write_random_adapter(tmp_path, BACKBONE, task="a", seed=1), BACKBONE)
    assert (contents(store.root), descriptors()) == (before, held)
    ballast.unlink()
    other = write_random_adapter(tmp_path, BACKBONE, task="a", seed=1)
    assert store.publish(other, BACKBONE).outcome == "created"
    assert store.rollback("a") == digest


def test_a_store_that_may_only_be_read(small_disk: Path, tmp_path: Path) -> None:
    store = Store(small_disk)
    file = write_random_adapter(tmp_path, BACKBONE, task="a", seed=0)
    digest = store.publish(file, BACKBONE).digest
    (small_disk / ".lock").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    reader = Store(small_disk)
    reader.prepare()
    assert reader.survey() == {"a": digest}  # without the mark, but with a task: a store
    changes: list[Callable[[], object]] = [
        lambda: reader.publish(file, BACKBONE),
        lambda: reader.remove("a"),
        reader.sweep,
    ]
    for change in changes:
        with pytest.raises(StoreReadOnly):
            change()


def test_a_publish_reads_once_and_hashes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_random_adapter(tmp_path, BACKBONE, task="a", seed=0)
    size = file.stat().st_size
    hashed: list[int] = []
    sha256 = hashlib.sha256

    class Counting:
        """A SHA-256 that counts what it is given."""

        def __init__(self, data: bytes = b"") -> None:
            self._inner = sha256()
            self.update(data)

        def update(self, data: bytes) -> None:
            hashed.append(len(data))
            self._inner.update(data)

        def hexdigest(self) -> str:
            return self._inner.hexdigest()

        def digest(self) -> bytes:
            return self._inner.digest()

    store = Store(tmp_path / "store")
    store.prepare()
    content = file.read_bytes()
    monkeypatch.setattr(hashlib, "sha256", Counting)
    with store.incoming() as incoming:
        incoming.write(content)
        incoming.finish()
        began = read_bytes()
        store.adopt(incoming, BACKBONE)
    assert size <= read_bytes() - began < 1.5 * size + 8192
    assert size <= sum(hashed) < 2 * size  # the masks again, for the manifest's mask digest
    monkeypatch.setattr(hashlib, "sha256", sha256)


def read_bytes() -> int:
    """How much this process has read from files, by the system's count."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])
