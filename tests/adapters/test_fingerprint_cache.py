"""Fingerprints that are kept: used while nothing changed, and never a reason to fail."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jumplora_adapters import backbone as backbone_module
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.fingerprint_cache import FingerprintCache, user_cache
from jumplora_adapters.regular_file import stamp_of

GOLDEN = Path(__file__).parents[1] / "golden" / "v1" / "backbone"
FOLDER = Path("/somewhere/backbone")
STAMPS = {"config.json": (1, 10, 20, 30), "model.safetensors": (2, 40, 50, 60)}
FINGERPRINTS = ("ab" * 32, "cd" * 32)
LATER = 10**12


def _cache(folder: Path, now: int = LATER) -> FingerprintCache:
    return FingerprintCache(folder / "jumplora", clock=lambda: now)


def _entry_of(folder: Path) -> Path:
    (path,) = (folder / "jumplora").iterdir()
    return path


def test_what_was_kept_is_found(tmp_path: Path) -> None:
    assert _cache(tmp_path).find(FOLDER, STAMPS) is None
    _cache(tmp_path).keep(FOLDER, STAMPS, FINGERPRINTS)
    assert _cache(tmp_path).find(FOLDER, STAMPS) == FINGERPRINTS
    assert _cache(tmp_path).find(FOLDER / "other", STAMPS) is None


@pytest.mark.parametrize("place", range(4), ids=["inode", "mtime", "ctime", "size"])
@pytest.mark.parametrize("name", STAMPS)
def test_a_changed_file_counts(tmp_path: Path, name: str, place: int) -> None:
    _cache(tmp_path).keep(FOLDER, STAMPS, FINGERPRINTS)
    stamp = list(STAMPS[name])
    stamp[place] += 1
    changed = {**STAMPS, name: tuple(stamp)}
    assert _cache(tmp_path).find(FOLDER, changed) is None  # type: ignore[arg-type]


def test_a_file_more_or_less_counts(tmp_path: Path) -> None:
    _cache(tmp_path).keep(FOLDER, STAMPS, FINGERPRINTS)
    assert _cache(tmp_path).find(FOLDER, {**STAMPS, "spiece.model": (3, 0, 0, 0)}) is None
    assert _cache(tmp_path).find(FOLDER, {"config.json": STAMPS["config.json"]}) is None


def test_a_folder_that_has_just_been_written_is_not_kept(tmp_path: Path) -> None:
    """It may be written again within one tick of the file system's clock."""
    _cache(tmp_path, now=60 + 1_000_000_000).keep(FOLDER, STAMPS, FINGERPRINTS)
    assert _cache(tmp_path).find(FOLDER, STAMPS) is None


def test_the_time_before_the_files_were_read_counts(tmp_path: Path) -> None:
    """A file that changes twice in a tick, while it is read: hashing it takes seconds."""
    now = [60 + 1_000_000_000]
    cache = FingerprintCache(tmp_path / "jumplora", clock=lambda: now[0])
    now[0] = LATER
    cache.keep(FOLDER, STAMPS, FINGERPRINTS)
    assert _cache(tmp_path).find(FOLDER, STAMPS) is None


def _swap(first: str, second: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(path.read_text().replace(first, second))


def _put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _put_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-9]), id="cut"),
        pytest.param(lambda path: path.write_bytes(b"\xff" * 99), id="bytes"),
        pytest.param(lambda path: path.write_text("[]"), id="a list"),
        pytest.param(lambda path: path.write_text("[" * 100_000), id="nested"),
        pytest.param(lambda path: path.write_text('{"fingerprints": {}}'), id="nothing in it"),
        pytest.param(_swap('"2"', '"3"'), id="another fingerprint version"),
        pytest.param(_swap('"version": 1', '"version": 2'), id="another entry version"),
        pytest.param(_swap("ab" * 32, "AB" * 32), id="no digest"),
        pytest.param(_swap(f'"{"ab" * 32}"', "7"), id="a number"),
        pytest.param(_swap(f'"{"cd" * 32}"', "null"), id="nothing"),
        pytest.param(_put_folder, id="a folder"),
        pytest.param(_put_pipe, id="a pipe"),
    ],
)
def test_a_damaged_entry_is_passed_over_and_replaced(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    _cache(tmp_path).keep(FOLDER, STAMPS, FINGERPRINTS)
    damage(_entry_of(tmp_path))
    assert _cache(tmp_path).find(FOLDER, STAMPS) is None
    _cache(tmp_path).keep(FOLDER, STAMPS, FINGERPRINTS)  # a folder in its place stays, and is said
    if not _entry_of(tmp_path).is_dir():
        assert _cache(tmp_path).find(FOLDER, STAMPS) == FINGERPRINTS


def test_a_link_to_an_entry_is_not_read(tmp_path: Path) -> None:
    _cache(tmp_path).keep(FOLDER, STAMPS, FINGERPRINTS)
    path = _entry_of(tmp_path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert _cache(tmp_path).find(FOLDER, STAMPS) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_entry_is_not_read(tmp_path: Path) -> None:
    _cache(tmp_path).keep(FOLDER, STAMPS, FINGERPRINTS)
    os.chown(_entry_of(tmp_path), 65_534, 65_534)
    assert _cache(tmp_path).find(FOLDER, STAMPS) is None


def test_a_cache_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "jumplora").write_text("a file, where the folder should be")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            _cache(tmp_path).keep(FOLDER, STAMPS, FINGERPRINTS)
    assert _cache(tmp_path).find(FOLDER, STAMPS) is None
    (record,) = caplog.records
    assert str(tmp_path) in record.getMessage()
    assert "XDG_CACHE_HOME" in record.getMessage()


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "jumplora" / "fingerprints"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert user_cache() == tmp_path / "home" / ".cache" / "jumplora" / "fingerprints"


def test_a_backbone_is_hashed_once_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clearing what this process remembers stands for another process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    read = backbone_module._read
    folder = tmp_path / "backbone"
    shutil.copytree(GOLDEN, folder)
    read.cache_clear()
    first = read_backbone(folder).fingerprints
    stamps = {path.name: stamp_of(path.stat()) for path in folder.iterdir()}
    FingerprintCache(user_cache(), clock=lambda: 1 << 62).keep(folder, stamps, FINGERPRINTS)
    read.cache_clear()
    assert read_backbone(folder).fingerprints == FINGERPRINTS, "it was computed again"
    (folder / "notes.txt").write_text("decides nothing")
    assert read_backbone(folder).fingerprints == FINGERPRINTS
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes() + b"\n")
    assert read_backbone(folder).fingerprints == first


def test_an_entry_is_written_for_a_settled_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    newest = max(max(stamp_of(path.stat())[1:3]) for path in GOLDEN.iterdir())
    monkeypatch.setattr(
        backbone_module, "FingerprintCache",
        lambda folder: FingerprintCache(folder, clock=lambda: newest + LATER),
    )  # fmt: skip
    backbone_module._read.cache_clear()
    backbone = read_backbone(GOLDEN)
    (entry,) = (tmp_path / "jumplora" / "fingerprints").iterdir()
    kept = json.loads(entry.read_text())["fingerprints"]
    assert (kept["2"], kept["1"]) == backbone.fingerprints
