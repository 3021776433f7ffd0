"""One sequence's events on their way from the engine thread to one client.

Everything here runs on the event loop: `on_event` is posted there by the app's deliver hook.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal

from jumplora_server.core import Finish, FinishReason, Sampling, Token, TokenEvent
from jumplora_server.errors import DeadlineExceeded, Draining, GenerationFailed, ServerError

if TYPE_CHECKING:
    from jumplora_server.loop import EngineLoop
    from jumplora_server.metrics import Metrics
    from jumplora_server.metrics_tasks import Outcome

CancelCause = Literal["client_disconnect", "error", "timeout", "shed"]


class Stream:
    """Holds the events of one submitted sequence until they are read, and counts its end once."""

    def __init__(self, loop: EngineLoop, metrics: Metrics, task: str | None) -> None:
        self._loop = loop
        self._metrics = metrics
        self._task = task
        self._events: asyncio.Queue[TokenEvent] = asyncio.Queue()
        self._sequence_id: int | None = None
        self._cause: CancelCause = "client_disconnect"
        self._ended = False

    def opened(self, sequence_id: int) -> None:
        """Note the id that `submit` returned."""
        self._sequence_id = sequence_id
        self._metrics.in_flight(self._task, 1)

    def on_event(self, event: TokenEvent) -> None:
        """Take one event; the last one is counted even when nobody reads any more."""
        self._events.put_nowait(event)
        if event.finish is not None:
            self._ended = True
            finish = event.finish
            self._metrics.in_flight(self._task, -1)
            self._metrics.request_finished(
                self._task,
                self._outcome(finish),
                finish.timing,
                finish.prompt_tokens,
                finish.generated_tokens,
            )

    def cancel(self, cause: CancelCause) -> None:
        """Free the row at the next step. Nothing happens when the sequence has ended."""
        if self._sequence_id is not None and not self._ended:
            self._cause = cause
            self._loop.cancel(self._sequence_id)

    async def events(self) -> AsyncIterator[TokenEvent]:
        """The events in order; the last one has `finish`."""
        while True:
            event = await self._events.get()
            yield event
            if event.finish is not None:
                return

    async def collect(self) -> tuple[list[Token], Finish]:
        """Wait for the end. Raises the server error of a sequence that did not end well."""
        tokens = []
        async for event in self.events():
            if event.token is not None:
                tokens.append(event.token)
            if event.finish is not None:
                failure = failure_of(event.finish)
                if failure is not None:
                    raise failure
                return tokens, event.finish
        raise AssertionError("a sequence ended without a finish")

    def _outcome(self, finish: Finish) -> Outcome:
        match finish.reason:
            case FinishReason.CANCELLED:
                return self._cause
            case FinishReason.TIMEOUT:
                return "timeout"
            case FinishReason.ERROR:
                return "shed" if isinstance(finish.error, Draining) else "error"
            case _:
                return "ok"


def failure_of(finish: Finish) -> ServerError | None:
    """What a client should hear of a sequence that timed out, failed or was cancelled."""
    match finish.reason:
        case FinishReason.TIMEOUT:
            return DeadlineExceeded(
                f"the deadline passed after {finish.generated_tokens} tokens and "
                f"{finish.timing.total:.3f} s; give parameters.timeout_ms or fewer tokens"
            )
        case FinishReason.ERROR:
            if isinstance(finish.error, ServerError):
                return finish.error
            return GenerationFailed("the engine failed on this prompt's batch; it may be retried")
        case FinishReason.CANCELLED:
            return GenerationFailed("the sequence was cancelled")
        case _:
            return None


def shown_seed(sampling: Sampling) -> int | None:
    """The seed that repeats the answer; None when nothing was random."""
    return sampling.seed if sampling.mode == "sample" else None
