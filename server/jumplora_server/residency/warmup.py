"""The trial run of a version that is not in service yet: a short prompt through the engine loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from jumplora_server.core import Finish, FinishReason, Sampling, TokenEvent, Wanted
from jumplora_server.errors import GenerationFailed
from jumplora_server.routing import Lease
from jumplora_server.scheduler.claims import Priority


class Submit(Protocol):
    """EngineLoop.submit, as far as it is used here."""

    def __call__(
        self,
        *,
        lease: Lease,
        prompt: tuple[int, ...],
        sampling: Sampling,
        on_event: Callable[[TokenEvent], None],
        deadline: float | None,
        priority: Priority,
        wants: Wanted,
    ) -> int:
        """Queue one prompt."""


class TrialRun:
    """A WarmUp: low priority, greedy, a few tokens, all of finite probability."""

    def __init__(
        self,
        submit: Submit,
        prompt: tuple[int, ...],
        clock: Callable[[], float],
        *,
        tokens: int = 2,
        timeout_seconds: float = 30.0,
    ) -> None:
        self._submit = submit
        self._prompt = prompt
        self._clock = clock
        self._sampling = Sampling(max_new_tokens=tokens, logprobs="chosen")
        self._timeout_seconds = timeout_seconds

    def __call__(self, lease: Lease) -> Future[None]:
        """Start it. The future raises GenerationFailed, or what `submit` raises."""
        done: Future[None] = Future()
        fault: Exception | None = None

        def on_event(event: TokenEvent) -> None:
            nonlocal fault
            logprob = None if event.token is None else event.token.logprob
            if logprob is not None and not math.isfinite(logprob):
                fault = GenerationFailed("its output is not finite", reason="nonfinite")
            if event.finish is None:
                return  # a fault is told at the end: the loader removes the slot then
            fault = fault or _fault_of(event.finish)
            if fault is None:
                done.set_result(None)
            else:
                done.set_exception(fault)

        with lease:
            self._submit(
                lease=lease,
                prompt=self._prompt,
                sampling=self._sampling,
                on_event=on_event,
                deadline=self._clock() + self._timeout_seconds,
                priority="low",
                wants="tokens",
            )
        return done


def _fault_of(finish: Finish) -> Exception | None:
    if finish.reason in (FinishReason.EOS_TOKEN, FinishReason.LENGTH):
        return None
    return finish.error or GenerationFailed(
        f"its trial run ended with {finish.reason.value}", reason="warm_up"
    )
