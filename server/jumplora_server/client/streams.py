"""A stream's lines as events, and whether it came to its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing, closing

from jumplora_server.api.schemas import StreamEvent
from jumplora_server.client.calls import Call, event_of
from jumplora_server.client.errors import Unreachable
from jumplora_server.client.limits import MOST_EVENT


class Events:
    """What was read of one stream."""

    def __init__(self, call: Call[StreamEvent], url: str) -> None:
        self._call = call
        self._url = url
        self._rest = b""  # of a line whose end did not come yet
        self._count = 0
        self._is_whole = False

    @property
    def has_begun(self) -> bool:
        """Whether an event came; the stream is not asked for again then."""
        return self._count > 0

    def read(self, piece: bytes) -> Iterator[StreamEvent]:
        """The events that a piece of the answer completes. Raises RequestFailed.

        Lines end at line feeds alone: a text may have characters at which Python splits lines.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                event = event_of(self._call, line.removeprefix(b"data:"), self._url)
                self._count += 1
                self._is_whole = event.generated_text is not None
                yield event
        if len(self._rest) > MOST_EVENT:
            why = ValueError(f"an event is longer than {MOST_EVENT} bytes")
            raise self._call.foreign(200, self._url, why)

    def end(self) -> None:
        """Raises RequestFailed where the last event is missing."""
        if self._is_whole:
            return
        asked = self._call.asked(self._url)
        if self._count == 0:
            raise self._call.foreign(200, self._url, ValueError("no event came"))
        raise Unreachable(
            f"the stream broke off after {self._count} events", code="broken_off", asked=asked
        )


def texts_of(events: Generator[StreamEvent, None, None]) -> Generator[str, None, None]:
    """The pieces of text of a stream, which is closed with it."""
    with closing(events):
        for event in events:
            if piece := _text(event):
                yield piece


async def async_texts_of(
    events: AsyncGenerator[StreamEvent, None],
) -> AsyncGenerator[str, None]:
    """The same of an asynchronous stream."""
    async with aclosing(events):
        async for event in events:
            if piece := _text(event):
                yield piece


def _text(event: StreamEvent) -> str:
    return "" if event.token is None or event.token.special else event.token.text
