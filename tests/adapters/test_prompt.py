"""Prompts: literal substitution in one pass, and cutting that spares all but the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer, processors

from factories import tiny_tokenizer
from jumplora_adapters.errors import PromptTooLong
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import DEFAULT_TEMPLATE, Frame, _searched, render, render_truncated

SPEC = PromptSpec(template=DEFAULT_TEMPLATE, instruction="good or bad?", options=("good", "bad"))
FRAME = Frame.of(SPEC)
ASCII = tiny_tokenizer()
BYTES = tiny_tokenizer(style="mt5")


def test_default_prompt() -> None:
    assert render(SPEC, "a great film") == (
        "Task Instruction: good or bad?\nOptions: good | bad\nText: a great film\nAnswer:"
    )


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        pytest.param("{text}", "{instruction} {text} {}", "{instruction} {text} {}", id="one pass"),
        pytest.param("{text}{text}", "x", "xx", id="twice"),
        pytest.param("{{text}}", "x", "{x}", id="braces are only characters"),
        pytest.param("{other} {text!r} {0}", "x", "{other} {text!r} {0}", id="no str.format"),
        pytest.param("{% if 1 %}{text}", r"\1 \g<0>", r"{% if 1 %}\1 \g<0>", id="no templates"),
        pytest.param("no field", "x", "no field", id="no field"),
    ],
)
def test_substitution_is_literal(template: str, text: str, expected: str) -> None:
    assert render(PromptSpec(template=template), text) == expected


@given(text=st.text(max_size=200), max_tokens=st.integers(80, 120))
@pytest.mark.parametrize("tokenizer", [ASCII, BYTES], ids=["ascii", "bytes"])
def test_only_the_end_of_the_text_is_cut(tokenizer: object, text: str, max_tokens: int) -> None:
    assert isinstance(tokenizer, type(ASCII))
    prompt = render_truncated(FRAME, text, tokenizer, max_tokens)
    before, after = DEFAULT_TEMPLATE.split("{text}")
    before = render(
        PromptSpec(template=before, instruction="good or bad?", options=SPEC.options), ""
    )
    assert len(tokenizer.encode(prompt).ids) <= max_tokens
    assert prompt.startswith(before)
    assert prompt.endswith(after)
    assert text.startswith(prompt[len(before) : len(prompt) - len(after)])
    if len(tokenizer.encode(render(SPEC, text)).ids) <= max_tokens:
        assert prompt == render(SPEC, text)


def test_as_much_of_the_text_is_kept_as_fits() -> None:
    text = "the river is good " * 200
    prompt = render_truncated(FRAME, text, ASCII, 128)
    assert len(ASCII.encode(prompt).ids) == 128


def test_an_end_token_that_the_tokenizer_does_not_add_has_its_place() -> None:
    silent = Tokenizer.from_str(ASCII.to_str())
    silent.post_processor = processors.Sequence([])
    text = "the river is good " * 200
    prompt = render_truncated(FRAME, text, silent, 128)
    assert prompt == render_truncated(FRAME, text, ASCII, 128)
    assert len(silent.encode(prompt).ids) == 127
    fixed = len(ASCII.encode(render(SPEC, "")).ids)
    with pytest.raises(PromptTooLong, match=rf"{fixed} tokens.*{fixed - 1}"):
        render_truncated(FRAME, text, silent, fixed - 1)


def test_a_text_that_comes_twice_is_cut_twice() -> None:
    spec = PromptSpec(template="{text} or {text}")
    prompt = render_truncated(Frame.of(spec), "good bad " * 50, ASCII, 21)
    first, second = prompt.split(" or ")
    assert first == second
    assert "good bad good" in first
    assert len(ASCII.encode(prompt).ids) <= 21


def test_a_template_that_does_not_fit_is_an_error_with_both_numbers() -> None:
    fixed = len(ASCII.encode(render(SPEC, "")).ids)
    assert render_truncated(FRAME, "x" * 100, ASCII, fixed) == render(SPEC, "")
    with pytest.raises(PromptTooLong, match=rf"{fixed} tokens.*{fixed - 1}"):
        render_truncated(FRAME, "x" * 100, ASCII, fixed - 1)


def test_a_tokenizer_that_truncates_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.enable_truncation(16)
    with pytest.raises(ValueError, match="no_truncation"):
        render_truncated(FRAME, "text", tokenizer, 64)


class _Counting:
    """A tokenizer that counts its calls."""

    truncation = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.calls = tokenizer, 0
        self.num_special_tokens_to_add = tokenizer.num_special_tokens_to_add

    def encode_batch(self, texts: list[str], add_special_tokens: bool = True) -> list[Encoding]:
        self.calls += len(texts)
        return self.tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)


@pytest.mark.parametrize("tokenizer", [ASCII, BYTES], ids=["ascii", "bytes"])
def test_a_long_text_is_tokenized_once_and_what_is_left_of_it_twice(tokenizer: Tokenizer) -> None:
    counting = _Counting(tokenizer)
    prompt = render_truncated(FRAME, "the river is good " * 200, counting, 128)  # type: ignore[arg-type]
    assert len(tokenizer.encode(prompt).ids) == 128
    assert counting.calls == 3
    render_truncated(FRAME, "short", counting, 128)  # type: ignore[arg-type]
    assert counting.calls == 4


@given(text=st.text(max_size=120), max_tokens=st.integers(80, 110))
@pytest.mark.parametrize("tokenizer", [ASCII, BYTES], ids=["ascii", "bytes"])
def test_the_quick_cut_keeps_as_much_as_the_search(
    tokenizer: Tokenizer, text: str, max_tokens: int
) -> None:
    quick = render_truncated(FRAME, text, tokenizer, max_tokens)
    if quick != render(SPEC, text):
        assert len(quick) >= len(_searched(FRAME, text, tokenizer, max_tokens))
