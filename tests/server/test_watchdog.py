"""When the watchdog calls something a fault, and what it does about one."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from jumplora_server import logs, watchdog
from jumplora_server.cli.main import command_line
from jumplora_server.cli.serve import EXIT_SETTINGS, EXIT_STARTUP
from jumplora_server.loop.loop import Progress
from jumplora_server.pulse import Glance, State
from jumplora_server.watchdog import (
    EXIT_FAULT,
    FIRST_STEP_FACTOR,
    Limits,
    Look,
    Phase,
    Seen,
    Verdict,
    Watchdog,
    judge,
    log_stacks,
)

ROOT = Path(__file__).parents[2]
LIMITS = Limits(stall_seconds=8.0, exit_seconds=3.0)  # a look a second


def look(
    moment: float,
    *,
    turns: int = 1,
    busy: bool = True,
    steps: int = 1,
    phase: Phase = "serving",
    states: Mapping[str, State] = MappingProxyType({}),
) -> Look:
    """All is well but for what is given; `states` by the name of the thread."""
    threads = tuple(
        Glance(name, states.get(name, "running"), None, 0.0)
        for name in ("engine", "loader", "watcher")
    )
    alive = states.get("engine", "running") == "running"
    return Look(moment, phase, Progress(alive, busy, moment, turns, steps, 0), threads)


def verdicts(looks: Iterable[Look], limits: Limits = LIMITS) -> list[Verdict]:
    seen, found = Seen(), []
    for each in looks:
        seen, verdict = judge(seen, each, limits)
        found.append(verdict)
    return found


def test_a_step_that_hangs_is_a_fault_and_then_the_end() -> None:
    found = verdicts(look(float(second)) for second in range(14))
    faulty = [second for second, verdict in enumerate(found) if "engine" in verdict.faults]
    over = [second for second, verdict in enumerate(found) if verdict.is_over]
    assert faulty == [9, 10, 11, 12, 13]
    assert over == [11, 12, 13]
    assert "no step has ended for 9 s" in found[9].faults["engine"]


def test_the_first_step_may_take_longer() -> None:
    seconds = int(8 * FIRST_STEP_FACTOR)
    found = verdicts(look(float(second), steps=0) for second in range(seconds + 2))
    assert [bool(verdict.faults) for verdict in found] == [False] * (seconds + 1) + [True]


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.sampled_from(["turn", "idle", "still"])), max_size=60)
)
def test_a_hang_needs_many_looks_in_a_row_without_progress(
    gaps: list[tuple[float, str]],
) -> None:
    moment, turns, in_row, looks = 0.0, 0, [], []
    still = 0
    for gap, what in gaps:
        moment += gap
        turns += what == "turn"
        looks.append(look(moment, turns=turns, busy=what != "idle"))
        still = still + 1 if what == "still" and len(looks) > 1 else 0
        in_row.append(still)
    for verdict, count in zip(verdicts(looks), in_row, strict=True):
        if count <= 4:  # half of a stall's looks: a gap counts twice its due at most
            assert not verdict.faults


def test_a_process_that_was_stopped_has_not_hung() -> None:
    before = [look(0.0), look(1.0), look(2.0)]
    assert not any(v.faults for v in verdicts([*before, look(5000.0), look(5001.0)]))


def test_a_stop_within_the_grace_does_not_shorten_it() -> None:
    died: list[Look] = [look(moment, states={"loader": "died"}) for moment in (0.0, 5000.0, 5001.0)]
    assert [v.is_over for v in verdicts(died)] == [False, False, True]


@pytest.mark.parametrize("name", ["engine", "loader", "watcher"])
@pytest.mark.parametrize(
    ("state", "phase", "is_fault"),
    [
        ("died", "serving", True),
        ("died", "draining", True),
        ("ended", "serving", True),
        ("ended", "draining", False),
        ("new", "starting", False),
        ("new", "serving", True),
        ("running", "serving", False),
    ],
)
def test_a_thread_that_is_not_there(
    name: str, state: State, phase: Phase, *, is_fault: bool
) -> None:
    [verdict] = verdicts([look(0.0, busy=False, phase=phase, states={name: state})])
    assert set(verdict.faults) == ({name} if is_fault else set())
    assert not verdict.is_over


def test_nothing_is_ended_while_draining_or_when_that_is_off() -> None:
    hung = [look(float(second), phase="draining") for second in range(100)]
    assert verdicts(hung)[-1].faults
    assert not verdicts(hung)[-1].is_over
    hung = [look(float(second)) for second in range(100)]
    assert not verdicts(hung, Limits(8.0, 0.0))[-1].is_over


def test_threads_that_stand_still_with_files_are_reported_alone() -> None:
    glances = (
        Glance("engine", "running", None, 0.0),
        Glance("loader", "running", "reading a", 100.0),
        Glance("watcher", "running", "comparing", 7.9),
    )
    seen = Seen()
    for second in range(50):
        progress = Progress(True, False, 0.0, 1, 1, 0)
        seen, verdict = judge(seen, Look(float(second), "serving", progress, glances), LIMITS)
        assert verdict == Verdict(stuck={"loader": "busy for 100 s with: reading a"})


def test_exit_codes_are_told_where_operators_look() -> None:
    runner = CliRunner().invoke(command_line(), ["serve", "--help"])
    told = " ".join(runner.output.replace("│", "").split())
    runbook = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    for code in (0, EXIT_SETTINGS, EXIT_STARTUP, EXIT_FAULT):
        assert re.search(rf"Exit codes:.*\b{code} ", told), code
        assert f"\n| {code} |" in runbook, code
    assert len({0, 1, EXIT_SETTINGS, EXIT_STARTUP, EXIT_FAULT}) == 5


class Scene:
    """A watchdog over a look that the test changes, and the moment at which it ended."""

    def __init__(self, limits: Limits) -> None:
        self.ended = threading.Event()
        self.now = look(0.0)
        self.watchdog = Watchdog(self._look, limits, end=self.ended.set)

    def _look(self) -> Look:
        return self.now


def test_the_thread_logs_once_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(Limits(stall_seconds=0.08, exit_seconds=0.0))
    assert set(scene.watchdog.verdict.faults) == {"engine", "loader", "watcher"}
    scene.now = look(0.0, states={"watcher": "died"})
    for moment in range(3):
        scene.now = look(float(moment), states={"watcher": "died"})
        scene.watchdog.look()
    assert [r.getMessage() for r in caplog.records if "thread died" in r.getMessage()] == [
        "the watcher thread died; the server's log says why; "
        "JUMPLORA_HANG_EXIT_SECONDS is 0, so the process does not end by itself"
    ]
    assert not scene.ended.is_set()
    scene.now = look(4.0)
    scene.watchdog.look()
    assert scene.watchdog.verdict == Verdict()
    assert "what was wrong is over: the watcher thread died" in caplog.text


def test_the_end_does_not_wait_for_a_log_that_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchdog, "LOG_SECONDS", 0.05)
    may_write = threading.Event()

    class Full(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            return may_write.wait(30)

    handler = Full()
    logging.getLogger("jumplora_server.watchdog").addHandler(handler)
    try:
        scene = Scene(Limits(stall_seconds=8.0, exit_seconds=1.0))
        for moment in range(3):
            scene.now = look(float(moment), states={"loader": "died"})
            scene.watchdog.look()
        assert scene.ended.is_set()
    finally:
        may_write.set()
        logging.getLogger("jumplora_server.watchdog").removeHandler(handler)


def test_a_watchdog_that_died_is_a_fault_itself(caplog: pytest.LogCaptureFixture) -> None:
    looks = iter([look(0.0)])
    dog = Watchdog(lambda: next(looks), Limits(0.08, 0.0))
    dog.start()
    dog._thread.join(10)
    assert dog.verdict.faults == {"watchdog": "the watchdog thread died; the server's log says why"}
    assert "StopIteration" in caplog.text


@pytest.mark.parametrize("form", ["text", "json"])
def test_stacks_name_every_thread_and_where_it_stands(
    form: str,
) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    may_end = threading.Event()
    begun = threading.Event()

    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        begun.set()
        may_end.wait(30)

    thread = threading.Thread(target=deep, args=(200,), name="deep one")
    thread.start()
    try:
        assert begun.wait(10)
        logs.configure("json" if form == "json" else "text", "info", stream)
        log_stacks()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        may_end.set()
        thread.join(10)
    text = stream.getvalue()
    if form == "text":
        assert "stack of thread deep one\n  File" in text
        return
    lines = [json.loads(line) for line in text.splitlines()]
    [line] = [line for line in lines if line["message"] == "stack of thread deep one"]
    assert line["level"] == "critical"
    assert "may_end.wait(30)" in line["stack"]
    innermost = [" in deep\n", " more times]\n", " in wait\n"]
    assert [part for part in innermost if part not in line["stack"]] == []
    assert "in run\n" not in line["stack"], "the outermost frames are shown"
    assert any(line["message"] == "stack of thread MainThread" for line in lines)
