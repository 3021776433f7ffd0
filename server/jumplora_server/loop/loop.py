"""The one engine thread, and the only file that knows both the scheduler and the engine.

Other threads hand sequences over and get their events through `deliver`. Must not know HTTP.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from jumplora_server.core import (
    Batch,
    Detokenizer,
    Encoding,
    EngineLimits,
    Lease,
    QueueLimits,
    Sampling,
    Sequence,
    StepOutput,
    Wanted,
)
from jumplora_server.errors import (
    Draining,
    GenerationFailed,
)
from jumplora_server.loop.admission import Admission, Inbox, Reservation, check_limits
from jumplora_server.loop.outbox import Deliver, OnEvent, Outbox
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.pulse import Pulse
from jumplora_server.scheduler.claims import Priority, SlotClaims
from jumplora_server.scheduler.queue import task_of
from jumplora_server.scheduler.scheduler import Scheduler

_log = logging.getLogger(__name__)


class StepEngine(Protocol):
    """What the loop needs of the engine."""

    @property
    def limits(self) -> EngineLimits: ...

    def step(self, batch: Batch) -> StepOutput: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """What readiness and the watchdog look at.

    `last` is the monotonic time at which the engine thread last finished a step or woke up, and
    `turns` how often it did: when that stays the same while `busy` (it does not wait for work), it
    hangs. `steps` counts those that ended, `failed_steps` failures in a row.
    """

    alive: bool
    busy: bool
    last: float
    turns: int
    steps: int
    failed_steps: int


class Load(NamedTuple):
    """How many sequences wait for a row, and how many rows are held."""

    waiting: int
    rows: int


class Continuation(NamedTuple):
    """What is wanted of a prompt once. Without a reservation (only warm-ups should) no place in the
    queue is counted."""

    sampling: Sampling
    on_event: OnEvent
    reservation: Reservation | None = None


class EngineLoop:
    """Submit and cancel from any thread; every submitted sequence gets one terminal event."""

    def __init__(
        self,
        engine: StepEngine,
        claims: SlotClaims,
        detokenizer: Callable[[], Detokenizer],
        *,
        metrics: Metrics,
        queue_limits: QueueLimits,
        max_encode_tokens: int,
        spare_rows: int = 0,
        low_patience_seconds: float = 0.1,
        deliver: Deliver | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """`deliver` gets all events of a step in one call on the engine thread and must not raise;
        without it they are handed to their `on_event` right there."""
        self.limits = engine.limits
        self.max_beams = engine.limits.max_rows - spare_rows
        self.admission = Admission(queue_limits, clock, metrics.rejected, rng or random.Random())
        self._engine = engine
        self._detokenizer = detokenizer
        self._scheduler = Scheduler(
            engine.limits,
            claims,
            max_encode_tokens=max_encode_tokens,
            spare_rows=spare_rows,
            low_patience_seconds=low_patience_seconds,
        )
        self._report = StepReport(metrics, engine.limits.max_rows)
        self._outbox = Outbox(deliver)
        self._clock = clock
        self._ids = itertools.count(1)
        self._inbox = Inbox()
        # Written by the engine thread, read by anybody:
        self._last_progress = clock()
        self._turns = 0
        self._steps = 0
        self._failed_steps = 0
        self.pulse = Pulse("engine", clock)
        self._thread = threading.Thread(
            target=self.pulse.run, args=(self._run,), name="engine", daemon=True
        )

    # Any thread

    def submit(
        self,
        *,
        lease: Lease,
        prompt: tuple[int, ...],
        sampling: Sampling,
        on_event: OnEvent,
        deadline: float | None = None,
        priority: Priority = "normal",
        wants: Wanted = "tokens",
        reservation: Reservation | None = None,
    ) -> int:
        """Queue one continuation of a prompt; return its sequence id. See `submit_all`."""
        (sequence_id,) = self.submit_all(
            [Continuation(sampling, on_event, reservation)],
            lease=lease,
            prompt=prompt,
            deadline=deadline,
            priority=priority,
            wants=wants,
        )
        return sequence_id

    def submit_all(
        self,
        continuations: Rows[Continuation],
        *,
        lease: Lease,
        prompt: tuple[int, ...],
        deadline: float | None = None,
        priority: Priority = "normal",
        wants: Wanted = "tokens",
    ) -> tuple[int, ...]:
        """Queue the continuations of one prompt, which is encoded once; return their sequence ids.

        Exactly one event of each has `finish`, and it is the only one where `wants` is "end".
        The loop takes a share of `lease` for each until that event; the caller still releases its
        own, at any time after this returned. Reservations are the loop's once this returned, the
        caller's if this raised. `deadline` is monotonic, in seconds. Raises InputTooLong,
        InvalidInput (max_new_tokens, num_beams), Draining.
        """
        for continuation in continuations:
            check_limits(self.limits, prompt, continuation.sampling, self.max_beams)
        encoding = Encoding(lease.ref, prompt)
        sequences = []
        for number, (sampling, on_event, reservation) in enumerate(continuations):
            sequence = Sequence(
                id=next(self._ids),
                encoding=encoding,
                sampling=sampling,
                detokenizer=self._detokenizer(),
                arrived=self._clock() if reservation is None else reservation.arrived,
                deadline=deadline,
                priority=priority,
                wants=wants,
            )
            if reservation is not None:
                self.admission.resize(reservation, 0 if number else len(prompt))
            self._outbox.open(sequence, lease.share(), reservation, on_event)
            sequences.append(sequence)
        if not self._inbox.put(sequences) and any([*map(self._outbox.withdraw, sequences)]):
            raise _stopped()
        return tuple(sequence.id for sequence in sequences)

    def cancel(self, sequence_id: int) -> None:
        """End a sequence at the next step (CANCELLED). Unknown and ended ids are ignored."""
        if sequence_id in self._outbox:
            self._inbox.cancel(sequence_id)

    def wake(self) -> None:
        """Look again at what waits: an adapter was loaded, or failed to."""
        self._inbox.wake()

    def start(self) -> None:
        """Start the engine thread."""
        self._thread.start()

    def drain(self) -> None:
        """Refuse new reservations with Draining; what is reserved, waits or runs is finished."""
        self.admission.close()

    def stop(self, drain_seconds: float = 0.0, *, hang_seconds: float = 5.0) -> None:
        """Drain for at most `drain_seconds`, end what is left with Draining, join the thread.

        A step that hangs is waited for `hang_seconds` more; its sequences end all the same.
        """
        self.drain()
        self._outbox.wait_empty(drain_seconds)
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join(timeout=hang_seconds)
        self._outbox.abandon(_stopped(), self._clock())

    @property
    def progress(self) -> Progress:
        """A glance that takes no lock."""
        return Progress(
            alive=self._thread.is_alive(),
            busy=not self._inbox.is_awaited,
            last=self._last_progress,
            turns=self._turns,
            steps=self._steps,
            failed_steps=self._failed_steps,
        )

    @property
    def load(self) -> Load:
        """As it was after the last turn."""
        return self._report.load

    # The engine thread

    def _run(self) -> None:
        try:
            is_idle = False
            while self._take_news(is_idle):
                is_idle = self._turn()
                self._report.turn(self._scheduler)
            self._scheduler.abort(_stopped(), self._clock())
            self._settle()
        finally:  # after a bug of ours too: no client waits for ever
            self._inbox.close()
            self._outbox.abandon(GenerationFailed("the engine thread ended"), self._clock())

    def _take_news(self, is_idle: bool) -> bool:
        """Hand over what came in, waiting for it when idle. False when the thread is to end."""
        if is_idle:
            due = self._scheduler.next_wake()
            news = self._inbox.wait(None if due is None else max(0.0, due - self._clock()))
        else:
            news = self._inbox.take()
        self._last_progress = self._clock()
        self._turns += 1
        for sequence in news.arrived:
            self._scheduler.add(sequence)
        for sequence_id in news.cancelled:
            self._scheduler.cancel(sequence_id)
        return not news.is_last

    def _turn(self) -> bool:
        """Choose, compute, account, deliver. True when there was nothing to compute."""
        batch = self._scheduler.next_batch(self._clock())
        self._settle()  # before the step: rows of ended sequences may be in use again
        if batch.is_empty():
            self._scheduler.check_idle()
            return True
        self._outbox.leave_queue(s for s in batch.sequences if s.encoded is None)
        began = self._clock()
        try:
            output = self._engine.step(batch)
            ended = self._clock()
            self._scheduler.apply(batch, output, ended)
            self._report.step(batch, ended - began, output.encode_seconds)
            self._failed_steps = 0
        except Exception as error:
            _log.exception("a step of %d rows failed", len(batch.sequences))
            failure = GenerationFailed("the engine failed on the batch of this request")
            failure.__cause__ = error
            self._scheduler.fail(batch, failure, self._clock())
            self._failed_steps += 1
        self._steps += 1
        self._settle()
        return False

    def _settle(self) -> None:
        """Deliver the scheduler's events."""
        self._outbox.post(self._scheduler.take_events())


class StepReport:
    """Turns steps into verbs. Warm-ups hold rows but do not count as traffic of their task."""

    def __init__(self, metrics: Metrics, max_rows: int) -> None:
        self._metrics = metrics
        self._max_rows = max_rows
        self._told: tuple[int, int, frozenset[str], frozenset[str]] | None = None

    @property
    def load(self) -> Load:
        """As it was after the last turn that changed it; any thread."""
        told = self._told
        return Load(0, 0) if told is None else Load(told[0], told[1])

    def step(self, batch: Batch, seconds: float, encode_seconds: float) -> None:
        """After a step that took `seconds`, of which `encode_seconds` in the encoder."""
        computed = batch.sequences
        tasks = {task_of(s) for s in computed if s.priority == "normal"}
        encoded = sum(len(s.prompt) for s in batch.encode)
        self._metrics.batch(len(computed), len(tasks), encoded)
        if batch.encode:
            self._metrics.step_seconds("encode", encode_seconds)
        self._metrics.step_seconds("decode", max(0.0, seconds - encode_seconds))

    def turn(self, scheduler: Scheduler) -> None:
        """After every turn of the loop, also one without a step."""
        self._metrics.heartbeat()
        told = (
            scheduler.waiting,
            scheduler.running,
            scheduler.running_tasks(),
            scheduler.waiting_tasks(),
        )
        if told == self._told:  # as after most steps: no sequence came or left
            return
        self._told = told
        waiting, running, running_tasks, waiting_tasks = told
        self._metrics.queue(waiting, running)
        self._metrics.rows_in_use(running, self._max_rows)
        self._metrics.lora_requests(running_tasks, waiting_tasks, self._max_rows)


def _stopped() -> Draining:
    return Draining("the server was stopped before this was finished", retry_after=1.0)
