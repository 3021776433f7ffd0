"""One sequence's events on their way from the engine thread to one client.

Everything here runs on the event loop: `on_event` is posted there by the app's deliver hook.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal

from jumplora_server.api.hang_up import look_at
from jumplora_server.core import Finish, FinishReason, Sampling, Token, TokenEvent
from jumplora_server.errors import DeadlineExceeded, Draining, GenerationFailed, ServerError

if TYPE_CHECKING:
    from jumplora_server.loop.loop import EngineLoop
    from jumplora_server.metrics.metrics import Metrics
    from jumplora_server.metrics.tasks import Outcome

Collected = tuple[list[Token], Finish]
CancelCause = Literal["client_disconnect", "error", "timeout", "shed"]


class Stream:
    """Holds the events of one submitted sequence until they are read, and counts its end once."""

    def __init__(self, loop: EngineLoop, metrics: Metrics, task: str | None) -> None:
        self._loop = loop
        self._metrics = metrics
        self._task = task
        self._events: asyncio.Queue[TokenEvent] = asyncio.Queue()
        self._collected: asyncio.Future[Collected] | None = None
        self._sequence_id: int | None = None
        self._cause: CancelCause = "client_disconnect"
        self._ended = False

    def opened(self, sequence_id: int) -> None:
        """Note the id that `submit` returned."""
        self._sequence_id = sequence_id
        self._metrics.in_flight(self._task, 1)

    def on_event(self, event: TokenEvent) -> None:
        """Take one event; the last one is counted even when the client is gone."""
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
            if self._collected is not None:
                self._settle(self._collected)

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
