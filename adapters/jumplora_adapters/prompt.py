"""How a text becomes a prompt: literal substitution in one pass, and cutting what is too long.

No template language: braces in an instruction, an option or a text are only characters.
"""

from __future__ import annotations

import re

from tokenizers import Tokenizer

from jumplora_adapters.errors import PromptTooLong
from jumplora_adapters.manifest import PromptSpec

DEFAULT_TEMPLATE = "Task Instruction: {instruction}\nOptions: {options}\nText: {text}\nAnswer:"

_FIELD = re.compile(r"\{(instruction|options|text)\}")


def render(spec: PromptSpec, text: str) -> str:
    """The prompt for `text`; options are joined by " | "."""
    fields = {
        "instruction": spec.instruction,
        "options": " | ".join(spec.options),
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
    if _count(tokenizer, prompt) <= max_tokens:
        return prompt
    fixed = _count(tokenizer, render(spec, ""))
    if fixed > max_tokens:
        raise PromptTooLong(
            f"the template takes {fixed} tokens without any text; at most {max_tokens} are allowed"
        )
    ends = [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]
    # The largest number of text tokens that fits; `least` always does. Not simply what is left of
    # max_tokens: a joint may cost or save a token, and a second {text} takes twice.
    least, most = 0, min(len(ends), max_tokens)
    while least < most:
        kept = (least + most + 1) // 2
        if _count(tokenizer, render(spec, text[: ends[kept - 1]])) <= max_tokens:
            least = kept
        else:
            most = kept - 1
    return render(spec, text[: ends[least - 1]] if least else "")


def _count(tokenizer: Tokenizer, prompt: str) -> int:
    return len(tokenizer.encode(prompt).ids)
