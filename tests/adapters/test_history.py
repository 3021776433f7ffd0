"""The history log: torn lines, lines that never took effect, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.errors import StoreError
from jumplora_adapters.history import (
    Event,
    HistoryEntry,
    append,
    last_pointer,
    pointer_changes,
    read_log,
    settled,
    trail,
)
from jumplora_adapters.routing import NO_ROUTING, Routing, Staged

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def entries(*events: tuple[str, Event]) -> tuple[HistoryEntry, ...]:
    """A log of (digest, event)."""
    return tuple(HistoryEntry(digest, "2026-01-01T00:00:00.000+00:00", e) for digest, e in events)


LOG = entries((A, "publish"), (B, "publish"), (A, "rollback"))
BYTES = b"".join(entry.line() for entry in LOG)


def test_no_file_is_no_history(tmp_path: Path) -> None:
    assert read_log(tmp_path / "history.jsonl") == ()


@given(cut=st.integers(0, len(BYTES)))
def test_a_torn_log_is_read_to_its_last_whole_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "torn.jsonl"
    path.write_bytes(BYTES[:cut])
    whole = BYTES[:cut].count(b"\n")
    assert read_log(path) == LOG[:whole]
    append(path, entries((C, "publish")), keep=whole)
    assert read_log(path) == LOG[:whole] + entries((C, "publish"))


@pytest.mark.parametrize(
    "line",
    [
        b"\0\0\0\n",
        b"null\n",
        b"{}\n",
        b'{"at": 1, "digest": "x", "event": "publish"}\n',
        LOG[0].line().replace(b"publish", b"explode"),
        b"[" * 5000 + b"\n",
        b"\xff\xfe\n",
    ],
)
def test_a_line_that_is_none_is_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(LOG[0].line() + line + LOG[1].line())
    assert read_log(path) == LOG[:2]


def test_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(BYTES)
    (tmp_path / "history.jsonl").symlink_to(tmp_path / "target")
    with pytest.raises(StoreError):
        read_log(tmp_path / "history.jsonl")
    with pytest.raises(OSError, match="a link"):
        append(tmp_path / "history.jsonl", LOG, keep=0)


@pytest.mark.parametrize(
    ("log", "current", "kept"),
    [
        pytest.param([(A, "publish"), (B, "publish")], B, 2, id="all took effect"),
        pytest.param([(A, "publish"), (B, "publish")], A, 1, id="the last did not"),
        pytest.param([(A, "publish")], None, 0, id="the first did not"),
        pytest.param([(A, "publish"), (B, "publish"), (A, "rollback")], B, 2, id="rollback not"),
        pytest.param([(A, "publish"), (B, "publish"), (A, "remove")], B, 3, id="removed one"),
        pytest.param([(A, "publish"), (B, "publish")], C, 2, id="pointer set by hand"),
        pytest.param([], None, 0, id="empty"),
    ],
)
def test_settled(log: list[tuple[str, Event]], current: str | None, kept: int) -> None:
    assert settled(entries(*log), current, NO_ROUTING) == entries(*log[:kept])


STAGED = Routing(Staged(B, 0.5, "now"))


@pytest.mark.parametrize(
    ("last", "routing", "is_kept"),
    [
        pytest.param(HistoryEntry(B, "now", "stage", "share 0.5"), STAGED, True, id="staged"),
        pytest.param(HistoryEntry(B, "now", "stage"), NO_ROUTING, False, id="not staged"),
        pytest.param(HistoryEntry(C, "now", "stage"), STAGED, False, id="still another"),
        pytest.param(HistoryEntry(B, "now", "unstage"), NO_ROUTING, True, id="taken back"),
        pytest.param(HistoryEntry(B, "now", "unstage"), STAGED, False, id="not taken back"),
        pytest.param(HistoryEntry(B, "now", "alias", "best"), NO_ROUTING, False, id="no name"),
        pytest.param(
            HistoryEntry(B, "now", "alias", "best"), STAGED.naming("best", B), True, id="a name"
        ),
        pytest.param(
            HistoryEntry(B, "now", "unalias", "best"), STAGED.naming("best", B), False, id="still"
        ),
        pytest.param(HistoryEntry(B, "now", "unalias", "best"), NO_ROUTING, True, id="no more"),
    ],
)
def test_a_last_change_of_the_routing_counts_if_it_happened(
    last: HistoryEntry, routing: Routing, is_kept: bool
) -> None:
    log = entries((A, "publish"), (B, "publish"), (A, "rollback"))
    assert settled((*log, last), A, routing) == ((*log, last) if is_kept else log)
    assert last_pointer((*log, last)) == A
    assert pointer_changes((*log, last)) == log
    assert trail((*log, last), A) == (A,)


@pytest.mark.parametrize(
    ("log", "current", "expected"),
    [
        pytest.param([(A, "publish"), (B, "publish")], B, (A, B), id="on"),
        pytest.param([(A, "publish"), (B, "publish"), (A, "rollback")], A, (A,), id="back"),
        pytest.param(
            [(A, "publish"), (B, "publish"), (A, "rollback"), (C, "publish")], C, (A, C), id="fork"
        ),
        pytest.param([(A, "publish"), (B, "publish"), (A, "repoint")], A, (A, B, A), id="again"),
        pytest.param(
            [(A, "publish"), (B, "publish"), (A, "repoint"), (B, "remove")], A, (A,), id="removed"
        ),
        pytest.param([(A, "publish"), (C, "rollback")], C, (A, C), id="to where it never was"),
        pytest.param([(A, "publish")], B, (A, B), id="pointer set by hand"),
        pytest.param([], A, (A,), id="log lost"),
    ],
)
def test_trail(log: list[tuple[str, Event]], current: str, expected: tuple[str, ...]) -> None:
    assert trail(entries(*log), current) == expected
