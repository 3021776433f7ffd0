from __future__ import annotations

from pathlib import Path

import pytest

from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.rows import Row, RowFile
from jumplora_server.evaluation.questions import Question, make_sheet

PROMPT = PromptSpec(template="{text}?")


def file_of(*sources: str, labelled: bool = True) -> RowFile:
    rows = tuple(Row(n, source, "yes", labelled) for n, source in enumerate(sources, start=1))
    return RowFile(Path("a.jsonl"), "", rows)


def test_texts_are_left_to_the_servers_template() -> None:
    sheet = make_sheet(file_of("one", "two"))
    assert (sheet.form, [q.prompt for q in sheet.questions]) == ("text", ["one", "two"])


def test_texts_become_whole_prompts_by_a_prompt_of_ones_own() -> None:
    sheet = make_sheet(file_of("one"), PROMPT)
    assert (sheet.form, sheet.questions) == ("inputs", (Question(1, "one?", "yes"),))


def test_a_text_that_had_to_be_cut_is_noted() -> None:
    sheet = make_sheet(
        file_of("one", "longer"), PROMPT, fit=lambda spec, text: spec.template[:0] + text[:3] + "?"
    )
    assert [(q.prompt, q.cut) for q in sheet.questions] == [("one?", "whole"), ("lon?", "text")]


def test_whole_prompts_are_sent_as_they_are() -> None:
    sheet = make_sheet(file_of("ask {text}", labelled=False))
    assert (sheet.form, sheet.questions[0].prompt) == ("inputs", "ask {text}")


def test_only_the_first_rows() -> None:
    assert len(make_sheet(file_of("a", "b", "c"), rows=2).questions) == 2


def test_faults() -> None:
    with pytest.raises(DataError, match=r'rows have "input", a whole prompt'):
        make_sheet(file_of("one", labelled=False), PROMPT)
    with pytest.raises(DataError, match="line 2: there is nothing to ask"):
        make_sheet(file_of("one", ""))
    assert make_sheet(file_of(""), PROMPT).questions[0].prompt == "?"
