"""The trial run: what it passes, what it refuses, and that it tells so only at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from jumplora_server.core import Finish, FinishReason, Lease, Timing, Token, TokenEvent
from jumplora_server.errors import GenerationFailed
from jumplora_server.residency.trials import TrialRun

TIMING = Timing(queue=0.0, encode=0.0, decode=0.0, total=0.0, first_token=None)


class Trial:
    """A trial run that was started, and the way to send it events."""

    def __init__(self) -> None:
        self.tell: list[Callable[[TokenEvent], None]] = []
        self.done = TrialRun(self._submit, (1,), lambda: 0.0)(Lease.base())

    def token(self, logprob: float) -> None:
        self.tell[0](TokenEvent(1, Token(5, "x", logprob, False), None))

    def end(self, reason: FinishReason) -> None:
        self.tell[0](TokenEvent(1, None, Finish(reason, "", 1, 1, TIMING)))

    def _submit(self, *, on_event: Callable[[TokenEvent], None], **trial: Any) -> int:
        del trial
        self.tell.append(on_event)
        return 1


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_a_fault_is_told_when_the_row_is_free(logprob: float) -> None:
    trial = Trial()
    trial.token(logprob)
    trial.token(-0.5)
    assert not trial.done.done(), "the slot may still be in use"
    trial.end(FinishReason.LENGTH)
    error = trial.done.exception(timeout=0)
    assert isinstance(error, GenerationFailed)
    assert error.reason == "nonfinite"


@pytest.mark.parametrize("reason", [FinishReason.EOS_TOKEN, FinishReason.LENGTH])
def test_finite_output_passes(reason: FinishReason) -> None:
    trial = Trial()
    trial.token(-0.5)
    trial.end(reason)
    assert trial.done.result(timeout=0) is None


def test_an_odd_end_fails() -> None:
    trial = Trial()
    trial.end(FinishReason.CANCELLED)
    error = trial.done.exception(timeout=0)
    assert isinstance(error, GenerationFailed)
    assert error.reason == "warm_up"
