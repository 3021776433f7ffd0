"""What reaches a terminal: nothing that an adapter's texts could make it do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click import unstyle
from typer.testing import Result

from factories import write_random_adapter
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.cli.output import (
    ColumnStyle,
    print_facts,
    print_json,
    print_table,
    warn,
)
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.printable import printable

Run = Callable[..., Result]

ACTING = "\x1b[2J\x07\r\n\x7f\x9b31m\u202e\u2066\u200f\u2028"
CHARACTERS = {character for character in ACTING if not character.isprintable()} - {"\n"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï 文 \U0001f600", "plain ünï 文 \U0001f600"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred", r"\u001b[31mred"),
        ("\x9b31m\u202e", r"\u009b31m\u202e"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_cells_facts_and_messages_act_on_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([("name", "fold")], [[f"cell {ACTING}"]])
    print_facts([(f"name {ACTING}", f"value {ACTING}")])
    warn(f"message {ACTING}")
    print_json({f"key {ACTING}": [ACTING]})
    told = capsys.readouterr()
    for character in CHARACTERS:
        assert character not in told.out
        assert character not in told.err
    assert told.err.count("\n") == 1


def test_json_says_the_same_after_escaping(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": ACTING, "b": {"c": [1.5, None, "\ud800"]}}
    print_json(value)
    assert json.loads(capsys.readouterr().out) == value


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_numbers_that_json_lacks_are_not_printed(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"a": number})


def test_inspect_shows_a_hostile_manifest_harmlessly(
    run: Run, backbone: Backbone, tmp_path: Path
) -> None:
    prompt = PromptSpec(template="{text}", instruction=f"Is it{ACTING}", options=(ACTING, "no"))
    result = run("inspect", write_random_adapter(tmp_path, backbone, prompt=prompt))
    assert r"Is it\u001b[2J\u0007" in result.stdout
    assert not CHARACTERS & set(result.stdout)


WIDE_TABLE: tuple[list[tuple[str, ColumnStyle]], list[list[str]]] = (
    [("task", "left"), ("density", "right"), ("created", "left"), ("result", "fold")],
    [["a-task-of-some-length", "100.00 %", "", "word " * 30 + "end"]],
)


def test_a_table_in_a_pipe_has_each_row_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table(*WIDE_TABLE)
    print_facts([("name", "word " * 30 + "end")])
    shown = capsys.readouterr().out
    (row,) = (line for line in shown.splitlines() if "100.00" in line)
    assert row.split() == ["a-task-of-some-length", "100.00", "%", *["word"] * 30, "end"]
    assert "created" not in shown, "an empty column"
    assert shown.splitlines()[-1].endswith("word end")


@pytest.mark.parametrize("columns", [80, 60, 30])
def test_a_table_in_a_terminal_is_folded_and_never_cut(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(*WIDE_TABLE)
    shown = unstyle(capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= columns
    assert shown.count("word") == 30
    assert shown.count("end") == 1
    assert "100.00 %" in shown
    assert "a-task-of-" in shown
