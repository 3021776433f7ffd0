"""The console makes the prompts that `jumplora_adapters.prompt` makes, and finds texts in them."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from console_in_node import Console
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import Frame, render

# Braces and field names in every part: they are only characters outside of the template.
PIECES = st.sampled_from(["{text}", "{options}", "{instruction}", "{", "}", "{x}", " | ", "\n"])
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TEXTS = st.lists(PIECES | WORDS, max_size=6).map("".join)
SPECS = st.builds(
    lambda before, behind, instruction, options: PromptSpec(
        template=f"{before}{{text}}{behind}", instruction=instruction, options=tuple(options)
    ),
    TEXTS,
    TEXTS,
    TEXTS,
    st.lists(TEXTS.filter(str.strip), max_size=3, unique_by=str.strip),
)


def plain(spec: PromptSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json")


@settings(deadline=None, max_examples=200)
@given(spec=SPECS)
def test_frames_are_those_of_the_server(console: Console, spec: PromptSpec) -> None:
    assert console.call("prompt.js", "frameOf", plain(spec)) == list(Frame.of(spec).parts)


@settings(deadline=None, max_examples=200)
@given(spec=SPECS, text=TEXTS)
def test_the_text_of_a_prompt_is_found(console: Console, spec: PromptSpec, text: str) -> None:
    assert console.call("prompt.js", "textIn", plain(spec), render(spec, text)) == text


@settings(deadline=None, max_examples=200)
@given(spec=SPECS, whole=TEXTS)
def test_what_is_found_makes_the_prompt(console: Console, spec: PromptSpec, whole: str) -> None:
    found = console.call("prompt.js", "textIn", plain(spec), whole)
    assert found is None or render(spec, found) == whole


def test_another_prompt_has_no_text(console: Console) -> None:
    spec = plain(PromptSpec(template="Text: {text}\nAnswer:"))
    assert console.call("prompt.js", "textIn", spec, "Text: a\nAnswer:") == "a"
    for whole in ("", "Text: ", "a", "Text: a", "text: a\nAnswer:", "Text: a\nAnswer: "):
        assert console.call("prompt.js", "textIn", spec, whole) is None
