"""Asking a server all questions: in lists, several requests at a time, patient where it is busy.

Knows questions and the client, never scores. The server refuses a prompt that is too long; it is
sent again to be cut, and that is noted. No question is left out: all are answered, or none counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

from jumplora_server.api.schemas import GenerateResponse
from jumplora_server.client import Client, RequestFailed
from jumplora_server.evaluation.questions import Cut, Question, Sheet

MOST_TRIES = 8
LONGEST_WAIT = 30.0  # seconds between two tries, whatever Retry-After asks
_BUSY = (429, 503)
_TOO_LARGE = 413


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one question."""

    question: Question
    response: GenerateResponse


@dataclass(frozen=True, slots=True)
class Transcript:
    """All answers in the order of the questions; times in seconds, as this client saw them.

    `latencies` are those of the requests that were answered, `retries` counts those that the server
    was too busy for.
    """

    answers: tuple[Answer, ...]
    latencies: tuple[float, ...]
    seconds: float
    retries: int


@dataclass(frozen=True, slots=True)
class _Part:
    answers: tuple[Answer, ...]
    latencies: tuple[float, ...]
    retries: int

    def __add__(self, other: _Part) -> _Part:
        return _Part(
            self.answers + other.answers,
            self.latencies + other.latencies,
            self.retries + other.retries,
        )


class Interview:
    """One run through a sheet. `prompt_tokens` is the server's limit for one prompt, `parameters`
    are sent with each request."""

    def __init__(
        self,
        client: Client,
        task: str,
        sheet: Sheet,
        *,
        prompt_tokens: int,
        parameters: Mapping[str, object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._task = task
        self._sheet = sheet
        self._prompt_tokens = prompt_tokens
        self._parameters = parameters or {}
        self._clock = clock
        self._stopped = threading.Event()
        self._failure: RequestFailed | None = None  # the first one; others may only follow of it

    def run(
        self,
        *,
        batch: int,
        concurrency: int,
        on_answers: Callable[[int], None] = lambda count: None,
    ) -> Transcript:
        """Ask everything, `batch` questions a request, `concurrency` requests at a time.

        `on_answers` hears how many answers came. Raises RequestFailed, whose message tells where
        in the file it was and how far it came.
        """
        questions = self._sheet.questions
        begun = self._clock()
        with ThreadPoolExecutor(concurrency, thread_name_prefix="interview") as pool:
            asked = [
                pool.submit(self._take, questions[first : first + batch])
                for first in range(0, len(questions), batch)
            ]
            try:
                for future in as_completed(asked):
                    on_answers(len(future.result().answers))
            except BaseException as error:
                self._stopped.set()
                pool.shutdown(cancel_futures=True)
                if isinstance(error, RequestFailed):
                    raise self._told(self._failure or error, asked) from error
                raise
        seconds = self._clock() - begun
        parts = [future.result() for future in asked]
        return Transcript(
            tuple(answer for part in parts for answer in part.answers),
            tuple(latency for part in parts for latency in part.latencies),
            seconds,
            sum(part.retries for part in parts),
        )

    def _take(self, questions: Sequence[Question]) -> _Part:
        """One of the lists; after a failure no other is begun."""
        if self._failure is not None:
            raise self._failure
        try:
            return self._ask(questions)
        except RequestFailed as error:
            if not self._stopped.is_set():
                self._failure = error
                self._stopped.set()
            raise

    def _ask(self, questions: Sequence[Question]) -> _Part:
        """Answers to a list; one that is too large for a request is halved."""
        try:
            return self._request(questions)
        except RequestFailed as error:
            if error.status != _TOO_LARGE:
                raise self._located(error, questions) from error
            if len(questions) == 1:
                return self._ask_cut(questions[0], error)
        middle = len(questions) // 2
        return self._ask(questions[:middle]) + self._ask(questions[middle:])

    def _ask_cut(self, question: Question, refusal: RequestFailed) -> _Part:
        """The answer to a prompt that the server cuts to its limit."""
        if refusal.code != "input_too_long":
            raise self._located(refusal, [question]) from refusal
        cut: Cut = "text" if self._sheet.form == "text" else "end"
        try:
            return self._request([replace(question, cut=cut)], truncate=self._prompt_tokens)
        except RequestFailed as error:
            raise self._located(error, [question]) from error

    def _request(self, questions: Sequence[Question], **more: object) -> _Part:
        parameters = {**self._parameters, **more}
        for tries in range(MOST_TRIES):
            begun = self._clock()
            try:
                responses = self._send([question.prompt for question in questions], parameters)
            except RequestFailed as error:
                if error.status not in _BUSY or tries == MOST_TRIES - 1:
                    raise
                asked_for = 1.0 if error.retry_after is None else error.retry_after
                if self._stopped.wait(min(asked_for, LONGEST_WAIT)):
                    raise  # another request failed for good
            else:
                latency = self._clock() - begun
                return _Part(tuple(map(Answer, questions, responses)), (latency,), tries)
        raise AssertionError("the last try returns or raises")

    def _send(self, prompts: list[str], parameters: dict[str, object]) -> list[GenerateResponse]:
        if self._sheet.form == "text":
            return self._client.generate_all(self._task, text=prompts, parameters=parameters)
        return self._client.generate_all(self._task, inputs=prompts, parameters=parameters)

    def _located(self, error: RequestFailed, questions: Sequence[Question]) -> RequestFailed:
        first, last = questions[0].line, questions[-1].line
        lines = f"line {first}" if first == last else f"lines {first} to {last}"
        return error.extended(f" ({lines} of {self._sheet.file.path})")

    def _told(self, error: RequestFailed, asked: Sequence[Future[_Part]]) -> RequestFailed:
        done = [f for f in asked if f.done() and not f.cancelled() and f.exception() is None]
        answered = sum(len(future.result().answers) for future in done)
        return error.extended(
            f"; {answered} of {len(self._sheet.questions)} rows were answered until then"
        )
