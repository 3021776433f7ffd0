"""Rows answered by a server, in lists of rows of one task, several requests at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing

from jumplora_server.batch.results import Failure, Outcome
from jumplora_server.batch.rows import Question
from jumplora_server.client import Answered, AsyncClient, Row

_MOST_HELD = 1000  # rows; more are mostly faulty


async def remote(
    client: AsyncClient, concurrency: int, rows: Iterator[Question], /
) -> AsyncGenerator[tuple[Question, Outcome]]:
    """Each row with its outcome, in their order. Rows that have a fault are not sent.

    Raises RequestFailed where all other rows would fail alike.
    """
    held: deque[Question] = deque()  # read and not handed on
    is_at_end = False

    def sent() -> Iterator[Row]:
        nonlocal is_at_end
        for row in rows:
            held.append(row)
            if row.fault is None:
                yield _asked(row.body)
            elif len(held) > _MOST_HELD:
                return  # these are handed on first
        is_at_end = True

    while not is_at_end:
        async with aclosing(client.batch(sent(), concurrency=concurrency)) as answers:
            async for answered in answers:
                for row, outcome in _faults_before(held):
                    yield row, outcome
                yield held.popleft(), _outcome(answered)
        for row, outcome in _faults_before(held):
            yield row, outcome


def _asked(body: Mapping[str, object]) -> Row:
    task, parameters = body["task_id"], body["parameters"]
    assert isinstance(task, str)
    assert isinstance(parameters, dict)
    text, inputs = (
        value if isinstance(value := body.get(name), str) else None for name in ("text", "inputs")
    )
    return Row(text=text, inputs=inputs, task=task, parameters=parameters)


def _faults_before(held: deque[Question]) -> Iterator[tuple[Question, Outcome]]:
    """What is at the front of `held` and was not sent."""
    while held and (fault := held[0].fault) is not None:
        yield held.popleft(), Failure("invalid_row", fault)


def _outcome(answered: Answered) -> Outcome:
    if answered.answer is not None:
        return answered.answer
    error = answered.error
    assert error is not None, "a row without an answer has an error"
    return Failure(error.code, error.message)
