"""Canaries made of rows, and those of the example."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factories import tiny_tokenizer
from jumplora_adapters.canaries import check_lengths, read_canaries
from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import Canary, PromptSpec
from jumplora_adapters.rows import read_rows
from jumplora_adapters.tokenizer import BackboneTokenizer
from jumplora_adapters.training.task_file import prompt_of

PROMPT = PromptSpec(template="{options}: {text}?", options=("good", "bad"))
TICKETS = Path(__file__).parents[2] / "examples" / "tickets"


def _write(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_texts_go_through_the_prompt_and_whole_prompts_stay(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", {"text": "a film", "label": "good"})
    assert read_canaries(path, PROMPT) == (Canary(prompt="good | bad: a film?", expected="good"),)
    path = _write(path, {"input": "a {text}", "target": "any"})
    assert read_canaries(path, PROMPT) == (Canary(prompt="a {text}", expected="any"),)
    assert read_canaries(path, None) == (Canary(prompt="a {text}", expected="any"),)


@pytest.mark.parametrize(
    ("rows", "prompt", "message"),
    [
        pytest.param([{"text": "a", "label": "good"}] * 33, PROMPT, "33 rows.*at most 32", id="33"),
        pytest.param([{"text": "a", "label": "good"}], None, "needs a prompt", id="no-prompt"),
        pytest.param([{"text": "a", "label": "c"}], PROMPT, "none of the options", id="label"),
        pytest.param([], PROMPT, "has no rows", id="empty"),
        pytest.param([{"input": "", "target": "a"}], None, "line 1: there is noth", id="nothing"),
        pytest.param(
            [{"input": "a" * 65_537, "target": "a"}], None, "line 1: prompt: .*65536", id="long"
        ),
    ],
)
def test_faults(
    tmp_path: Path, rows: list[dict[str, str]], prompt: PromptSpec | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_canaries(_write(tmp_path / "a.jsonl", *rows), prompt)


def test_a_prompt_over_the_limit_is_refused() -> None:
    canaries = [Canary(prompt=text, expected="a") for text in ("good film", "good good film")]
    tokenizer = tiny_tokenizer()
    size = len(tokenizer.encode("good good film").ids)
    both = BackboneTokenizer.of(tokenizer, 512)
    check_lengths(canaries, both, 1, size)
    with pytest.raises(DataError, match=f"canary 2: its prompt has {size} tokens; at most"):
        check_lengths(canaries, both, 1, size - 1)


def test_the_examples_canaries_are_nowhere_in_its_data() -> None:
    prompt = prompt_of("tickets", TICKETS / "task.json", None, None, None)
    assert prompt is not None
    canaries = read_canaries(TICKETS / "canaries.jsonl", prompt)
    assert {canary.expected for canary in canaries} == set(prompt.options)
    sources = {row.source for row in read_rows(TICKETS / "canaries.jsonl").rows}
    assert len(sources) == len(canaries) >= 10
    for name in ("train", "dev"):
        assert not sources & {row.source for row in read_rows(TICKETS / f"{name}.jsonl").rows}
