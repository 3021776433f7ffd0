"""The watchdog: one thread that sees when another died or a step hangs, and ends the process then.

`judge` decides from what is seen; `Watchdog` looks, tells and acts. Work on files is judged
otherwise than the rest: a loader or watcher that stands still is reported and never ends the
process, since a new one would find the same slow disk. Must not know HTTP.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from jumplora_server.loop.loop import Progress
from jumplora_server.pulse import Glance, Pulse

Phase = Literal["starting", "serving", "draining"]

# Meant by nothing else: sysexits.h ends at 78, shells take 126 and above, Python 1, 2 and 120.
EXIT_FAULT: Final = 79
FIRST_STEP_FACTOR = 4  # the first step compiles kernels, captures graphs and pages weights in
LOOKS_PER_STALL = 8
MAX_THREADS, MAX_FRAMES = 100, 40  # of the stacks in the log
LOG_SECONDS = 3.0  # a log that is not read any more must not keep a broken server alive

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """What is seen at one moment, in monotonic seconds."""

    moment: float
    phase: Phase
    engine: Progress
    threads: tuple[Glance, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the engine may stand still, and how long a fault lasts until the process ends.

    `exit_seconds` 0 means that it never ends by itself.
    """

    stall_seconds: float
    exit_seconds: float

    @property
    def period_seconds(self) -> float:
        """The time between two looks: several of them see a stall before it counts as a hang."""
        return min(1.0, self.stall_seconds / LOOKS_PER_STALL)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the looks so far add up to: `stalled_seconds` without progress, `faulty_seconds` with
    a fault. Only watched time counts, so a process that was stopped or suspended has lost none.
    """

    moment: float | None = None
    turns: int = -1
    stalled_seconds: float = 0.0
    faulty_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """By the name of a thread: `faults` fail liveness, `stuck` is only reported."""

    faults: Mapping[str, str] = field(default_factory=dict)
    stuck: Mapping[str, str] = field(default_factory=dict)
    is_over: bool = False  # a fault lasted: the process is to end


def judge(seen: Seen, look: Look, limits: Limits) -> tuple[Seen, Verdict]:
    """Decide what is wrong. While draining, the process ends by the timeouts of the drain."""
    # A gap longer than two periods is a stop of the whole process, or a starved machine.
    elapsed = (
        0.0
        if seen.moment is None
        else min(max(0.0, look.moment - seen.moment), 2 * limits.period_seconds)
    )
    engine = look.engine
    is_still = engine.alive and engine.busy and engine.turns == seen.turns
    stalled = seen.stalled_seconds + elapsed if is_still else 0.0
    faults = {
        glance.name: fault
        for glance in look.threads
        if (fault := _end_of(glance, look.phase)) is not None
    }
    allowed = limits.stall_seconds * (1 if engine.steps else FIRST_STEP_FACTOR)
    if stalled > allowed:
        faults["engine"] = f"no step has ended for {stalled:.0f} s although sequences wait"
    stuck = {
        glance.name: f"busy for {glance.seconds:.0f} s with: {glance.doing}"
        for glance in look.threads
        if is_stuck(glance, limits.stall_seconds)
    }
    faulty = seen.faulty_seconds + elapsed if faults else 0.0
    is_over = 0 < limits.exit_seconds <= faulty and look.phase != "draining"
    return Seen(look.moment, engine.turns, stalled, faulty), Verdict(faults, stuck, is_over)


def is_stuck(glance: Glance, stall_seconds: float) -> bool:
    """Whether a thread that works on files stands still. The engine is judged by its turns."""
    return glance.name != "engine" and glance.seconds > stall_seconds


def _end_of(glance: Glance, phase: Phase) -> str | None:
    match glance.state:
        case "died":
            return f"the {glance.name} thread died; the server's log says why"
        case "ended" if phase != "draining":
            return f"the {glance.name} thread has ended"
        case "new" if phase == "serving":
            return f"the {glance.name} thread has not started"
    return None


class Watchdog:
    """Started and stopped once; `verdict` may be read from any thread."""

    def __init__(
        self,
        look: Callable[[], Look],
        limits: Limits,
        *,
        end: Callable[[], None] = lambda: os._exit(EXIT_FAULT),
    ) -> None:
        """`end` ends the process; it is called on this thread, after the log was written. The
        default runs no exit handlers: those of a broken process may never return."""
        self._look = look
        self._patience = limits
        self._end = end
        self._seen = Seen()
        self._verdict = Verdict(
            dict.fromkeys(("engine", "loader", "watcher"), "the server has not started")
        )
        self._told = Verdict()
        self._stopped = threading.Event()
        self._pulse = Pulse("watchdog", time.monotonic)
        self._thread = threading.Thread(
            target=self._pulse.run, args=(self._run,), name="watchdog", daemon=True
        )

    @property
    def verdict(self) -> Verdict:
        """The newest."""
        if self._pulse.glance.state == "died":
            return Verdict({"watchdog": "the watchdog thread died; the server's log says why"})
        return self._verdict

    def start(self) -> None:
        """Look once and start the thread. What is watched runs already."""
        self.look()
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def look(self) -> None:
        """Look once, tell what is new, and act. On this thread, or before it started."""
        before = self._told
        self._seen, verdict = judge(self._seen, self._look(), self._patience)
        self._verdict = self._told = verdict
        if verdict.is_over or _names(before) != _names(verdict):
            _within(LOG_SECONDS, lambda: _tell(before, verdict, self._patience.exit_seconds))
        if verdict.is_over:
            self._end()

    def _run(self) -> None:
        while not self._stopped.wait(self._patience.period_seconds):
            self.look()


def _names(verdict: Verdict) -> tuple[set[str], set[str]]:
    return set(verdict.faults), set(verdict.stuck)


def _tell(before: Verdict, now: Verdict, exit_seconds: float) -> None:
    """Log what is new since the look before."""
    for name in sorted(now.stuck.keys() - before.stuck.keys()):
        _log.warning("the %s thread stands still: %s", name, now.stuck[name])
    for name in sorted(before.stuck.keys() - now.stuck.keys()):
        _log.info("the %s thread moves again", name)
    for name in sorted(now.faults.keys() - before.faults.keys()):
        plan = (
            f"unless that changes, the process ends in {exit_seconds:g} s"
            if exit_seconds
            else "JUMPLORA_HANG_EXIT_SECONDS is 0, so the process does not end by itself"
        )
        _log.critical("%s; %s", now.faults[name], plan)
    if now.faults.keys() - before.faults.keys():
        log_stacks()
    if before.faults and not now.faults:
        _log.warning("what was wrong is over: %s", "; ".join(before.faults.values()))
    if now.is_over:
        why = "; ".join(now.faults.values())
        _log.critical(
            "the process ends with code %d, so that it is started again: %s", EXIT_FAULT, why
        )


def log_stacks() -> None:
    """Write the innermost frames of every thread into the log, one record a thread."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    for ident, frame in list(frames.items())[:MAX_THREADS]:
        lines = traceback.StackSummary.extract(
            traceback.walk_stack(frame), limit=MAX_FRAMES, lookup_lines=False
        )
        lines.reverse()  # as in a traceback: the innermost last
        name = names.get(ident, f"{ident} (not Python's)")
        _log.critical("stack of thread %s", name, extra={"stack": "".join(lines.format())})
    if len(frames) > MAX_THREADS:
        _log.critical("%d more threads are not shown", len(frames) - MAX_THREADS)


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Run `action` on a new thread and wait for it that long at most."""
    thread = threading.Thread(target=action, name="watchdog's log", daemon=True)
    thread.start()
    thread.join(seconds)
