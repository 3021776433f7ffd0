"""A batch that is cut off anywhere and continued writes the file that it would have written."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jumplora_adapters.errors import DataError
from jumplora_server.api.schemas import Details, GenerateResponse
from jumplora_server.batch.results import Failure, Outcome
from jumplora_server.batch.rows import Defaults, Question, read_lines
from jumplora_server.batch.run import Answers, Run, Tally, on_demand
from jumplora_server.batch.window import in_order

SOURCE = Path("rows.jsonl")


def lines(count: int) -> list[bytes]:
    return [json.dumps({"id": f"r{n}", "text": f"text {n}"}).encode() for n in range(count)]


def answer_of(row: Question) -> GenerateResponse:
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

    async def answer(self, row: Question) -> Outcome:
        self.asked.append(row.line)
        await asyncio.sleep(0)
        if row.line in self.failing:
            return Failure("overloaded", "it was busy")
        return answer_of(row)

    def __call__(self, rows: Iterator[Question], /) -> AsyncGenerator[tuple[Question, Outcome]]:
        return in_order(rows, self.answer, self.window)


def run(out: Path, given: list[bytes], answers: Answers) -> Tally:
    rows = read_lines(given, Defaults("alpha"))
    return asyncio.run(Run(SOURCE, rows, answers, lambda tally: None).into(out))


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
    assert not (folder / "out.jsonl.part").exists()


def good_on_disk(out: Path) -> set[int]:
    """Rows whose answers are in the file or in its journal."""
    return {
        each["line"]
        for path in (out, out.with_name(f"{out.name}.part"))
        if path.exists()
        for line in path.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n") and "error" not in (each := json.loads(line))
    }


def run_killed(out: Path, given: list[bytes], answers: Answers, after: int, *, stops: bool) -> None:
    """A run in a process that ends at once where a file would get longer than `after` bytes.

    With `stops`, the server goes away at the end, so the run is leaving when it is killed.
    """

    async def going(rows: Iterator[Question], /) -> AsyncGenerator[tuple[Question, Outcome]]:
        async for answered in answers(rows):
            yield answered
        if stops:
            raise ConnectionError

    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (after, resource.RLIM_INFINITY))
        try:
            run(out, given, going)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, -signal.SIGXFSZ)


@settings(max_examples=25)
@given(
    count=st.integers(1, 7),
    kills=st.lists(
        st.tuples(st.floats(0, 1.05), st.frozensets(st.integers(1, 7)), st.booleans()),
        min_size=1,
        max_size=4,
    ),
)
@example(count=3, kills=[(1.05, frozenset({1, 3}), False), (0.5, frozenset(), False)])
def test_no_answer_is_lost_where_runs_are_killed(
    folder: Path, count: int, kills: list[tuple[float, frozenset[int], bool]]
) -> None:
    """Killed at any byte: of answers, of lines that are copied, and of those put behind at last."""
    given = lines(count)
    whole, out = folder / "whole.jsonl", folder / "killed.jsonl"
    part = folder / "killed.jsonl.part"
    for path in (whole, out, part):
        path.unlink(missing_ok=True)
    run(whole, given, Answering())
    good: set[int] = set()
    for share, failing, stops in kills:
        after = round(whole.stat().st_size * share)
        run_killed(out, given, Answering(failing), after, stops=stops)
        assert good_on_disk(out) >= good
        good = good_on_disk(out)
    last = Answering()
    tally = run(out, given, last)
    assert sorted(last.asked) == sorted({*range(1, count + 1)} - good)
    assert tally.kept == len(good)
    assert out.read_bytes() == whole.read_bytes()
    assert not part.exists()


def test_a_journal_that_was_whole_takes_the_files_place(folder: Path) -> None:
    """Killed between the last byte and the change of names."""
    out = folder / "whole-part.jsonl"
    run(out, lines(3), Answering(frozenset({2})))
    out.rename(folder / "whole-part.jsonl.part")
    again = Answering()
    run(out, lines(3), again)
    assert again.asked == [2]
    assert len(out.read_bytes().splitlines()) == 3


class Gone(Exception):
    """The server is away."""


def leaving(before: int) -> Answers:
    """Answers rows up to one, where the server goes away."""

    async def answer(row: Question) -> Outcome:
        if row.line == before:
            raise Gone
        return answer_of(row)

    return lambda rows: in_order(rows, answer, 2)


def test_rows_asked_again_keep_their_answers_where_the_server_goes(folder: Path) -> None:
    out = folder / "again-gone.jsonl"
    run(out, lines(6), Answering(frozenset({1, 3, 5})))
    with pytest.raises(Gone):
        run(out, lines(6), leaving(5))
    assert good_on_disk(out) == {1, 2, 3, 4, 6}
    assert len(out.read_bytes().splitlines()) == 6
    again = Answering()
    run(out, lines(6), again)
    assert again.asked == [5]


def test_overwriting_begins_with_the_first_answer(folder: Path) -> None:
    out = folder / "overwritten.jsonl"
    out.write_text("the notes of a user\n")
    for before, left in ((1, "the notes"), (3, '{"line": 1')):
        rows = read_lines(lines(4), Defaults("alpha"))
        batch = Run(SOURCE, rows, leaving(before), lambda tally: None)
        with pytest.raises(Gone):
            asyncio.run(batch.into(out, overwrite=True))
        assert out.read_text().startswith(left)
    assert good_on_disk(out) == {1, 2}


def test_two_runs_do_not_write_one_file(folder: Path) -> None:
    out = folder / "shared.jsonl"

    async def answer(row: Question) -> Outcome:
        with pytest.raises(DataError, match=r"another run writes .*shared\.jsonl: wait"):
            await Run(SOURCE, iter(()), leaving(1), lambda tally: None).into(out)
        return answer_of(row)

    run(out, lines(1), lambda rows: in_order(rows, answer, 1))
    assert good_on_disk(out) == {1}


def test_a_link_stays_one_and_a_file_keeps_its_mode(folder: Path) -> None:
    target, out = folder / "target.jsonl", folder / "link.jsonl"
    out.symlink_to(target)
    run(out, lines(2), Answering(frozenset({1})))
    target.chmod(0o640)
    run(out, lines(2), Answering())
    assert out.is_symlink()
    assert good_on_disk(target) == {1, 2}
    assert target.stat().st_mode & 0o777 == 0o640


def test_what_is_no_file_or_no_journal_is_left_alone(folder: Path) -> None:
    with pytest.raises(DataError, match="is a device: give --out a file, or -"):
        run(Path("/dev/null"), lines(1), Answering())
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="is a pipe: give --out a file, or -"):
        run(pipe, lines(1), Answering())
    sparse = folder / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)  # one line, which no memory holds
    with pytest.raises(DataError, match="line 1 is not of `jumplora batch`"):
        run(sparse, lines(1), Answering())
    out, part = folder / "mine.jsonl", folder / "mine.jsonl.part"
    for content in ("half a download", '{"text": "a"}\n'):
        part.write_text(content)
        with pytest.raises(DataError, match=r"mine\.jsonl\.part is not of `jumplora batch`"):
            run(out, lines(1), Answering())
        assert part.read_text() == content
    part.unlink()
    part.symlink_to(folder / "elsewhere")
    with pytest.raises(DataError, match="is a link, where the journal of"):
        run(out, lines(1), Answering())


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
    with pytest.raises(Gone):
        run(out, lines(6), leaving(4))
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
        (lines(2), "a line for row 3, and rows.jsonl ends before it"),
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
    assert not out.with_name(out.name + ".part").exists()


def test_half_a_surrogate_pair_is_written_as_json_has_it(folder: Path) -> None:
    out = folder / "half.jsonl"
    given = [b'{"id": "x\\ud800", "task_id": "t\\udfff", "text": "half \\ud800"}', *lines(1)]
    run(out, given, Answering())
    again = Answering()
    run(out, given, again)
    assert again.asked == []
    found = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert (found[0]["id"], found[0]["task_id"]) == ("x\ud800", "t\udfff")
    assert found[0]["answer"] == "to half \ud800"


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

    def rows() -> Iterator[Question]:
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
            await Run(SOURCE, rows, answers, lambda tally: None).into(out)

    out = folder / "demand.jsonl"
    run(out, lines(2), Answering(frozenset({1})))
    asyncio.run(into(out))  # one failed row, and one that is new
    assert built == ["built", "closed"]
    asyncio.run(into(out))
    assert built == ["built", "closed"]
