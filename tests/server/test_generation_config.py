"""A served folder's end tokens end answers and are no text of them, whole and streamed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from decoding import oracle
from factories import tiny_t5
from jumplora_server.app import assemble, build, traffic
from jumplora_server.settings import Settings
from serving import serving_app

PROMPT = "good film about the river"
START = 8


@pytest.fixture
def served(tmp_path: Path) -> tuple[Path, list[int]]:
    """A folder whose answer to PROMPT ends early with a word, and that answer by transformers."""
    folder = tiny_t5(tmp_path / "backbone", seed=3)
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(PROMPT).ids
    set_tokens(folder, eos_token_id=1)
    first = oracle(folder, ids, [])
    end = next(token for token in first[3:] if token > 2 and token not in first[:3])
    changed = tiny_t5(tmp_path / "changed", seed=3)
    set_tokens(changed, eos_token_id=[1, end], max_length=7, do_sample=True)
    answer = oracle(changed, ids, [])
    assert answer[-1] == end
    return changed, answer


def set_tokens(folder: Path, **fields: object) -> None:
    known = {"decoder_start_token_id": START, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps({**known, **fields}))


def settings_of(backbone: Path, folder: Path) -> Settings:
    return Settings(
        backbone=str(backbone),
        store=folder / "store",
        allow_base="yes",
        max_rows=2,
        spare_rows=0,
        max_source_tokens=64,
        max_target_tokens=16,
        hang_exit_seconds=0,
    )


def test_an_end_token_that_is_a_word_is_no_text(
    served: tuple[Path, list[int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, expected = served
    caplog.set_level("INFO", logger="jumplora_server")
    settings = settings_of(folder, tmp_path)
    app = build(settings, assemble(settings))
    assert "sets max_length 7, do_sample True: here a request or its adapter" in caplog.text
    body: dict[str, Any] = {
        "task_id": "base",
        "inputs": PROMPT,
        "parameters": {"max_new_tokens": 12, "details": True},
    }
    with serving_app(app, settings, traffic(app)) as listener:
        address = f"http://127.0.0.1:{listener.port}"
        answer = httpx.post(f"{address}/generate", json=body, timeout=20).json()
        with httpx.stream("POST", f"{address}/generate_stream", json=body, timeout=20) as stream:
            lines = [line for line in stream.iter_lines() if line.startswith("data:")]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = tokenizer.decode(expected[:-1], skip_special_tokens=True)
    assert answer["generated_text"] == text
    assert tokenizer.decode(expected, skip_special_tokens=True) != text, "the end token is a word"
    tokens = answer["details"]["tokens"]
    assert [token["id"] for token in tokens] == expected
    assert answer["details"]["finish_reason"] == "eos_token"
    assert (tokens[-1]["text"], tokens[-1]["special"]) == ("", True)
    events = [json.loads(line[5:]) for line in lines]
    assert [event["token"]["id"] for event in events] == expected
    assert "".join(event["token"]["text"] for event in events) == text
    assert events[-1]["generated_text"] == text


def test_a_folder_without_an_end_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_t5(tmp_path / "backbone", seed=3)
    set_tokens(folder)
    assemble(settings_of(folder, tmp_path))
    assert "every answer has max_new_tokens tokens" in caplog.text
