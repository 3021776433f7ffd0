"""Clients: an open loop on a fixed schedule, or a closed loop of a few that repeat."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException, IncompleteRead
from typing import Literal

from jumplora_bench.answers import Answer
from jumplora_bench.connections import FAILURES, Connections
from jumplora_bench.traffic import Question

_HEADERS = {"content-type": "application/json"}
_PATIENCE = 600.0  # seconds; the server's own deadline comes first


How = Literal["streamed", "whole"]


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks one server for exactly `new` tokens a question, streamed or in one whole answer."""

    url: str
    new: int
    how: How = "streamed"

    def connections(self) -> Connections:
        """To be closed by the caller."""
        return Connections(self.url)

    async def ask(self, connections: Connections, question: Question, began: float) -> Answer:
        """Get one answer. `began` is the start of the run by time.perf_counter."""
        heard = _Heard(question, began)
        request = connections.request(self._path, self._body(question), _HEADERS)
        try:
            status, body = await connections.ask(request, heard.line)
        except FAILURES as trouble:
            heard.error = f"{type(trouble).__name__}: {trouble}"
        else:
            if status != 200:
                heard.refused(status, body)
        return heard.answer(self)

    def ask_alone(self, connection: HTTPConnection, question: Question, began: float) -> Answer:
        """The same, waiting, with the standard library's client: it adds the least of its own."""
        heard = _Heard(question, began)
        try:
            connection.request("POST", self._path, self._body(question), _HEADERS)
            response = connection.getresponse()
            if response.status != 200:
                heard.refused(response.status, response.read())
            for line in response:
                heard.line(line.decode().rstrip())
            response.read()  # a body of known length is not closed by its last line
            if response.length:  # http.client ends its lines there without a word
                raise IncompleteRead(b"", response.length)
        except (OSError, HTTPException) as trouble:
            heard.error = f"{type(trouble).__name__}: {trouble}"
            connection.close()  # the next question gets a new one
        return heard.answer(self)

    @property
    def _path(self) -> str:
        return "/generate_stream" if self.how == "streamed" else "/generate"

    def _body(self, question: Question) -> bytes:
        limits = {"max_new_tokens": self.new, "min_new_tokens": self.new}
        body = {"task_id": question.task, "inputs": question.text, "parameters": limits}
        return json.dumps(body).encode()


class _Heard:
    """What came back of one question so far."""

    def __init__(self, question: Question, began: float) -> None:
        self.error: str | None = None
        self._question = question
        self._began = began
        self._sent = time.perf_counter() - began
        self._times: list[float] = []

    def line(self, line: str) -> None:
        """A line of the body: an event with a token, or the whole answer."""
        if line.startswith('data:{"error"'):
            self.error = line
        elif line.startswith("data:"):
            self._times.append(time.perf_counter() - self._began)
        elif line.startswith("{") and self.error is None:
            try:
                count = json.loads(line)["details"]["generated_tokens"]
            except (ValueError, KeyError):  # cut, or another form
                self.error = f"an answer without details: {line[:80]!r}"
            else:
                self._times = [time.perf_counter() - self._began] * count

    def refused(self, status: int, body: bytes) -> None:
        """Another status than 200; a body that is not ours is said by its first bytes."""
        try:
            self.error = f"{status} {json.loads(body)['error_type']}"
        except (ValueError, TypeError, KeyError):
            self.error = f"{status} {body[:80]!r}"

    def answer(self, asker: Asker) -> Answer:
        """The body ended."""
        ended = time.perf_counter() - self._began
        if self.error is None and len(self._times) != asker.new:
            self.error = f"{len(self._times)} tokens, {asker.new} expected"
        task, due = self._question.task, self._question.at
        return Answer(task, due, self._sent, tuple(self._times), ended, self.error)


async def open_loop(
    asker: Asker, questions: Sequence[Question], on_answer: Callable[[], None]
) -> list[Answer]:
    """Send each question when it is due, whatever became of the others."""
    async with asker.connections() as connections:
        began = time.perf_counter()

        async def send(question: Question) -> Answer:
            await asyncio.sleep(max(0.0, question.at - (time.perf_counter() - began)))
            answer = await asker.ask(connections, question, began)
            on_answer()
            return answer

        return list(await asyncio.gather(*map(send, questions)))


async def closed_loop(
    asker: Asker, questions: Sequence[Question], *, clients: int, seconds: float
) -> list[Answer]:
    """`clients` that each ask the next question once theirs is answered, until `seconds` passed.

    The questions come in turn, again from the first when they are used up.
    """
    async with asker.connections() as connections:
        began = time.perf_counter()
        turns = itertools.cycle(questions)
        answers: list[Answer] = []

        async def repeat() -> None:
            while (now := time.perf_counter() - began) < seconds:
                answers.append(await asker.ask(connections, replace(next(turns), at=now), began))

        await asyncio.gather(*(repeat() for _ in range(clients)))
        return answers


def one_by_one(
    asker: Asker,
    questions: Sequence[Question],
    *,
    before: Callable[[Question], None] = lambda question: None,
) -> list[Answer]:
    """Each once, alone on the server, over one connection; `before` is called before each."""
    answers: list[Answer] = []
    with closing(
        HTTPConnection(asker.url.removeprefix("http://"), timeout=_PATIENCE)
    ) as connection:
        began = time.perf_counter()
        for question in questions:
            before(question)
            now = time.perf_counter() - began
            answers.append(asker.ask_alone(connection, replace(question, at=now), began))
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
