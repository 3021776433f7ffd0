"""Prompts to token ids, in the lane of small requests or in that of large ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import Frame, render_truncated
from jumplora_server.core import NoEmbedding
from jumplora_server.errors import DeadlineExceeded, InputTooLong, InvalidInput
from jumplora_server.lanes import Lanes

if TYPE_CHECKING:
    from jumplora_server.engine.tokenizer import TemplateReader, Tokenizer

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
    lanes: Lanes,
    tokenizer: Tokenizer,
    templates: TemplateReader,
    task: str | None,
    prompts: Prompts,
) -> list[tuple[int, ...]]:
    """Token ids of every prompt. Raises InputTooLong, PromptTooLong, DeadlineExceeded, and
    InvalidInput for a token without an embedding.

    `tokenizer` reads whole prompts, `templates` what their templates make of texts. One prompt is
    made at a time: all of a request's together may be many times the request. Those of large
    requests take turns.
    """
    if sum(prompts.sizes) <= SMALL_BYTES:
        work = partial(_encode_all, tokenizer, templates, prompts)
        return await lanes.small.run(task, work)
    encoded = []
    for index in range(len(prompts.given)):
        encoded.append(
            await lanes.large.run(task, partial(_encode_one, tokenizer, templates, prompts, index))
        )
    return encoded


def _encode_all(
    tokenizer: Tokenizer, templates: TemplateReader, prompts: Prompts
) -> list[tuple[int, ...]]:
    return [
        _encode_one(tokenizer, templates, prompts, index) for index in range(len(prompts.given))
    ]


def _encode_one(
    tokenizer: Tokenizer, templates: TemplateReader, prompts: Prompts, index: int
) -> tuple[int, ...]:
    name = prompts.name(index)
    if prompts.is_late():  # large ones may have waited long for their turn
        raise DeadlineExceeded(
            f"the deadline passed before {name} was tokenized; give "
            "parameters.timeout_ms or shorter prompts"
        )
    given, allowed = prompts.given[index], prompts.allowed
    try:
        if prompts.spec is None:
            ids = _read(tokenizer, given, prompts)
        else:
            frame = Frame.of(prompts.spec).marked(templates.mark)
            ids = _read_text(templates.tokenizer, frame, given, prompts)
    except NoEmbedding as error:
        raise InvalidInput(
            f"{name}: the prompt needs the token {error.token!r} (id {error.token_id}), which the "
            f"backbone does not know: its embedding has {error.rows} rows; leave it out"
        ) from error
    if ids is None:
        raise InputTooLong(
            f"{name}: the prompt has more than {allowed} tokens, which are the most that are "
            f'allowed; give less, or cut it with "parameters": {{"truncate": {allowed}}}'
        )
    return ids


def _read(tokenizer: Tokenizer, prompt: str, prompts: Prompts) -> tuple[int, ...] | None:
    """None where the prompt is too long and may not be cut."""
    if prompts.truncate is None:
        return tokenizer.try_encode(prompt, prompts.allowed)
    return tokenizer.encode(prompt, truncate_to=prompts.truncate)


def _read_text(
    tokenizer: Tokenizer, frame: Frame, given: str, prompts: Prompts
) -> tuple[int, ...] | None:
    truncate = prompts.truncate
    if truncate is None:
        return tokenizer.try_encode(frame.around(given), prompts.allowed)
    # Twice as many tokens as may stay: where text and template meet, some may become one.
    text = tokenizer.beginning(given, 2 * truncate)
    return tokenizer.encode(render_truncated(frame, text, tokenizer.raw, truncate))
