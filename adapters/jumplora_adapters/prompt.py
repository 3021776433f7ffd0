"""How a text becomes a prompt: literal substitution in one pass, and cutting what is too long.

No template language: braces in an instruction, an option or a text are only characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Frame:
    """A template with its instruction and options: what stands before, between and behind texts."""

    parts: tuple[str, ...]

    @classmethod
    def of(cls, spec: PromptSpec) -> Frame:
        """Options are joined by " | "."""
        fields = {"instruction": spec.instruction, "options": OPTIONS_BETWEEN.join(spec.options)}
        parts = [""]
        # Literal text and the name of a field by turns.
        for place, piece in enumerate(_FIELD.split(spec.template)):
            if place % 2 == 0:
                parts[-1] += piece
            elif piece == "text":
                parts.append("")
            else:
                parts[-1] += fields[piece]
        return cls(tuple(parts))

    def marked(self, mark: Callable[[str], str]) -> Frame:
        """The frame whose control tokens a PlainText's tokenizer reads; `mark` is that one's."""
        return Frame(tuple(map(mark, self.parts)))

    def around(self, text: str) -> str:
        """The prompt for `text`."""
        return text.join(self.parts)


def render(spec: PromptSpec, text: str) -> str:
    """The prompt for `text`.

    It may be far larger than `text`: measure it first where the text is not your own.
    """
    return Frame.of(spec).around(text)


def render_truncated(frame: Frame, text: str, tokenizer: Tokenizer, max_tokens: int) -> str:
    """The prompt for as much of the beginning of `text` as fits `max_tokens`, eos included, which
    is added later where the tokenizer does not add it.

    Only the text is cut, and only between its own tokens, so that what follows it in the template
    survives. `tokenizer` must not truncate by itself. Raises PromptTooLong when not even an empty
    text fits.
    """
    if tokenizer.truncation is not None:
        raise ValueError("the tokenizer truncates by itself: call no_truncation() first")
    prompt = frame.around(text)
    encoding = _encode(tokenizer, prompt)
    size = size_of(encoding, tokenizer)
    if size <= max_tokens:
        return prompt
    cuts = _cuts(frame, text, encoding)
    kept = len(cuts) - (size - max_tokens)
    # Right nearly always; a joint may cost or save a token, so it is counted.
    if 0 < kept < len(cuts):
        guess = frame.around(text[: cuts[kept - 1]])
        if _count(tokenizer, guess) == max_tokens:
            return _extended(guess, frame, text, tokenizer, max_tokens, cuts[kept:])
    return _searched(frame, text, tokenizer, max_tokens)


def _cuts(frame: Frame, text: str, encoding: Encoding) -> list[int]:
    """Where the text's tokens end in it, of its prompt's encoding; none if that is unclear."""
    if len(frame.parts) != 2:
        return []
    start = len(frame.parts[0])
    limit = start + len(text)
    return [end - start for begin, end in encoding.offsets if start <= begin < end <= limit]


def _extended(
    prompt: str,
    frame: Frame,
    text: str,
    tokenizer: Tokenizer,
    max_tokens: int,
    cuts: Sequence[int],
) -> str:
    """The prompt with as many more of the text's tokens as fit all the same: one that the template
    joins may cost nothing. Nearly always none does, so `prompt` stays."""
    for cut in cuts[:MAX_JOINED]:
        longer = frame.around(text[:cut])
        if _count(tokenizer, longer) > max_tokens:
            break
        prompt = longer
    return prompt


def _searched(frame: Frame, text: str, tokenizer: Tokenizer, max_tokens: int) -> str:
    """What render_truncated promises, by trying; some ten times as slow."""
    fixed = _count(tokenizer, frame.around(""))
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
        if _count(tokenizer, frame.around(text[: ends[kept - 1]])) <= max_tokens:
            least = kept
        else:
            most = kept - 1
    prompt = frame.around(text[: ends[least - 1]] if least else "")
    return _extended(prompt, frame, text, tokenizer, max_tokens, ends[least:])


def size_of(encoding: Encoding, tokenizer: Tokenizer) -> int:
    """How many tokens a prompt has with its end token, which not every tokenizer adds."""
    adds_end = tokenizer.num_special_tokens_to_add(is_pair=False) > 0
    return len(encoding.ids) + (not adds_end)


def _count(tokenizer: Tokenizer, prompt: str) -> int:
    return size_of(_encode(tokenizer, prompt), tokenizer)


def _encode(tokenizer: Tokenizer, text: str, *, special: bool = True) -> Encoding:
    # Of a batch of one: `encode` of the library keeps the interpreter lock.
    (encoding,) = tokenizer.encode_batch([text], add_special_tokens=special)
    return encoding
