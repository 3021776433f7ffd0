"""How a text becomes a prompt: literal substitution in one pass, and cutting what is too long.

No template language: braces in an instruction, an option or a text are only characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers import Encoding, Tokenizer

from jumplora_adapters.errors import PromptTooLong
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt_size import OPTIONS_BETWEEN, PromptSize

DEFAULT_TEMPLATE = "Task Instruction: {instruction}\nOptions: {options}\nText: {text}\nAnswer:"
MAX_JOINED = 16  # tokens of a text that its template joins to others; each is looked at

_FIELD = re.compile(r"\{(instruction|options|text)\}")


def measure(spec: PromptSpec) -> PromptSize:
    """How large the prompts of `spec` get."""
    return PromptSize.measure(spec.template, spec.instruction, spec.options)


def rendered_bytes(spec: PromptSpec, text: str) -> int:
    """UTF-8 bytes of `render(spec, text)`, without making it."""
    return measure(spec).with_text(text)


def render(spec: PromptSpec, text: str) -> str:
    """The prompt for `text`; options are joined by " | ".

    It may be far larger than `text`: measure it first where the text is not your own.
    """
    fields = {
        "instruction": spec.instruction,
        "options": OPTIONS_BETWEEN.join(spec.options),
        "text": text,
    }
    return _FIELD.sub(lambda match: fields[match[1]], spec.template)


def render_truncated(spec: PromptSpec, text: str, tokenizer: Tokenizer, max_tokens: int) -> str:
    """The prompt for as much of the beginning of `text` as fits `max_tokens`, eos included.

    Only the text is cut, and only between its own tokens, so that what follows it in the template
    survives. `tokenizer` must not truncate by itself. Raises PromptTooLong when not even an empty
    text fits.
    """
    if tokenizer.truncation is not None:
        raise ValueError("the tokenizer truncates by itself: call no_truncation() first")
    prompt = render(spec, text)
    encoding = _encode(tokenizer, prompt)
    if len(encoding.ids) <= max_tokens:
        return prompt
    cuts = _cuts(spec, text, encoding)
    kept = len(cuts) - (len(encoding.ids) - max_tokens)
    # Right nearly always; a joint may cost or save a token, so it is counted.
    if 0 < kept < len(cuts):
        guess = render(spec, text[: cuts[kept - 1]])
        if _count(tokenizer, guess) == max_tokens:
            return _extended(guess, spec, text, tokenizer, max_tokens, cuts[kept:])
    return _searched(spec, text, tokenizer, max_tokens)


def _cuts(spec: PromptSpec, text: str, encoding: Encoding) -> list[int]:
    """Where the text's tokens end in it, of its prompt's encoding; none if that is unclear."""
    before, separator, after = spec.template.partition("{text}")
    if not separator or "{text}" in after:
        return []
    start = len(render(spec.model_copy(update={"template": before}), ""))
    limit = start + len(text)
    return [end - start for begin, end in encoding.offsets if start <= begin < end <= limit]


def _extended(
    prompt: str,
    spec: PromptSpec,
    text: str,
    tokenizer: Tokenizer,
    max_tokens: int,
    cuts: Sequence[int],
) -> str:
    """The prompt with as many more of the text's tokens as fit all the same: one that the template
    joins may cost nothing. Nearly always none does, so `prompt` stays."""
    for cut in cuts[:MAX_JOINED]:
        longer = render(spec, text[:cut])
        if _count(tokenizer, longer) > max_tokens:
            break
        prompt = longer
    return prompt


def _searched(spec: PromptSpec, text: str, tokenizer: Tokenizer, max_tokens: int) -> str:
    """What render_truncated promises, by trying; some ten times as slow."""
    fixed = _count(tokenizer, render(spec, ""))
    if fixed > max_tokens:
        raise PromptTooLong(
            f"the template takes {fixed} tokens without any text; at most {max_tokens} are allowed"
        )
    ends = [end for _, end in _encode(tokenizer, text, special=False).offsets]
    # The largest number of text tokens that fits; `least` always does. Not simply what is left of
    # max_tokens: a joint may cost or save a token, and a second {text} takes twice.
    least, most = 0, min(len(ends), max_tokens)
    while least < most:
        kept = (least + most + 1) // 2
        if _count(tokenizer, render(spec, text[: ends[kept - 1]])) <= max_tokens:
            least = kept
        else:
            most = kept - 1
    prompt = render(spec, text[: ends[least - 1]] if least else "")
    return _extended(prompt, spec, text, tokenizer, max_tokens, ends[least:])


def _count(tokenizer: Tokenizer, prompt: str) -> int:
    return len(_encode(tokenizer, prompt).ids)


def _encode(tokenizer: Tokenizer, text: str, *, special: bool = True) -> Encoding:
    # Of a batch of one: `encode` of the library keeps the interpreter lock.
    (encoding,) = tokenizer.encode_batch([text], add_special_tokens=special)
    return encoding
