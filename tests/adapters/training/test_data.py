"""Reading rows: both forms, cutting, and every fault with its line."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from factories import tiny_tokenizer
from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import DEFAULT_TEMPLATE, render
from jumplora_adapters.training.config import Lengths
from jumplora_adapters.training.data import Split, load_tokenizer, read_split

END = 1
PROMPT = PromptSpec(template=DEFAULT_TEMPLATE, instruction="good or bad", options=("good", "bad"))
TOKENIZER = tiny_tokenizer()
LENGTHS = Lengths(source=128, target=8)


def _write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _read(path: Path, prompt: PromptSpec | None = PROMPT, lengths: Lengths = LENGTHS) -> Split:
    return read_split(path, prompt, TOKENIZER, END, lengths)


def test_labelled_rows_go_through_the_template(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", '{"text": "great film", "label": "good", "id": 7}')
    split = _read(path)
    (example,) = split.examples
    assert example.source == tuple(TOKENIZER.encode(render(PROMPT, "great film")).ids)
    assert example.target == tuple(TOKENIZER.encode("good").ids)
    assert example.target[-1] == END
    assert example.answer == "good"
    assert split.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_input_rows_are_taken_as_they_are(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", "", '{"input": "ask {text}", "target": "yes no"}')
    (example,) = _read(path, prompt=None).examples
    assert example.source == tuple(TOKENIZER.encode("ask {text}").ids)
    assert example.answer == "yes no"


def test_gzip_is_read_and_has_the_same_digest(tmp_path: Path) -> None:
    content = b'{"text": "great", "label": "good"}\n'
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(content))
    assert _read(path).sha256 == hashlib.sha256(content).hexdigest()


def test_a_long_text_is_cut_and_answer_survives(tmp_path: Path) -> None:
    row = json.dumps({"text": "great film " * 200, "label": "good"})
    (example,) = _read(_write(tmp_path / "a.jsonl", row), lengths=Lengths(80, 8)).examples
    assert len(example.source) <= 80
    text = TOKENIZER.decode(list(example.source))
    assert text.rstrip().endswith("Answer:")
    assert "great film" in text


def test_a_long_whole_prompt_is_cut_at_its_end(tmp_path: Path) -> None:
    row = json.dumps({"input": "great film " * 200, "target": "good"})
    (example,) = _read(_write(tmp_path / "a.jsonl", row), None, Lengths(16, 8)).examples
    assert len(example.source) == 16
    assert example.source[-1] == END


GOOD = '{"text": "great", "label": "good"}'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param([], "has no rows", id="empty"),
        pytest.param([GOOD, "{"], "line 2: not JSON", id="not-json"),
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
        pytest.param(
            ['{"input": "x", "target": "one two three four five one two three"}'],
            "line 1: the target has 9 tokens with the end token, the limit is 8",
            id="long-target",
        ),
    ],
)
def test_faults(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _read(_write(tmp_path / "a.jsonl", *lines))


def test_many_faults_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: .*line 5: .*\(and 4 more\)"):
        _read(_write(tmp_path / "a.jsonl", *["{"] * 9))


def test_text_without_a_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a prompt"):
        _read(_write(tmp_path / "a.jsonl", GOOD), prompt=None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl cannot be read"):
        _read(tmp_path / "absent.jsonl")


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "content", [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xff\xff\xff", b"none"]
)
def test_a_damaged_archive_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz cannot be read"):
        _read(path)


def test_half_a_surrogate_pair_is_told_with_its_line(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "a.jsonl",
        '{"input": "fine \\ud83d\\ude00", "target": "good"}',
        '{"input": "\\ud83d", "target": "good"}',
    )
    with pytest.raises(DataError, match=r'a\.jsonl: line 2: "input" has half a surrogate'):
        _read(path)


def test_whole_prompts_that_were_cut_are_counted(tmp_path: Path) -> None:
    row = {"input": "good " * 40, "target": "good"}
    path = _write(tmp_path / "a.jsonl", json.dumps(row), '{"input": "x", "target": "good"}')
    assert _read(path, lengths=Lengths(source=20, target=8)).cut == 1
    assert _read(path, lengths=Lengths(source=1000, target=8)).cut == 0
    labelled = _write(tmp_path / "b.jsonl", json.dumps({"text": "good " * 40, "label": "good"}))
    assert _read(labelled, lengths=Lengths(source=90, target=8)).cut == 0
