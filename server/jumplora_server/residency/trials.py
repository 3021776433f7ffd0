"""What a version must pass before it serves: a trial run, then its own canaries, through the loop.

Owns what counts as finite and as right, and what is said of a version that fails. Must not know
where versions come from or what is served instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Protocol

from jumplora_adapters.folding import folded
from jumplora_adapters.manifest import Canary, Manifest
from jumplora_server.core import (
    DEFAULT_NEW_TOKENS,
    EngineLimits,
    Finish,
    FinishReason,
    Lease,
    NoEmbedding,
    Sampling,
    TokenEvent,
    Wanted,
)
from jumplora_server.errors import AdapterRefused, GenerationFailed
from jumplora_server.metrics.state import Stage
from jumplora_server.residency.engine import ReplayCanaries, WarmUp
from jumplora_server.residency.entries import CanaryReply, Replay
from jumplora_server.residency.shared import Shared, uncounted
from jumplora_server.scheduler.claims import Priority

MAX_SHOWN = 200  # characters of a canary's answer: there may be 32 of each version


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
                return  # a fault is reported at the end: the loader removes the slot then
            fault = fault or _fault_of(event.finish, "its trial run")
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


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back of one canary: a text, or why it was not asked.

    As a string it tells neither prompt nor texts: they may be private, and it gets into logs and
    into answers to every client of the task.
    """

    canary: Canary
    got: str | None
    fault: str = ""

    @property
    def is_right(self) -> bool:
        """Whether it is the expected text, but for case and white space."""
        return self.got is not None and folded(self.got) == folded(self.canary.expected)

    def __str__(self) -> str:
        return self.fault if self.got is None else "the answer is not the expected text"


class CanaryRun:
    """A ReplayCanaries: low priority, greedy, all submitted at once.

    A prompt that is longer than this server takes is not cut: it counts as wrong, as a client that
    asked it would get no answer. What cannot be computed (an engine's failure, a deadline) does
    not count as wrong: it fails the load whatever the floor, like the trial run.
    """

    def __init__(
        self,
        submit: Submit,
        encode: Callable[[str], tuple[int, ...]],
        limits: EngineLimits,
        clock: Callable[[], float],
        *,
        floor: float,
        timeout_seconds: float = 120.0,
    ) -> None:
        """A version with less than the share `floor` of its canaries right is refused (0: none)."""
        self._submit = submit
        self._encode = encode
        self._limits = limits
        self._clock = clock
        self._floor = floor
        self._timeout_seconds = timeout_seconds

    def __call__(self, lease: Lease) -> Replay | None:
        """Raises AdapterRefused (canary), GenerationFailed, and what `submit` raises."""
        manifest = lease.manifest
        if manifest is None or not manifest.canaries:
            return None
        replies = self._ask(lease, manifest)
        wrong = [number for number, reply in enumerate(replies, start=1) if not reply.is_right]
        replay = Replay(tuple(CanaryReply(shortened(r.got), r.is_right) for r in replies))
        if replay.accuracy < self._floor:
            raise AdapterRefused(
                f"{len(replies) - len(wrong)} of its {len(replies)} canaries were right, a share "
                f"of {replay.accuracy:.3g}; this server's floor is {self._floor:g}; the first "
                f"wrong one is number {wrong[0]} of its manifest's: {replies[wrong[0] - 1]}",
                reason="canary",
            )
        return replay

    def _ask(self, lease: Lease, manifest: Manifest) -> list[Reply]:
        sampling = Sampling(
            max_new_tokens=min(
                manifest.generation.get("max_new_tokens", DEFAULT_NEW_TOKENS),
                self._limits.max_target_tokens,
            )
        )
        deadline = self._clock() + self._timeout_seconds
        asked: list[Future[Reply]] = []
        try:
            with lease:
                for canary in manifest.canaries:
                    asked.append(self._start(lease, canary, sampling, deadline))
        finally:
            wait(asked)  # also when this raises: the loader removes the slot then
        return [reply.result() for reply in asked]

    def _start(
        self, lease: Lease, canary: Canary, sampling: Sampling, deadline: float
    ) -> Future[Reply]:
        done: Future[Reply] = Future()
        allowed = self._limits.max_source_tokens
        try:
            prompt = self._encode(canary.prompt)
        except NoEmbedding as error:
            done.set_result(Reply(canary, None, f"not asked: {error}"))
            return done
        if len(prompt) > allowed:
            fault = f"not asked: it has {len(prompt)} tokens, at most {allowed} are allowed"
            done.set_result(Reply(canary, None, fault))
            return done

        def on_event(event: TokenEvent) -> None:
            if event.finish is None:
                return
            error = _fault_of(event.finish, "a canary")
            if error is None:
                done.set_result(Reply(canary, event.finish.text))
            else:
                done.set_exception(error)

        self._submit(
            lease=lease,
            prompt=prompt,
            sampling=sampling,
            on_event=on_event,
            deadline=deadline,
            priority="low",
            wants="end",
        )
        return done


def shortened(text: str | None) -> str | None:
    """A text of a canary as it is kept and shown."""
    if text is None or len(text) <= MAX_SHOWN:
        return text
    return text[: MAX_SHOWN - 1] + "…"


def _fault_of(finish: Finish, what: str) -> Exception | None:
    if finish.reason in (FinishReason.EOS_TOKEN, FinishReason.LENGTH):
        return None
    return finish.error or GenerationFailed(
        f"{what} ended with {finish.reason.value}", reason="warm_up"
    )


class Trials:
    """What a version must pass before it is in service: called by the loader's thread."""

    def __init__(
        self,
        shared: Shared,
        warm_up: WarmUp,
        replay_canaries: ReplayCanaries,
        clock: Callable[[], float],
    ) -> None:
        self._shared = shared
        self._warm_up = warm_up
        self._replay_canaries = replay_canaries
        self._clock = clock

    def __call__(self, digest: str, loading: tuple[str, ...], seconds: dict[Stage, float]) -> None:
        """Have it compute, hidden: a trial run after a load, then the canaries that it owes.

        Their stages are added to `seconds`. Raises what they do.
        """
        began = self._clock()
        if loading:
            with self._shared as table:
                hidden = uncounted(table.leased(digest))
            self._warm_up(hidden).result()
            seconds["warmup"] = self._clock() - began
        began = self._clock()
        with self._shared as table:
            version = table.versions.known.get(digest)
            if version is None or not version.owes_canaries:
                return
            leased, is_counted = table.leased(digest), version.is_resident
            if is_counted:  # another's ancestor: its task may be forgotten while it is asked
                table.versions.lease(digest)
        with self._shared.lease(leased) if is_counted else uncounted(leased) as lease:
            replay = self._replay_canaries(lease)
        if replay is not None:
            with self._shared as table:
                table.versions.passed(digest, replay)
        seconds["canaries"] = self._clock() - began
