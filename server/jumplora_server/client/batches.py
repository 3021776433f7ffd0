"""Rows of any number as lists that a server takes, and what becomes of a list.

Nothing here sends: `steps` yields a call and is sent its answers or its error.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from jumplora_server.api.schemas import GenerateResponse
from jumplora_server.client import calls
from jumplora_server.client.answers import Answered, Row
from jumplora_server.client.calls import Call
from jumplora_server.client.errors import InputRefused, RequestFailed, Unreachable

_UNAUTHORIZED, _TOO_LATE = 401, 504
_T = TypeVar("_T")
Answers = list[GenerateResponse]
Came = Answers | RequestFailed
Steps = Generator[Call[Answers], Came, list[Answered]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that one request can ask: of one task, one form and the same parameters."""

    rows: tuple[Row, ...]

    def steps(self, *, is_half: bool = False) -> Steps:
        """Ask, and halve a list that is refused until the row at fault is alone.

        A list that took too long is halved once only, for each part may take as long again. Raises
        what no other row could escape: no answer, no valid key, another program's server.
        """
        came = yield self._call()
        if not isinstance(came, RequestFailed):
            return [Answered(row, answer) for row, answer in zip(self.rows, came, strict=True)]
        if is_of_all(came):
            raise came
        is_late = came.status == _TOO_LATE and not is_half
        if len(self.rows) > 1 and (isinstance(came, InputRefused) or is_late):
            middle, is_half = len(self.rows) // 2, is_half or is_late
            first = yield from Chunk(self.rows[:middle]).steps(is_half=is_half)
            return first + (yield from Chunk(self.rows[middle:]).steps(is_half=is_half))
        return [Answered(row, error=came) for row in self.rows]

    def _call(self) -> Call[Answers]:
        one = self.rows[0]
        texts = [row.text for row in self.rows if row.text is not None]
        inputs = [row.inputs for row in self.rows if row.inputs is not None]
        return calls.generate_all(one.task, texts or None, inputs or None, one.parameters)


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that are in work together. `places`: the chunk of each row, and its place there."""

    chunks: tuple[Chunk, ...]
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How rows are asked: at most `size` in a list, `concurrency` lists at a time.

    `task` and `parameters` are those of rows that have none.
    """

    concurrency: int
    task: str | None
    parameters: Mapping[str, object] | None
    size: int = 1

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}; give 1 or more")

    def within(self, most: int) -> Plan:
        """The plan for a server that takes `most` prompts in a list.

        All requests together have as many: that is what a task may have in the server's queue, and
        more would be sent in vain.
        """
        return replace(self, size=max(1, most // self.concurrency))

    def blocks(self, rows: Iterable[Row | str]) -> Iterator[Block]:
        """Each block keeps all requests at work once. No more rows are read than it takes.

        Raises TypeError for what is not a row, and for one text in place of many.
        """
        each = iter(checked_rows(rows))
        while block := tuple(islice(each, self.size * self.concurrency)):
            yield self.block(block)

    def block(self, rows: Sequence[Row | str]) -> Block:
        """The lists of some rows. Raises TypeError for what is not a row."""
        return self._block([self._whole(row) for row in rows])

    def _whole(self, row: Row | str) -> Row:
        given = Row(row) if isinstance(row, str) else row
        if not isinstance(given, Row):
            raise TypeError(f"a row of type {type(row).__name__} given; give texts or Rows")
        task = self.task if given.task is None else given.task
        parameters = self.parameters if given.parameters is None else given.parameters
        return Row(given.text, given.inputs, task, parameters)

    def _block(self, rows: list[Row]) -> Block:
        chunks: list[list[Row]] = []
        open_chunks: dict[tuple[object, ...], int] = {}
        places: list[tuple[int, int]] = []
        for row in rows:
            key = (row.task, row.text is None, _canonical(row))
            number = open_chunks.get(key)
            if number is None or len(chunks[number]) == self.size:
                number = open_chunks[key] = len(chunks)
                chunks.append([])
            places.append((number, len(chunks[number])))
            chunks[number].append(row)
        return Block(tuple(Chunk(tuple(chunk)) for chunk in chunks), tuple(places))


def checked_rows(rows: Iterable[Row | str]) -> Iterable[Row | str]:
    """The same rows. Raises TypeError for one text in place of many."""
    if isinstance(rows, str):
        raise TypeError("rows is one text here; give an iterable of texts or Rows")
    return rows


def is_of_all(failure: RequestFailed) -> bool:
    """Whether all other rows would fail alike."""
    return (
        isinstance(failure, Unreachable)
        or failure.status == _UNAUTHORIZED
        or type(failure) is RequestFailed
    )


def one_ahead(items: Iterable[_T]) -> Iterator[_T]:
    """The same items, each once the next one is made."""
    each = iter(items)
    for current in islice(each, 1):
        for following in each:
            yield current
            current = following
        yield current


def _canonical(row: Row) -> str | int:
    try:
        return json.dumps(dict(row.parameters or {}), sort_keys=True)
    except (TypeError, ValueError, RecursionError):  # not JSON: refused alone, by Call.content
        return id(row)
