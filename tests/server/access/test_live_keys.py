"""Keys follow their file: links that are swapped, files in the making, files with faults."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from jumplora_server.access.caller import Caller
from jumplora_server.access.gate import Refusal
from jumplora_server.access.keys import hash_of
from jumplora_server.access.keys_file import KeysFault, entry_text
from jumplora_server.access.live_keys import LiveKeys
from jumplora_server.access.source import KeySource
from serving import wait_for


def listing(*names: str, scope: str = "infer") -> str:
    """A file of keys, each of which is its id."""
    return "\n".join(entry_text(name, [hash_of(name)], [scope]) for name in names)


def ids(keys: LiveKeys) -> list[str]:
    return [key.id for key in keys.keyring.keys]


def live(file: Path, look_seconds: float = 1.0) -> LiveKeys:
    return LiveKeys(KeySource.of_hashes(file=file), look_seconds=look_seconds)


def look_twice(keys: LiveKeys) -> None:
    """A change is taken over once a second look finds it as it was at the first."""
    keys.look()
    keys.look()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(listing("a", "b"))
    return path


def test_a_change_is_followed_and_logged_by_id(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = live(file)
    assert ids(keys) == ["a", "b"]
    file.write_text(listing("b", scope="read") + listing("c"))
    with caplog.at_level(logging.INFO):
        look_twice(keys)
        look_twice(keys)
    assert ids(keys) == ["b", "c"]
    assert caplog.messages == [
        f"the keys file {file} was read: added c; removed a; changed b",
    ]
    assert isinstance(keys.admit("read", "Bearer b"), Caller)
    assert isinstance(keys.admit("infer", "Bearer a"), Refusal)


def test_a_file_in_the_making_is_not_read(file: Path) -> None:
    keys = live(file)
    whole = listing("a", "b", "c")
    for length in range(1, len(whole), 40):  # some of these beginnings are files of fewer keys
        file.write_text(whole[:length])
        keys.look()
        assert ids(keys) == ["a", "b"]
        assert keys.fault is None
    file.write_text(whole)
    look_twice(keys)
    assert ids(keys) == ["a", "b", "c"]


def test_links_are_followed_as_kubernetes_swaps_them(tmp_path: Path) -> None:
    """keys.toml -> ..data/keys.toml, ..data -> ..1; an update renames another link to ..data."""

    def put(version: int, *names: str) -> None:
        folder = tmp_path / f"..{version}"
        folder.mkdir()
        (folder / "keys.toml").write_text(listing(*names))
        # Written at the same moment and of the same size: the other inode tells.
        os.utime(folder / "keys.toml", ns=(10**18, 10**18))
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    put(1, "a", "b")
    file = tmp_path / "keys.toml"
    file.symlink_to("..data/keys.toml")
    keys = live(file)
    put(2, "a", "c")
    look_twice(keys)
    assert ids(keys) == ["a", "c"]
    (tmp_path / "..1" / "keys.toml").unlink()
    (tmp_path / "..1").rmdir()
    look_twice(keys)
    assert (ids(keys), keys.fault) == (["a", "c"], None)


@pytest.mark.parametrize("damage", ["broken", "empty", "gone", "a folder", "a pipe", "two faults"])
def test_the_keys_of_before_hold_while_the_file_has_faults(
    file: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = live(file)
    before = file.read_bytes()
    file.unlink()
    match damage:
        case "broken":
            file.write_text("[[keys]\n")
        case "empty":
            file.touch()
        case "a folder":
            file.mkdir()
        case "a pipe":
            os.mkfifo(file)
        case "two faults":
            file.write_text('[[keys]]\nid = "a"\nscopes = ["write"]')
    for _ in range(3):
        look_twice(keys)
    assert ids(keys) == ["a", "b"]
    assert isinstance(keys.admit("infer", "Bearer a"), Caller)
    assert keys.fault is not None
    lines = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == (3 if damage == "two faults" else 2), "each once, and what holds"
    assert all(str(file) in line for line in lines)
    caplog.clear()
    keys.look(is_asked=True)
    assert caplog.messages == lines, "who asks is answered"

    file.rmdir() if damage == "a folder" else file.unlink(missing_ok=True)
    file.write_bytes(before)
    look_twice(keys)
    assert ids(keys) == ["a", "b"]
    assert keys.fault is None
    assert f"the keys file {file} can be used again" in caplog.messages


def test_a_file_that_comes_back_as_it_was_is_no_fault(file: Path) -> None:
    keys = live(file)
    away = file.rename(file.with_name("away"))
    keys.look()
    assert "cannot be read: No such file" in str(keys.fault)
    away.rename(file)
    look_twice(keys)
    assert keys.fault is None


def test_a_start_needs_a_file_without_faults(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(KeysFault, match="cannot be read: No such file"):
        live(missing)
    missing.write_text("[[keys]]\nrows = 0\n")
    with pytest.raises(KeysFault) as caught:
        live(missing)
    assert len(caught.value.lines) == 4


def test_a_key_of_the_environment_may_not_be_added_to_the_file(file: Path) -> None:
    source = KeySource.of_hashes(api=[hash_of("mine")], file=file)
    keys = LiveKeys(source)
    file.write_text(listing("a", "mine"))
    look_twice(keys)
    assert "JUMPLORA_API_KEYS or JUMPLORA_ADMIN_KEYS has this one, too" in str(keys.fault)
    assert ids(keys) == [hash_of("mine")[:12], "a", "b"]


def test_a_file_that_all_may_write_is_warned_of(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    live(file)
    assert not caplog.records
    file.chmod(0o666)
    live(file)
    assert "all users of this machine may write the keys file" in caplog.text


def test_keys_expire_by_the_wall_clock(file: Path) -> None:
    file.write_text(entry_text("a", [hash_of("a")], ["infer"], expires="2027-01-31"))
    now = [1_801_439_999.0]  # 2027-01-31T23:59:59Z
    keys = LiveKeys(KeySource.of_hashes(file=file), wall_clock=lambda: now[0])
    assert isinstance(keys.admit("infer", "Bearer a"), Caller)
    now[0] += 1
    found = keys.admit("infer", "Bearer a")
    assert isinstance(found, Refusal)
    assert found.reason == "expired"


def test_the_thread_follows_by_itself_and_at_once_when_asked(file: Path) -> None:
    keys = live(file, look_seconds=0.02)
    keys.start()
    try:
        file.write_text(listing("c"))
        wait_for(lambda: ids(keys) == ["c"])
    finally:
        keys.stop()
    assert keys.pulse.glance.state == "ended"
    patient = live(file, look_seconds=3600)
    patient.start()
    try:
        file.write_text(listing("d"))
        patient.reload()
        wait_for(lambda: ids(patient) == ["d"])
    finally:
        patient.stop()
    assert patient.pulse.glance.state == "ended"


def test_without_a_file_there_is_no_thread() -> None:
    keys = LiveKeys(KeySource.of_hashes())
    keys.start()
    keys.stop()
    assert (keys.pulses, keys.pulse.glance.state) == ((), "new")
    assert keys.keyring.is_open
