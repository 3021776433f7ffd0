"""One run of a batch: what is there already is checked and kept, the rest is answered and written.

Memory holds a window of rows, never the file: at most a thousand, or twice a list of the server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Protocol

from jumplora_server.batch.journal import Journal, journal_of
from jumplora_server.batch.results import Failure, OtherRows, Outcome, check_same, line_of
from jumplora_server.batch.rows import Question
from jumplora_server.client.read_ahead import on_thread

SHOWN = 5  # failures that a command prints
_KEPT_SHOWN = 1000


class Answers(Protocol):
    """Answers rows, a window of them at a time; outcomes come in the order of the rows."""

    def __call__(self, rows: Iterator[Question], /) -> AsyncGenerator[tuple[Question, Outcome]]:
        """Reads on while it answers."""


Opened = Callable[[], AbstractAsyncContextManager[Answers]]
"""Begins what answers rows, which may take seconds; called within an event loop."""


@asynccontextmanager
async def on_demand(opened: Opened) -> AsyncGenerator[Answers]:
    """Yields what answers rows, and begins it with the first row that needs an answer."""
    async with AsyncExitStack() as stack:
        begun: list[Answers] = []

        async def answers(rows: Iterator[Question], /) -> AsyncGenerator[tuple[Question, Outcome]]:
            first = await on_thread(lambda: next(rows, None))
            if first is None:
                return
            if not begun:
                begun.append(await stack.enter_async_context(opened()))
            async with aclosing(begun[0](chain([first], rows))) as outcomes:
                async for outcome in outcomes:
                    yield outcome

        yield answers


@dataclass(slots=True)
class Tally:
    """What became of the rows of a run. `kept` were answered by an earlier one."""

    kept: int = 0
    answered: int = 0
    failed: int = 0
    failures: list[tuple[int, Failure]] = field(default_factory=list)  # the first few, by line

    @property
    def rows(self) -> int:
        """All of them."""
        return self.kept + self.answered + self.failed

    def count(self, row: Question, outcome: Outcome) -> None:
        """One more row of this run."""
        if not isinstance(outcome, Failure):
            self.answered += 1
            return
        self.failed += 1
        if len(self.failures) < SHOWN:
            self.failures.append((row.line, outcome))


OnRows = Callable[[Tally], None]


@dataclass(frozen=True, slots=True)
class Run:
    """Where rows come from (`source` is for messages), who answers them, and who hears of it."""

    source: Path
    rows: Iterator[Question]
    answers: Answers
    on_rows: OnRows
    tally: Tally = field(default_factory=Tally)

    async def into(self, out: Path, *, overwrite: bool = False) -> Tally:
        """Write all answers to a file, or continue it; rows that failed are asked again.

        With `overwrite` all are asked. Raises DataError where the file has answers to other rows.
        """
        with journal_of(out, overwrite=overwrite) as journal:
            async with aclosing(self.answers(self._left(journal))) as outcomes:
                async for row, outcome in outcomes:
                    self._keep(journal, before=row.line)
                    journal.write(line_of(row, outcome))
                    self._count(row, outcome)
            self._keep(journal)
        return self.tally

    async def onto(self, file: IO[bytes]) -> Tally:
        """Write the answers to all rows to an open file."""
        async with aclosing(self.answers(self.rows)) as outcomes:
            async for row, outcome in outcomes:
                file.write(line_of(row, outcome))
                file.flush()
                self._count(row, outcome)
        return self.tally

    def _left(self, journal: Journal) -> Iterator[Question]:
        """The rows that have no answer yet. They are read ahead of what is written."""
        for written in journal.old():
            row = next(self.rows, None)
            if row is None:
                raise OtherRows(
                    f"{journal.path} has a line for row {written.line}, and {self.source} ends "
                    "before it: give the same rows, another --out, or --overwrite to begin again"
                )
            check_same(journal.path, self.source, row, written)
            if written.failed:
                yield row
        yield from self.rows

    def _keep(self, journal: Journal, before: int | None = None) -> None:
        for _ in journal.keep(before):
            self.tally.kept += 1
            if not self.tally.kept % _KEPT_SHOWN:
                self.on_rows(self.tally)

    def _count(self, row: Question, outcome: Outcome) -> None:
        self.tally.count(row, outcome)
        self.on_rows(self.tally)
