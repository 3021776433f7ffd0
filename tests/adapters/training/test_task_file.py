"""Where the prompt comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jumplora_adapters.errors import DataError
from jumplora_adapters.prompt import DEFAULT_TEMPLATE
from jumplora_adapters.training.task_file import prompt_of


def _write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_nothing_given_is_no_prompt() -> None:
    assert prompt_of("t", None, None, None, None) is None


def test_command_line_options_are_split_and_stripped() -> None:
    spec = prompt_of("t", None, "Choose one.\n", " good | very bad|none", None)
    assert spec is not None
    assert spec.options == ("good", "very bad", "none")
    assert spec.instruction == "Choose one."
    assert spec.template == DEFAULT_TEMPLATE


def test_a_file_of_one_task_and_one_of_many_are_the_same(tmp_path: Path) -> None:
    entry = {"instruction": "Choose.", "options": ["a", "b"], "sizes": {"train": 3}}
    one = prompt_of("t", _write(tmp_path / "one.json", entry), None, None, None)
    many = _write(tmp_path / "many.json", {"tasks": {"t": entry, "u": {}}})
    assert one is not None
    assert one == prompt_of("t", many, None, None, None)


def test_the_command_line_wins(tmp_path: Path) -> None:
    path = _write(tmp_path / "one.json", {"instruction": "Choose.", "options": ["a", "b"]})
    spec = prompt_of("t", path, "Pick.", None, "{instruction} {text}")
    assert spec is not None
    assert (spec.instruction, spec.options) == ("Pick.", ("a", "b"))
    assert spec.template == "{instruction} {text}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tasks": {"u": {}}}, "has no task t; it has u"),
        ([], "must hold a JSON object"),
        ({"options": ["a", "a"]}, "must be different"),
        ({"options": ["a", ""]}, "not empty"),
        ({"options": [1]}, "not valid"),
        ({"template": "no field"}, r"no \{text\}"),
    ],
)
def test_faults(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prompt_of("t", _write(tmp_path / "task.json", content), None, None, None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json cannot be read"):
        prompt_of("t", tmp_path / "absent.json", None, None, None)
