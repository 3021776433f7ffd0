"""Rows as tokens: both forms, cutting, and targets that are too long."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from factories import tiny_tokenizer
from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import DEFAULT_TEMPLATE, render
from jumplora_adapters.tokenizer import BackboneTokenizer
from jumplora_adapters.training.config import Lengths
from jumplora_adapters.training.data import Split, read_split

END = 1
PROMPT = PromptSpec(template=DEFAULT_TEMPLATE, instruction="good or bad", options=("good", "bad"))
TOKENIZER = tiny_tokenizer()
LENGTHS = Lengths(source=128, target=8)


def _write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _read(path: Path, prompt: PromptSpec | None = PROMPT, lengths: Lengths = LENGTHS) -> Split:
    return read_split(path, prompt, BackboneTokenizer.of(TOKENIZER, 512), END, lengths)


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


def test_a_fault_of_a_row_and_a_long_target_are_told_with_their_line(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", '{"text": "x", "label": "ugly"}')
    with pytest.raises(DataError, match=r'line 1: label "ugly" is none of the options good \| bad'):
        _read(path)
    _write(path, '{"input": "x", "target": "one two three four five one two three"}')
    message = "line 1: the target has 9 tokens with the end token, the limit is 8"
    with pytest.raises(DataError, match=message):
        _read(path)


def test_text_without_a_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a prompt"):
        _read(_write(tmp_path / "a.jsonl", '{"text": "x", "label": "good"}'), prompt=None)


def test_whole_prompts_that_were_cut_are_counted(tmp_path: Path) -> None:
    row = {"input": "good " * 40, "target": "good"}
    path = _write(tmp_path / "a.jsonl", json.dumps(row), '{"input": "x", "target": "good"}')
    assert _read(path, lengths=Lengths(source=20, target=8)).cut == 1
    assert _read(path, lengths=Lengths(source=1000, target=8)).cut == 0
    labelled = _write(tmp_path / "b.jsonl", json.dumps({"text": "good " * 40, "label": "good"}))
    assert _read(labelled, lengths=Lengths(source=90, target=8)).cut == 0
