"""Prompts to token ids, in the lane of small requests or in that of large ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import render, render_truncated
from jumplora_server.errors import DeadlineExceeded, InputTooLong
from jumplora_server.lanes import Lanes

if TYPE_CHECKING:
    from jumplora_server.engine.tokenizer import Tokenizer

SMALL_BYTES = 4096  # of all prompts of a request: some milliseconds


@dataclass(frozen=True, slots=True)
class Prompts:
    """A request's prompts: `given` are texts for the template of `spec`, or whole without one.

    `sizes` are the UTF-8 bytes of the prompts that will be made, `truncate` cuts them to so many
    tokens; without it, more than `allowed` are an error. `name` says what an index is called,
    `is_late` whether the request is past its deadline.
    """

    given: Sequence[str]
    sizes: Sequence[int]
    spec: PromptSpec | None
    truncate: int | None
    allowed: int
    name: Callable[[int], str]
    is_late: Callable[[], bool]


async def encode(
    lanes: Lanes, tokenizer: Tokenizer, task: str | None, prompts: Prompts
) -> list[tuple[int, ...]]:
    """Token ids of every prompt. Raises InputTooLong, PromptTooLong, DeadlineExceeded.

    One prompt is made at a time: all of a request's together may be many times the request. Those
    of large requests take turns.
    """
    if sum(prompts.sizes) <= SMALL_BYTES:
        return await lanes.small.run(task, partial(_encode_all, tokenizer, prompts))
    encoded = []
    for index in range(len(prompts.given)):
        work = partial(_encode_one, tokenizer, prompts, index)
        encoded.append(await lanes.large.run(task, work))
    return encoded


def _encode_all(tokenizer: Tokenizer, prompts: Prompts) -> list[tuple[int, ...]]:
    return [_encode_one(tokenizer, prompts, index) for index in range(len(prompts.given))]


def _encode_one(tokenizer: Tokenizer, prompts: Prompts, index: int) -> tuple[int, ...]:
    if prompts.is_late():  # large ones may have waited long for their turn
        raise DeadlineExceeded(
            f"the deadline passed before {prompts.name(index)} was tokenized; give "
            "parameters.timeout_ms or shorter prompts"
        )
    given, spec, truncate = prompts.given[index], prompts.spec, prompts.truncate
    if truncate is None:
        prompt = given if spec is None else render(spec, given)
        ids = tokenizer.try_encode(prompt, prompts.allowed)
        if ids is None:
            raise InputTooLong(
                f"{prompts.name(index)}: the prompt has more than {prompts.allowed} tokens, which "
                "are the most that are allowed; "
                f'give less, or cut it with "parameters": {{"truncate": {prompts.allowed}}}'
            )
        return ids
    if spec is None:
        return tokenizer.encode(given, truncate_to=truncate)
    # Twice as many tokens as may stay: where text and template meet, some may become one.
    text = tokenizer.beginning(given, 2 * truncate)
    return tokenizer.encode(render_truncated(spec, text, tokenizer.raw, truncate))
