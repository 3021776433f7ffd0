from __future__ import annotations

import gzip
import io
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.errors import DataError
from jumplora_server.batch.lines import MOST_ROW, bounded
from jumplora_server.batch.rows import Defaults, Question, count_rows, opened, read_lines


def read(*records: object, defaults: Defaults = Defaults("alpha")) -> list[Question]:
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    return [*read_lines(lines, defaults)]


def test_a_row_says_what_is_asked_of_whom() -> None:
    defaults = Defaults("alpha", {"max_new_tokens": 4, "choices": True})
    plain, own = read(
        {"text": "a", "label": "x"},
        {
            "id": 7,
            "task_id": "beta@12345678",
            "inputs": "b",
            "parameters": {"max_new_tokens": 9},
            "choices": ["x", "y"],
        },
        defaults=defaults,
    )
    assert (plain.line, plain.id, plain.fault) == (1, None, None)
    assert plain.body == {
        "task_id": "alpha",
        "text": "a",
        "parameters": {"max_new_tokens": 4, "choices": True},
    }
    assert (own.line, own.id, own.task) == (2, 7, "beta@12345678")
    assert own.body == {
        "task_id": "beta@12345678",
        "inputs": "b",
        "parameters": {"max_new_tokens": 9, "choices": ["x", "y"]},
    }


def test_blank_lines_are_no_rows_and_keep_their_numbers() -> None:
    rows = read(b"\n", {"text": "a"}, b"  \r\n", {"text": "b"})
    assert [row.line for row in rows] == [2, 4]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"{", "not JSON"),
        (b"[1]", "a JSON object is expected, not list"),
        ({}, 'needs "text" or "inputs", one of them; it has nothing'),
        ({"text": "a", "inputs": "b"}, "one of them; it has text, inputs"),
        ({"text": 1}, '"text" must be a string, not int'),
        ({"text": "a", "task_id": 3}, 'give "task_id" in the row, or --task'),
        ({"text": "a", "parameters": [1]}, '"parameters" must be an object, not list'),
        ({"text": "a", "id": [1]}, '"id" must be a string or an integer, not list'),
        ({"text": "a", "id": True}, '"id" must be a string or an integer, not bool'),
        ({"text": "a", "paramters": {}}, 'did you mean "parameters"?'),
        (b'{"text": "a", "parameters": {"temperature": NaN}}', "nan, which JSON does not have"),
        (b'{"text": "a", "parameters": {"stop": [1e999]}}', "inf, which JSON does not have"),
        (b'{"text": "a", "choices": [-Infinity]}', "-inf, which JSON does not have"),
        (b'{"text": "a", "parameters": {"b": ' + b"[" * 600 + b"]" * 600 + b"}}", "nested more"),
        (b'{"text": "a", "parameters": ' + b'{"b":' * 600 + b"1" + b"}" * 601, "nested more"),
        (b'{"text": "a", "b": ' + b"[" * 99999 + b"]" * 99999 + b"}", "not JSON"),
        (b'{"text": "a", "id": ' + b"9" * 9999 + b"}", "not JSON"),
        (b'{"text": "\xff"}', "not JSON"),
        (b'{"text": "a", "score": NaN}', ""),
        ({"text": "a", "id": "half \ud800"}, ""),
        ({"text": "a", "task": "b"}, ""),
    ],
)
def test_what_is_wrong_with_a_row_is_said(record: object, words: str) -> None:
    (row,) = read(record)
    if words:
        assert row.fault is not None
        assert words in row.fault
        assert row.body == {}
    else:
        assert row.fault is None


def test_a_row_without_a_task_needs_a_default() -> None:
    (row,) = read({"text": "a"}, defaults=Defaults())
    assert row.fault is not None
    assert "--task" in row.fault


def test_the_digest_is_of_all_that_an_answer_depends_on() -> None:
    records = [
        {"text": "a"},
        {"text": "b"},
        {"inputs": "a"},
        {"text": "a", "id": 1},
        {"text": "a", "task_id": "beta"},
        {"text": "a", "parameters": {"max_new_tokens": 4}},
        {"text": "a", "choices": True},
    ]
    digests = [row.digest for row in read(*records)]
    assert len({*digests}) == len(records)
    assert digests[0] == read(b'{"label": "x",  "text": "a"}')[0].digest
    assert digests[0] != read({"text": "a"}, defaults=Defaults("beta"))[0].digest


def test_files_are_counted_and_read(tmp_path: Path) -> None:
    content = b'{"text": "a"}\n\n{"text": "b"}'
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(content))
    for name in ("plain", "packed.gz"):
        assert count_rows(tmp_path / name) == 2
        with opened(tmp_path / name) as lines:
            assert [row.line for row in read_lines(lines, Defaults("t"))] == [1, 3]
    assert count_rows(Path("-")) is None
    (tmp_path / "torn.gz").write_bytes(gzip.compress(content)[:-9])
    with pytest.raises(DataError, match=r"torn\.gz cannot be read"):
        count_rows(tmp_path / "torn.gz")


@given(st.lists(st.sampled_from([b"a", b"b", b"\n"]), max_size=30).map(b"".join))
def test_lines_are_as_python_splits_them_and_long_ones_are_cut(content: bytes) -> None:
    whole = [*io.BytesIO(content)]
    found = [*bounded(io.BytesIO(content), 3)]
    assert found == [line if len(line.rstrip(b"\n")) <= 3 else line[:4] for line in whole]


def test_a_row_longer_than_a_request_is_said_and_the_next_one_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = json.dumps({"text": "a"}).encode() + b"\n"
    file.write_bytes(row + b" " * (2 * MOST_ROW + 7) + b"\n" + b"x" * 3 * MOST_ROW + b"\n" + row)
    assert count_rows(file) == 4
    with opened(file) as lines:
        first, blank, long, last = read_lines(lines, Defaults("alpha"))
    assert [row.line for row in (first, blank, long, last)] == [1, 2, 3, 4]
    assert (first.fault, last.fault) == (None, None)
    for each in (blank, long):
        assert each.fault == f"the line is longer than {MOST_ROW} bytes"


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """Counting would take its rows."""
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    row = json.dumps({"text": "a"}).encode() + b"\n"
    assert count_rows(pipe) is None
    writer = threading.Thread(target=pipe.write_bytes, args=[row * 20], daemon=True)
    writer.start()
    with opened(pipe) as lines:
        assert len([*read_lines(lines, Defaults("alpha"))]) == 20
    writer.join(10)
