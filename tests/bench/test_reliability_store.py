"""Odd entries, disasters and a killed publisher, each on a store of plain files."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from bench_site import SmallSite, small_site, version_of
from factories import tiny_t5
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.store import Store
from jumplora_bench.published import write_random
from jumplora_bench.reliability import disasters, publisher
from jumplora_bench.reliability.entries import _is_possible, _restore, _Run
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.odd_entries import ENTRIES, HUGE_BYTES, Entry, Shelf, remove
from jumplora_bench.reliability.swaps import STEPS, Publisher
from jumplora_bench.reliability.traffic import Expected
from jumplora_bench.reliability.versions import PROMPTS, Version
from small_http import Asked, Said


def versions(folder: Path) -> list[Version]:
    made = [version_of(folder / "made", "victim", name) for name in ("old", "new")]
    return [*made, version_of(folder / "made", "steady", "old")]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A store with the victim's old version, as a publisher leaves it."""
    old, new, other = versions(tmp_path)
    root = tmp_path / "store"
    victim = root / "victim"
    victim.mkdir(parents=True)
    (root / ".lock").touch()
    (tmp_path / "outside").mkdir()
    (victim / f"{old.digest}.safetensors").write_bytes(old.content)
    (victim / "current").write_text(f"{old.digest}\n")
    (victim / "history.jsonl").write_text("{}\n")
    return Shelf(root, victim, old, new, other, tmp_path / "outside")


def seen(root: Path) -> dict[str, tuple[int, int, int]]:
    """Every entry below a folder: its kind, and inode or size where they tell it."""
    found = {}
    for name in sorted(os.listdir(os.fsencode(root))):
        path = os.fsencode(root) + b"/" + name
        known = os.lstat(path)
        found[os.fsdecode(name)] = (stat.S_IFMT(known.st_mode), known.st_ino, known.st_size)
        if stat.S_ISDIR(known.st_mode):
            below = seen(Path(os.fsdecode(path)))
            found |= {f"{os.fsdecode(name)}/{key}": value for key, value in below.items()}
    return found


@pytest.mark.parametrize("entry", [e for e in ENTRIES if _is_possible(e)], ids=lambda e: e.name)
def test_an_entry_is_put_and_the_store_is_as_before_once_it_is_put_right(
    entry: Entry, shelf: Shelf, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(shelf.root, backup)
    before = seen(shelf.root)
    entry.put(shelf)
    assert seen(shelf.root) != before, "nothing was put"
    run = _Run(
        site=None, findings=Findings(), shelf=shelf, backup=backup,  # type: ignore[arg-type]
        swaps=[], published=[], expected=Expected(),
    )  # fmt: skip
    _restore(run)
    after = seen(shelf.root)
    assert after.keys() == before.keys()
    assert [kind for kind, _, _ in after.values()] == [kind for kind, _, _ in before.values()]
    assert shelf.pointer.read_text() == f"{shelf.old.digest}\n"
    assert shelf.file_of(shelf.old).read_bytes() == shelf.old.content


def test_entries_have_names_of_their_own() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a folder", stat.S_ISDIR),
        ("a FIFO", stat.S_ISFIFO),
        ("a socket", stat.S_ISSOCK),
        ("a link", stat.S_ISLNK),
        ("4 GB", stat.S_ISREG),
    ],
)
def test_an_entry_is_of_its_kind(name: str, kind: object, shelf: Shelf) -> None:
    for place, path in (("current", shelf.pointer), ("version", shelf.file_of(shelf.new))):
        (entry,) = [each for each in ENTRIES if each.name == f"{place}: {name}"]
        entry.put(shelf)
        assert kind(path.lstat().st_mode)  # type: ignore[operator]
        if name == "4 GB":
            assert path.stat().st_size == HUGE_BYTES
            assert path.stat().st_blocks * 512 < 1024**2, "it takes no room"
        remove(path)
        assert not os.path.lexists(path)


def test_a_version_entry_is_the_one_that_is_wanted(shelf: Shelf) -> None:
    for entry in ENTRIES:
        if entry.place == "version" and _is_possible(entry):
            entry.put(shelf)
            assert shelf.pointer.read_text().strip() == shelf.new.digest, entry.name
            remove(shelf.file_of(shelf.new))


def test_a_flipped_bit_is_one_bit(shelf: Shelf) -> None:
    (entry,) = [each for each in ENTRIES if each.name == "version: one bit flipped"]
    entry.put(shelf)
    pairs = zip(shelf.file_of(shelf.new).read_bytes(), shelf.new.content, strict=True)
    assert sum((a ^ b).bit_count() for a, b in pairs) == 1


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SmallSite]:
    with small_site(tmp_path, *versions(tmp_path)) as site:
        yield site


def of_task(site: SmallSite, task: str) -> list[Version]:
    return [each for each in site.known.values() if each.digest == site.current(task)]


def failed(findings: Findings) -> set[str]:
    return {fault.what.partition(":")[0] for fault in findings.faults}


def busy(site: SmallSite, *, headers: bool = True) -> None:
    """Changes are refused while the store's lock is held, as the server does."""

    def spoil(asked: Asked, said: Said) -> Said:
        if asked.method != "PUT":
            return said
        with (site.store / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return Said.of({}, 503, **({"retry_after": "1"} if headers else {}))
        return said

    site.spoil = spoil


def test_a_lock_that_is_held(site: SmallSite) -> None:
    busy(site)
    findings = Findings()
    disasters.hold_lock(site, findings, of_task(site, "steady") * 3)
    assert findings.faults == []
    assert findings.checks["PUT is 503"] == findings.checks["Retry-After"] == 3


def test_a_server_that_publishes_under_anothers_lock_is_found(site: SmallSite) -> None:
    findings = Findings()
    disasters.hold_lock(site, findings, of_task(site, "steady"))
    assert failed(findings) == {"PUT is 503"}


def test_a_refusal_without_a_time_is_found(site: SmallSite) -> None:
    busy(site, headers=False)
    findings = Findings()
    disasters.hold_lock(site, findings, of_task(site, "steady"))
    assert failed(findings) == {"Retry-After"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disasters, "ROOT_SECONDS", 0.2)
    monkeypatch.setattr(disasters, "LOOKS_SECONDS", 0.2)


def lose(site: SmallSite, tmp_path: Path) -> Findings:
    findings, aside = Findings(), tmp_path / "aside"
    disasters.lose_root(
        site,
        findings,
        of_task(site, "steady"),
        "renamed",
        lambda: site.store.rename(aside),
        lambda: aside.rename(site.store),
    )
    return findings


@pytest.mark.usefixtures("quick")
def test_a_root_that_goes_and_comes_back(site: SmallSite, tmp_path: Path) -> None:
    """The small server has nothing in memory; a real one serves on."""
    held = {version.digest: version for version in of_task(site, "steady")}

    def spoil(asked: Asked, said: Said) -> Said:
        if asked.path != "/generate" or said.status == 200:
            return said
        (version,) = held.values()
        text = version.texts[PROMPTS.index(asked.json["inputs"])]
        return Said.of({"generated_text": text}, x_adapter_version=version.digest)

    site.spoil = spoil
    findings = lose(site, tmp_path)
    assert findings.faults == []
    assert findings.checks["served while the root is away"] >= 1


@pytest.mark.usefixtures("quick")
def test_a_server_that_stops_serving_without_its_root_is_found(
    site: SmallSite, tmp_path: Path
) -> None:
    assert failed(lose(site, tmp_path)) == {"served while the root is away"}


@pytest.mark.usefixtures("quick")
def test_a_server_that_does_not_tell_is_found(site: SmallSite, tmp_path: Path) -> None:
    def spoil(asked: Asked, said: Said) -> Said:
        if asked.path == "/metrics":
            return Said(body=b"jumplora_store_fault 0\n")
        return Said.of("fine") if asked.path == "/readyz" else said

    site.spoil = spoil
    found = failed(lose(site, tmp_path))
    assert {"readyz tells", "jumplora_store_fault is 1"} <= found


def test_content_is_moved_and_returned_and_what_came_up_goes(tmp_path: Path) -> None:
    store, aside = tmp_path / "store", tmp_path / "aside"
    (store / "a").mkdir(parents=True)
    (store / ".lock").touch()
    before = sorted(os.listdir(store))
    disasters.move_content(store, aside)
    assert os.listdir(store) == []
    (store / "new").mkdir()
    (store / ".lock").write_text("another")
    disasters.return_content(aside, store)
    assert sorted(os.listdir(store)) == before
    assert (store / ".lock").read_text() == ""


def test_a_mount_that_is_refused_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(PermissionError),
        disasters.mounted(tmp_path, "-t", "no-such-file-system", "none"),
    ):
        pass
    disasters.unmount(tmp_path)  # nothing is mounted there


def test_a_publisher_is_killed_after_each_step_and_the_store_is_sound(tmp_path: Path) -> None:
    backbone = read_backbone(tiny_t5(tmp_path / "backbone"))
    store = Store(tmp_path / "store")
    store.root.mkdir()
    first = write_random(tmp_path / "first", backbone, "t", density=0.2, seed=99)
    store.publish(first, backbone)
    steps: list[str | None] = [*STEPS, None]
    with subprocess.Popen(
        [sys.executable, publisher.__file__, store.root, backbone.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        helper = Publisher(process)
        for seed, step in enumerate(steps):
            name = f"{seed}.safetensors"
            path = write_random(tmp_path / name, backbone, "t", density=0.2, seed=seed)
            before = store.current("t")
            version = Version("t", sha256(path.read_bytes()).hexdigest(), path, ())
            assert helper.publish(version, step) == (step is not None)
            assert store.current("t") in (before, version.digest)
            assert store.path_of(store.current("t")).is_file()
            assert not helper.publish(version, None), "the next publish is not disturbed"
            assert store.current("t") == version.digest
