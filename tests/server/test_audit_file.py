"""The audit log's file: rotated, full, hanging, and never waited for."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from logging.handlers import QueueHandler
from pathlib import Path

import pytest

from jumplora_server import audit_file
from jumplora_server.audit_file import COMPLAINT_SECONDS, AuditFile
from serving import wait_for


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("jumplora.audit.of-tests")
    logger.setLevel(logging.WARNING)
    yield logger
    assert not any(isinstance(each, QueueHandler) for each in logger.handlers)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


def lines(path: Path) -> list[object]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == audit_file.__name__]


def say(logger: logging.Logger, number: int) -> None:
    logger.info("change", extra={"fields": {"n": number}})


def test_lines_are_appended_whatever_the_level_of_the_log_is(
    tmp_path: Path, logger: logging.Logger
) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"n": 0}\n')
    file = AuditFile(path, logger)
    assert logger.propagate is False  # the log itself shows warnings only
    for number in (1, 2):
        say(logger, number)
    file.close()
    assert lines(path) == [0, 1, 2]
    assert set(json.loads(path.read_text().splitlines()[-1])) == {
        "time", "level", "logger", "message", "n"
    }  # fmt: skip


def test_a_file_that_was_moved_away_is_begun_again(tmp_path: Path, logger: logging.Logger) -> None:
    path, rotated = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    file = AuditFile(path, logger)
    say(logger, 1)
    wait_for(lambda: path.read_text() != "")
    path.rename(rotated)
    say(logger, 2)
    file.close()
    assert (lines(rotated), lines(path)) == ([1], [2])


def test_a_folder_that_is_gone_loses_lines_and_is_tried_again(
    tmp_path: Path, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "audit.jsonl"
    file = AuditFile(path, logger)
    path.unlink()
    folder.rmdir()
    say(logger, 1)
    wait_for(lambda: bool(complaints(caplog)))
    assert "No such file or directory" in caplog.text
    folder.mkdir()
    say(logger, 2)
    file.close()
    assert lines(path) == [2]


def test_a_full_disk_loses_lines_with_a_complaint_a_minute(
    tmp_path: Path, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), Path("/dev/full")
    with pytest.raises(OSError, match="not an ordinary file"):
        AuditFile(path, logger)
    link = tmp_path / "audit.jsonl"
    file = AuditFile(link, logger, clock)
    link.unlink()
    os.symlink(path, link)  # from now on there is no room
    for number in range(5):
        say(logger, number)
    wait_for(lambda: bool(complaints(caplog)))
    assert "No space left" in caplog.text
    clock.now = COMPLAINT_SECONDS
    wait_for(lambda: _complained_again(logger, caplog))
    file.close()
    assert "lacks until now: 1." in complaints(caplog)[0]


def _complained_again(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> bool:
    say(logger, 9)
    return len(complaints(caplog)) == 2


def test_a_disk_that_hangs_holds_up_no_one(
    tmp_path: Path,
    logger: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers, asked = threading.Event(), threading.Event()
    real = os.stat

    def stat(*arguments: object, **options: object) -> object:
        if threading.current_thread().name == "audit-file":
            asked.set()
            assert answers.wait(30)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(audit_file, "CLOSE_SECONDS", 0.1)
    file = AuditFile(tmp_path / "audit.jsonl", logger, most_lines=3)
    monkeypatch.setattr(os, "stat", stat)
    say(logger, 0)
    assert asked.wait(10)
    for number in range(1, 10):  # three wait, the others are lost
        say(logger, number)
    assert "3 lines wait, the disk does not answer" in caplog.text
    file.close()  # does not wait for it either
    answers.set()
    wait_for(lambda: lines(tmp_path / "audit.jsonl") == [0, 1, 2, 3])


@pytest.mark.parametrize("kind", ["pipe", "folder", "nowhere"])
def test_what_cannot_be_appended_to_is_refused(
    tmp_path: Path, logger: logging.Logger, kind: str
) -> None:
    path = tmp_path / "audit"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = path / "audit"
    with pytest.raises(OSError, match="--audit-file or JUMPLORA_AUDIT_FILE"):
        AuditFile(path, logger)
