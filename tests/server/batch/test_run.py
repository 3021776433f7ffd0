"""A batch that is cut off anywhere and continued writes the file that it would have written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.errors import DataError
from jumplora_server.api.schemas import Details, GenerateResponse
from jumplora_server.batch.results import Failure, Outcome
from jumplora_server.batch.rows import Defaults, Row, read_lines
from jumplora_server.batch.run import Answers, Batch, Tally, on_demand
from jumplora_server.batch.window import in_order

SOURCE = Path("rows.jsonl")


def lines(count: int) -> list[bytes]:
    return [json.dumps({"id": f"r{n}", "text": f"text {n}"}).encode() for n in range(count)]


def answer_of(row: Row) -> GenerateResponse:
    details: dict[str, Any] = {
        "finish_reason": "eos_token",
        "prompt_tokens": 3,
        "generated_tokens": 1,
        "seed": None,
        "task_id": row.task,
        "adapter_version": "0" * 64,
    }
    return GenerateResponse(
        generated_text=f"to {row.body['text']}", details=Details.model_validate(details)
    )


class Answering:
    """Answers a window of rows at a time; fails those in `failing`. `asked` are their lines."""

    def __init__(self, failing: frozenset[int] = frozenset(), window: int = 3) -> None:
        self.failing = failing
        self.window = window
        self.asked: list[int] = []

    async def answer(self, row: Row) -> Outcome:
        self.asked.append(row.line)
        await asyncio.sleep(0)
        if row.line in self.failing:
            return Failure("overloaded", "it was busy")
        return answer_of(row)

    def __call__(self, rows: Iterator[Row], /) -> AsyncGenerator[tuple[Row, Outcome]]:
        return in_order(rows, self.answer, self.window)


def run(out: Path, given: list[bytes], answers: Answers) -> Tally:
    rows = read_lines(given, Defaults("alpha"))
    return asyncio.run(Batch(SOURCE, rows, answers, lambda tally: None).into(out))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batch")


def test_lines_stand_in_the_order_of_the_rows(folder: Path) -> None:
    out = folder / "order.jsonl"
    tally = run(out, lines(8), Answering())
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["id"] for each in found] == [f"r{n}" for n in range(8)]
    assert found[2] == {
        "line": 3,
        "id": "r2",
        "task_id": "alpha",
        "answer": "to text 2",
        "version": "0" * 64,
        "finish_reason": "eos_token",
        "prompt_tokens": 3,
        "generated_tokens": 1,
        "digest": found[2]["digest"],
    }
    assert (tally.answered, tally.failed, tally.kept) == (8, 0, 0)


@given(
    count=st.integers(1, 9),
    failing=st.frozensets(st.integers(1, 9)),
    cut=st.floats(0, 1),
    window=st.integers(1, 4),
)
def test_a_run_that_was_cut_off_is_continued(
    folder: Path, count: int, failing: frozenset[int], cut: float, window: int
) -> None:
    given = lines(count)
    whole, out = folder / "whole.jsonl", folder / "out.jsonl"
    for path in (whole, out):
        path.unlink(missing_ok=True)
    run(whole, given, Answering())
    first = Answering(failing, window)
    run(out, given, first)
    content = out.read_bytes()
    out.write_bytes(content[: round(len(content) * cut)])
    kept = [json.loads(line) for line in out.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")]  # fmt: skip
    good = {each["line"] for each in kept if "error" not in each}
    again = Answering(window=window)
    tally = run(out, given, again)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(again.asked) == [n for n in range(1, count + 1) if n not in good]
    assert (tally.kept, tally.answered, tally.rows) == (len(good), count - len(good), count)
    assert not (folder / "out.jsonl.again").exists()


def test_failures_are_counted_and_asked_again(folder: Path) -> None:
    out = folder / "failures.jsonl"
    tally = run(out, [*lines(3), b"{"], Answering(frozenset({2})))
    assert (tally.answered, tally.failed) == (2, 2)
    assert [line for line, _ in tally.failures] == [2, 4]
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert found[1]["error"] == {"code": "overloaded", "message": "it was busy"}
    assert found[3]["error"]["code"] == "invalid_row"
    assert found[3]["task_id"] is None
    mended = [*lines(3), b'{"text": "mended"}', b'{"text": "one more"}']
    again = Answering()
    tally = run(out, mended, again)
    assert again.asked == [2, 4, 5]
    assert (tally.kept, tally.answered, tally.failed) == (2, 3, 0)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["answer"] for each in found] == [
        "to text 0", "to text 1", "to text 2", "to mended", "to one more",
    ]  # fmt: skip


def test_what_was_asked_is_kept_where_an_answer_cannot_come(folder: Path) -> None:
    """The server is gone in the middle: an exception, and the rows before it are in the file."""
    out = folder / "gone.jsonl"

    class Gone(Exception):
        pass

    async def answer(row: Row) -> Outcome:
        if row.line == 4:
            raise Gone
        return answer_of(row)

    with pytest.raises(Gone):
        run(out, lines(6), lambda rows: in_order(rows, answer, 2))
    assert [json.loads(line)["line"] for line in out.read_text().splitlines()] == [1, 2, 3]
    again = Answering()
    run(out, lines(6), again)
    assert again.asked == [4, 5, 6]


@pytest.mark.parametrize("has_failures", [False, True], ids=["appends", "rewrites"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lines(4)[1:], "not made from line 1"),
        ([b"\n", *lines(4)], "its line for row 1 was not made from line 2"),
        (lines(2), "has 4 rows, and rows.jsonl has fewer"),
    ],
    ids=["others", "moved", "fewer"],
)
def test_other_rows_are_refused_and_nothing_is_changed(
    folder: Path, has_failures: bool, given: list[bytes], words: str
) -> None:
    out = folder / f"other-{has_failures}.jsonl"
    out.unlink(missing_ok=True)
    run(out, lines(4), Answering(frozenset({4}) if has_failures else frozenset()))
    before = out.read_bytes()
    with pytest.raises(DataError, match=words):
        run(out, given, Answering())
    assert out.read_bytes() == before
    assert not out.with_name(out.name + ".again").exists()


def test_a_file_of_another_program_is_left_alone(folder: Path) -> None:
    out = folder / "foreign.jsonl"
    for content in ('{"text": "a"}\n', "text\n", '{"line": 1, "digest": 3}\n'):
        out.write_text(content)
        with pytest.raises(DataError, match="line 1 is not of `jumplora batch`"):
            run(out, lines(1), Answering())
        assert out.read_text() == content


def test_a_window_of_rows_is_read_and_no_more() -> None:
    """However many there are: memory is bounded."""
    read: list[int] = []

    def rows() -> Iterator[Row]:
        for row in read_lines(lines(100), Defaults("alpha")):
            read.append(row.line)
            yield row

    async def consume() -> None:
        answering = Answering(window=5)
        handed_on = 0
        async for row, _ in answering(rows()):
            handed_on += 1
            assert row.line == handed_on
            assert read[-1] - handed_on < 5

    asyncio.run(consume())
    assert len(read) == 100


def test_an_engine_is_built_for_the_first_row_and_once(folder: Path) -> None:
    built: list[str] = []

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Answers]:
        built.append("built")
        yield Answering()
        built.append("closed")

    async def into(out: Path) -> None:
        async with on_demand(opened) as answers:
            rows = read_lines(lines(3), Defaults("alpha"))
            await Batch(SOURCE, rows, answers, lambda tally: None).into(out)

    out = folder / "demand.jsonl"
    run(out, lines(2), Answering(frozenset({1})))
    asyncio.run(into(out))  # one failed row, and one that is new
    assert built == ["built", "closed"]
    asyncio.run(into(out))
    assert built == ["built", "closed"]
