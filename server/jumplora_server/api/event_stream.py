"""A response of server-sent events, one for each event of one sequence."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from jumplora_server.api import answers
from jumplora_server.api.admit import Admitted
from jumplora_server.api.record import RequestRecord
from jumplora_server.api.stream import failure_of
from jumplora_server.core import TokenEvent


class EventStream(StreamingResponse):
    """`first` and `rest` are the sequence's events; it is cancelled when the client goes away.

    A failure after the first event is told as a last event `{"error", "error_type"}`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        admitted: Admitted,
        record: RequestRecord,
        first: TokenEvent,
        rest: AsyncIterator[TokenEvent],
    ) -> None:
        headers = answers.identity_headers(admitted)
        # nginx would hold events back otherwise.
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self._admitted = admitted
        self._lines = _lines(admitted, record, first, rest)
        super().__init__(self._lines, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until nobody listens."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._admitted.cancel("client_disconnect")
            await self._lines.aclose()


async def _lines(
    admitted: Admitted,
    record: RequestRecord,
    first: TokenEvent,
    rest: AsyncIterator[TokenEvent],
) -> AsyncGenerator[bytes]:
    yield answers.stream_event(admitted, 0, first)
    if first.finish is not None:
        return
    index = 0
    async for event in rest:
        index += 1
        record.generated_tokens = index + 1
        failure = None if event.finish is None else failure_of(event.finish)
        if failure is not None:
            yield answers.error_event(failure)
            return
        yield answers.stream_event(admitted, index, event)
