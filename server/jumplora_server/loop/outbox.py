"""What the loop owes: one terminal event for every submitted sequence, delivered once.

Holds each sequence's lease and place in the queue until that event. The thread that
closes an entry delivers it, so the engine thread and `stop` cannot both do so. Thread-safe.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jumplora_server.core import FinishReason, Sequence, TokenEvent
from jumplora_server.loop.admission import Reservation
from jumplora_server.routing import Lease
from jumplora_server.scheduler.finish import finish_of

OnEvent = Callable[[TokenEvent], None]
Events = list[tuple[OnEvent, TokenEvent]]
Deliver = Callable[[Events], None]


@dataclass(frozen=True, slots=True)
class _Owed:
    sequence: Sequence
    lease: Lease
    reservation: Reservation | None
    on_event: OnEvent


class Outbox:
    """Open sequences by id."""

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
