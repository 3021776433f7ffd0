"""What goes out: one terminal event for every submitted sequence, and its way to one client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from jumplora_server.core import Finish, FinishReason, Lease, Role, Sequence, Token, TokenEvent
from jumplora_server.errors import DeadlineExceeded, Draining, GenerationFailed, ServerError
from jumplora_server.loop.admission import Reservation
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.tasks import Late, Outcome
from jumplora_server.scheduler.text import finish_of


class Numbered(NamedTuple):
    """An event, and which of a request's sequences it is of."""

    number: int
    event: TokenEvent


OnEvent = Callable[[TokenEvent], None]
Events = list[tuple[OnEvent, TokenEvent]]
Deliver = Callable[[Events], None]
Collected = tuple[list[Token], Finish]
CancelCause = Literal["client_disconnect", "error", "shed"] | Late
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Owed:
    sequence: Sequence
    lease: Lease
    reservation: Reservation | None
    on_event: OnEvent


class Outbox:
    """Open sequences by id, each with its lease and its place in the queue until it has ended.

    The thread that closes an entry delivers its event, so the engine thread and `stop` cannot both
    do so. Thread-safe.
    """

    def __init__(self, deliver: Deliver | None) -> None:
        """`deliver` gets the events of a step in one call; None calls each `on_event` in turn."""
        self._deliver = deliver or _hand_out
        self._emptied = threading.Condition()
        self._owed: dict[int, _Owed] = {}

    def __len__(self) -> int:
        return len(self._owed)

    def __contains__(self, sequence_id: int) -> bool:
        return sequence_id in self._owed

    def open(
        self, sequence: Sequence, lease: Lease, reservation: Reservation | None, on_event: OnEvent
    ) -> None:
        """Owe `sequence` a terminal event. Takes over `lease` and `reservation`."""
        with self._emptied:
            self._owed[sequence.id] = _Owed(sequence, lease, reservation, on_event)

    def withdraw(self, sequence: Sequence) -> bool:
        """Owe it nothing after all; False when its terminal event is already out."""
        return self._close(sequence.id) is not None

    def leave_queue(self, sequences: Iterable[Sequence]) -> None:
        """Give back the places of sequences that got a row."""
        for sequence in sequences:
            owed = self._owed.get(sequence.id)
            if owed is not None and owed.reservation is not None:
                owed.reservation.release()

    def post(self, events: Iterable[tuple[Sequence, TokenEvent]]) -> None:
        """Deliver events in order; terminal ones close their sequence first, so that a
        client that sees one finds nothing held any more."""
        outgoing: list[tuple[OnEvent, TokenEvent]] = []
        for sequence, event in events:
            ends = event.finish is not None
            owed = self._close(sequence.id) if ends else self._owed.get(sequence.id)
            if owed is not None:
                outgoing.append((owed.on_event, event))
        if outgoing:
            self._deliver(outgoing)

    def abandon(self, error: Exception, now: float) -> None:
        """End every open sequence with `error`, without asking the scheduler."""
        self.post(
            (owed.sequence, TokenEvent(owed.sequence.id, None, finish))
            for owed in tuple(self._owed.values())
            for finish in [finish_of(owed.sequence, FinishReason.ERROR, now, error)]
        )

    def wait_empty(self, seconds: float) -> bool:
        """Wait until nothing is owed; False when `seconds` passed before."""
        with self._emptied:
            return self._emptied.wait_for(lambda: not self._owed, timeout=seconds)

    def _close(self, sequence_id: int) -> _Owed | None:
        with self._emptied:
            owed = self._owed.pop(sequence_id, None)
            if not self._owed:
                self._emptied.notify_all()
        if owed is not None:
            owed.lease.release()
            if owed.reservation is not None:
                owed.reservation.release()
        return owed


class Delivery:
    """The loop's `deliver` hook. Without an event loop, events are handed out where they arise."""

    def __init__(self) -> None:
        self._event_loop: asyncio.AbstractEventLoop | None = None

    def bind(self, event_loop: asyncio.AbstractEventLoop | None) -> None:
        """Hand events out there from now on."""
        self._event_loop = event_loop

    def __call__(self, events: Events) -> None:
        """Any thread; never raises, for the engine thread calls it."""
        event_loop = self._event_loop
        if event_loop is None:
            _hand_out(events)
            return
        try:
            event_loop.call_soon_threadsafe(_hand_out_each, event_loop, events)
        except RuntimeError:  # closed: no client waits any more, but ends are still counted
            _hand_out(events)


def _hand_out_each(event_loop: asyncio.AbstractEventLoop, events: Events) -> None:
    # One listener's fault is not another's loss.
    for on_event, event in events:
        try:
            on_event(event)
        except Exception as error:
            context = {"message": f"{on_event!r} failed on an event", "exception": error}
            event_loop.call_exception_handler(context)


def _hand_out(events: Events) -> None:
    for on_event, event in events:
        on_event(event)


@dataclass(frozen=True, slots=True)
class Payer:
    """For what a sequence is counted: its task (None: the bare backbone), the version of it that
    answers, and what that is for the task. `is_judged`: its end says how good the version is."""

    task: str | None
    version: str | None = None
    role: Role | None = None
    is_judged: bool = False


class Stream:
    """Holds the events of one submitted sequence until they are read, and counts its end once.

    Everything here runs on the event loop: `Delivery` posts `on_event` there.
    """

    def __init__(
        self,
        cancel: Callable[[int], None],
        metrics: Metrics,
        payer: Payer,
        *,
        counts_prompt: bool = True,
        on_finish: Callable[[Finish], None] | None = None,
        late: Late = "timeout",
    ) -> None:
        """`cancel` ends a sequence by its id at the next step. `counts_prompt` is False where
        another sequence of the same prompt counts its tokens. `on_finish` hears the end, and `late`
        is how it ends when its deadline passes."""
        self._cancel = cancel
        self._metrics = metrics
        self._payer = payer
        self._counts_prompt = counts_prompt
        self._on_finish = on_finish
        self._late: Late = late
        self._events: asyncio.Queue[TokenEvent] = asyncio.Queue()
        self._collected: asyncio.Future[Collected] | None = None
        self._sequence_id: int | None = None
        self._cause: CancelCause = "client_disconnect"
        self._ended = False

    def opened(self, sequence_id: int) -> None:
        """Note the id that `submit` returned."""
        self._sequence_id = sequence_id
        self._metrics.in_flight(self._payer.task, 1)

    def on_event(self, event: TokenEvent) -> None:
        """Take one event; the last one is counted even when the client is gone."""
        self._events.put_nowait(event)
        if event.finish is not None:
            self._ended = True
            finish = event.finish
            payer = self._payer
            task, version, role = payer.task, payer.version, payer.role
            outcome = self._outcome(finish)
            self._metrics.in_flight(task, -1)
            if task is not None and version is not None and role is not None:
                self._metrics.version_finished(
                    task, version, role, outcome, finish.timing, is_judged=payer.is_judged
                )
            self._metrics.request_finished(
                task,
                outcome,
                finish.timing,
                finish.prompt_tokens if self._counts_prompt else 0,
                finish.generated_tokens,
            )
            if self._on_finish is not None:
                self._on_finish(finish)
            if self._collected is not None:
                self._settle(self._collected)

    def cancel(self, cause: CancelCause) -> None:
        """Free the row at the next step. Nothing happens when the sequence has ended."""
        if self._sequence_id is not None and not self._ended:
            self._cause = cause
            self._cancel(self._sequence_id)

    async def events(self) -> AsyncIterator[TokenEvent]:
        """The events in order; the last one has `finish`."""
        while True:
            event = await self._events.get()
            yield event
            if event.finish is not None:
                return

    async def numbered(self, number: int) -> AsyncGenerator[Numbered]:
        """The same, each with `number`."""
        async for event in self.events():
            yield Numbered(number, event)

    def collected(self) -> asyncio.Future[Collected]:
        """All tokens, at the end. Fails with the server error of a sequence that did not end well.

        A future that the last event sets, not a coroutine that reads events: each step from one
        task to the next waits for a turn of the event loop, and under load its turns are long.
        """
        self._collected = asyncio.get_running_loop().create_future()
        self._collected.add_done_callback(look_at)
        if self._ended:
            self._settle(self._collected)
        return self._collected

    def _settle(self, collected: asyncio.Future[Collected]) -> None:
        events = [self._events.get_nowait() for _ in range(self._events.qsize())]
        finish = events[-1].finish
        assert finish is not None, "the last event has a finish"
        if collected.done():  # cancelled
            return
        if (failure := failure_of(finish)) is not None:
            collected.set_exception(failure)
        else:
            collected.set_result(([e.token for e in events if e.token is not None], finish))

    def _outcome(self, finish: Finish) -> Outcome:
        match finish.reason:
            case FinishReason.CANCELLED:
                return self._cause
            case FinishReason.TIMEOUT:
                return self._late
            case FinishReason.ERROR:
                return "shed" if isinstance(finish.error, Draining) else "error"
            case _:
                return "ok"


async def merged(streams: Rows[Stream]) -> AsyncGenerator[Numbered]:
    """The events of several streams as they come, each with the number of its stream."""
    ready: asyncio.Queue[Numbered] = asyncio.Queue()

    async def pump(number: int, stream: Stream) -> None:
        async for event in stream.events():
            ready.put_nowait(Numbered(number, event))

    pumps = [asyncio.ensure_future(pump(n, stream)) for n, stream in enumerate(streams)]
    try:
        left = len(streams)
        while left:
            numbered = await ready.get()
            left -= numbered.event.finish is not None
            yield numbered
    finally:
        for each in pumps:
            each.cancel()


def failure_of(finish: Finish) -> ServerError | None:
    """What a client should hear of a sequence that timed out, failed or was cancelled."""
    match finish.reason:
        case FinishReason.TIMEOUT:
            return DeadlineExceeded(
                f"the deadline passed after {finish.generated_tokens} tokens and "
                f"{finish.timing.total:.3f} s; give a longer timeout_ms or fewer tokens"
            )
        case FinishReason.ERROR:
            if isinstance(finish.error, ServerError):
                return finish.error
            return GenerationFailed("the engine failed on this prompt's batch; it may be retried")
        case FinishReason.CANCELLED:
            return GenerationFailed("the sequence was cancelled")
        case _:
            return None


def look_at(done: asyncio.Future[T]) -> None:
    """A done callback that keeps asyncio from logging an error that is of no interest."""
    if not done.cancelled():
        done.exception()
