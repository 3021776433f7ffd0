"""From the engine thread to the event loop: one hand-over for all events of a step."""

from __future__ import annotations

import asyncio

from jumplora_server.core import TokenEvent
from jumplora_server.outbox import OnEvent

Events = list[tuple[OnEvent, TokenEvent]]


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
