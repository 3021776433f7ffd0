"""Reading rows: both forms, archives, and every fault with its line."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from jumplora_adapters.errors import DataError
from jumplora_adapters.rows import Row, read_rows

GOOD = '{"text": "great", "label": "good"}'
OPTIONS = ("good", "bad")


def _write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_both_forms_keep_their_lines(tmp_path: Path) -> None:
    file = read_rows(_write(tmp_path / "a.jsonl", "", GOOD), OPTIONS)
    assert file.rows == (Row(2, "great", "good", True),)
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    file = read_rows(_write(tmp_path / "b.jsonl", '{"input": "ask", "target": "any", "id": 7}'))
    assert (file.rows, file.is_labelled) == ((Row(1, "ask", "any", False),), False)


def test_gzip_is_read_and_has_the_same_digest(tmp_path: Path) -> None:
    content = f"{GOOD}\n".encode()
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(content))
    assert read_rows(path).sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param([], "has no rows", id="empty"),
        pytest.param([GOOD, "{"], "line 2: not JSON", id="not-json"),
        pytest.param(["[" * 100_000], "line 1: not JSON", id="deep"),
        pytest.param(["[1]"], "line 1: a JSON object is expected, not list", id="not-object"),
        pytest.param(['{"text": "x"}'], 'line 1: needs "text" and "label".*has text', id="missing"),
        pytest.param(['{"text": "x", "label": 1}'], '"label" must be a string, not int', id="type"),
        pytest.param(['{"text": "x", "label": " "}'], '"label" is empty', id="no-label"),
        pytest.param(
            [GOOD, '{"text": "x", "label": "ugly"}'],
            r'line 2: label "ugly" is none of the options good \| bad',
            id="label-outside-options",
        ),
        pytest.param(
            [GOOD, '{"input": "x", "target": "y"}'], "some rows have", id="two-forms-mixed"
        ),
        pytest.param(["{"] * 9, r"line 1: .*line 5: .*\(and 4 more\)", id="many"),
        pytest.param(
            ['{"input": "\\ud83d\\ude00", "target": "y"}', '{"input": "\\ud83d", "target": "y"}'],
            r'a\.jsonl: line 2: "input" has half a surrogate',
            id="half-a-surrogate-pair",
        ),
    ],
)
def test_faults(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(_write(tmp_path / "a.jsonl", *lines), OPTIONS)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl cannot be read: No such file"):
        read_rows(tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    "content", [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xff\xff\xff", b"none"]
)
def test_a_damaged_archive_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz cannot be read"):
        read_rows(path)


def test_reading_needs_no_tokenizer_and_no_torch() -> None:
    program = (
        "import sys, jumplora_adapters.rows, jumplora_adapters.training.scores;"
        " print([name for name in ('torch', 'tokenizers', 'numpy', 'transformers')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "[]"
