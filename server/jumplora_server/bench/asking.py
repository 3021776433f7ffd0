"""Streaming clients: an open loop on a fixed schedule, or a closed loop of a few that repeat."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import httpx

from jumplora_server.bench.answers import Answer
from jumplora_server.bench.traffic import Question

_PATIENCE = 600.0  # seconds; the server's own deadline comes first


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks one server for exactly `new` tokens a question."""

    url: str
    new: int

    def client(self) -> httpx.AsyncClient:
        """A client with as many connections as are wanted, to be closed by the caller."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx.AsyncClient(base_url=self.url, timeout=_PATIENCE, limits=limits)

    async def ask(self, client: httpx.AsyncClient, question: Question, began: float) -> Answer:
        """Stream one answer. `began` is the start of the run by time.perf_counter."""
        body = self._body(question)
        sent = time.perf_counter() - began
        times: list[float] = []
        error: str | None = None
        try:
            async with client.stream("POST", "/generate_stream", json=body) as response:
                if response.status_code != 200:
                    told = json.loads(await response.aread())
                    error = f"{response.status_code} {told.get('error_type', '')}"
                async for line in response.aiter_lines():
                    if line.startswith('data:{"error"'):
                        error = line
                    elif line.startswith("data:"):
                        times.append(time.perf_counter() - began)
        except httpx.TransportError as trouble:
            error = f"{type(trouble).__name__}: {trouble}"
        if error is None and len(times) != self.new:
            error = f"{len(times)} tokens, {self.new} expected"
        ended = time.perf_counter() - began
        return Answer(question.task, question.at, sent, tuple(times), ended, error)

    async def ask_whole(
        self, client: httpx.AsyncClient, question: Question, began: float
    ) -> Answer:
        """The same by /generate: all tokens come at the end."""
        sent = time.perf_counter() - began
        error: str | None = None
        try:
            response = await client.post("/generate", json=self._body(question))
            if response.status_code != 200:
                error = f"{response.status_code} {response.json().get('error_type', '')}"
            elif (count := response.json()["details"]["generated_tokens"]) != self.new:
                error = f"{count} tokens, {self.new} expected"
        except httpx.TransportError as trouble:
            error = f"{type(trouble).__name__}: {trouble}"
        ended = time.perf_counter() - began
        return Answer(question.task, question.at, sent, (ended,) * self.new, ended, error)

    def _body(self, question: Question) -> dict[str, object]:
        limits = {"max_new_tokens": self.new, "min_new_tokens": self.new}
        return {"task_id": question.task, "inputs": question.text, "parameters": limits}


async def open_loop(
    asker: Asker, questions: Sequence[Question], on_answer: Callable[[], None]
) -> list[Answer]:
    """Send each question when it is due, whatever became of the others."""
    async with asker.client() as client:
        began = time.perf_counter()

        async def send(question: Question) -> Answer:
            await asyncio.sleep(max(0.0, question.at - (time.perf_counter() - began)))
            answer = await asker.ask(client, question, began)
            on_answer()
            return answer

        return list(await asyncio.gather(*map(send, questions)))


async def closed_loop(
    asker: Asker, questions: Sequence[Question], *, clients: int, seconds: float
) -> list[Answer]:
    """`clients` that each ask the next question once theirs is answered, until `seconds` passed.

    The questions come in turn, again from the first when they are used up.
    """
    async with asker.client() as client:
        began = time.perf_counter()
        turns = itertools.cycle(questions)
        answers: list[Answer] = []

        async def repeat() -> None:
            while (now := time.perf_counter() - began) < seconds:
                answers.append(await asker.ask(client, replace(next(turns), at=now), began))

        await asyncio.gather(*(repeat() for _ in range(clients)))
        return answers


async def one_by_one(
    asker: Asker,
    questions: Sequence[Question],
    *,
    how: Literal["streamed", "whole"] = "streamed",
    before: Callable[[Question], None] = lambda question: None,
) -> list[Answer]:
    """Each once, alone on the server, over one connection; `before` is called before each."""
    ask = asker.ask if how == "streamed" else asker.ask_whole
    answers: list[Answer] = []
    async with asker.client() as client:
        began = time.perf_counter()
        for question in questions:
            before(question)
            now = time.perf_counter() - began
            answers.append(await ask(client, replace(question, at=now), began))
    return answers


class CpuShare:
    """How much of a core this process used."""

    value = 0.0


@contextmanager
def cpu_share() -> Iterator[CpuShare]:
    """Measures the block: on few cores a load generator takes what the server then lacks."""
    share = CpuShare()
    cpu, wall = time.process_time(), time.perf_counter()
    yield share
    share.value = (time.process_time() - cpu) / (time.perf_counter() - wall)
