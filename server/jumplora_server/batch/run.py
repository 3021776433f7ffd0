"""One run of a batch: what is there already is checked and kept, the rest is answered and written.

Memory holds a window of rows, never the file.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Protocol

from jumplora_adapters.errors import DataError
from jumplora_server.batch.results import Earlier, Failure, Outcome, Written, check_same, line_of
from jumplora_server.batch.rows import Row

SHOWN = 5  # failures that a command prints
_KEPT_SHOWN = 1000


class Answers(Protocol):
    """Answers rows, a window of them at a time; outcomes come in the order of the rows."""

    def __call__(self, rows: Iterator[Row], /) -> AsyncGenerator[tuple[Row, Outcome]]:
        """Reads on while it answers."""


Opened = Callable[[], AbstractAsyncContextManager[Answers]]
"""Begins what answers rows, which may take seconds; called within an event loop."""


@asynccontextmanager
async def on_demand(opened: Opened) -> AsyncGenerator[Answers]:
    """Yields what answers rows, and begins it with the first row that needs an answer."""
    async with AsyncExitStack() as stack:
        begun: list[Answers] = []

        async def answers(rows: Iterator[Row], /) -> AsyncGenerator[tuple[Row, Outcome]]:
            first = next(rows, None)
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

    def count(self, row: Row, outcome: Outcome) -> None:
        """One more row of this run."""
        if not isinstance(outcome, Failure):
            self.answered += 1
            return
        self.failed += 1
        if len(self.failures) < SHOWN:
            self.failures.append((row.line, outcome))


OnRows = Callable[[Tally], None]


@dataclass(frozen=True, slots=True)
class Batch:
    """Where rows come from (`source` is for messages), who answers them, and who hears of it."""

    source: Path
    rows: Iterator[Row]
    answers: Answers
    on_rows: OnRows
    tally: Tally = field(default_factory=Tally)

    async def into(self, out: Path) -> Tally:
        """Write all answers to a file, or continue it; rows that failed are asked again.

        Raises DataError where the file has answers to other rows.
        """
        earlier = Earlier.read(out)
        if earlier.failed:
            await self._ask_again(earlier)
        else:
            for _ in self._beside(earlier):
                self._kept()
        with out.open("a", encoding="utf-8") as file:
            return await self.onto(file)

    async def onto(self, file: IO[str]) -> Tally:
        """Write the answers to all rows that are left to an open file."""
        async with aclosing(self.answers(self.rows)) as outcomes:
            async for row, outcome in outcomes:
                self._write(file, row, outcome)
        return self.tally

    async def _ask_again(self, earlier: Earlier) -> None:
        """Put new outcomes in place of failures, all at once: in a copy that replaces the file."""
        copy = earlier.path.with_name(f"{earlier.path.name}.again")
        failed = (row for row, written in self._beside(earlier) if written.failed)
        lines = earlier.lines()  # a second time: those between two failures are not held
        try:
            with copy.open("w", encoding="utf-8") as file:
                async with aclosing(self.answers(failed)) as outcomes:
                    async for row, outcome in outcomes:
                        self._copy(lines, file, until=row.line)
                        self._write(file, row, outcome)
                self._copy(lines, file)
            os.replace(copy, earlier.path)
        finally:
            copy.unlink(missing_ok=True)

    def _copy(self, lines: Iterator[Written], file: IO[str], until: int | None = None) -> None:
        for written in lines:
            if written.line == until:
                return
            file.write(written.text)
            self._kept()

    def _beside(self, earlier: Earlier) -> Iterator[tuple[Row, Written]]:
        """Each line that is there, and the row that it answers."""
        for written in earlier.lines():
            row = next(self.rows, None)
            if row is None:
                raise DataError(
                    f"{earlier.path} has {earlier.rows} rows, and {self.source} has fewer: give "
                    "the same rows, another --out, or --overwrite to begin again"
                )
            check_same(earlier.path, self.source, row, written)
            yield row, written

    def _kept(self) -> None:
        self.tally.kept += 1
        if not self.tally.kept % _KEPT_SHOWN:
            self.on_rows(self.tally)

    def _write(self, file: IO[str], row: Row, outcome: Outcome) -> None:
        file.write(line_of(row, outcome))
        file.flush()  # so that a kill loses no answer
        self.tally.count(row, outcome)
        self.on_rows(self.tally)
