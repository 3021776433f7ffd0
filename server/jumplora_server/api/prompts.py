"""A request's prompts: how large they may be, and their token ids.

Ids are made in the lane of small requests or in that of large ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from jumplora_adapters.bounds import MAX_FRAME_BYTES
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import Frame, measure, render_truncated
from jumplora_server.api.ask import Ask, FieldNames
from jumplora_server.core import Lease, NoEmbedding
from jumplora_server.errors import DeadlineExceeded, InputTooLong, InvalidInput
from jumplora_server.lanes import Lanes
from jumplora_server.services import Services

if TYPE_CHECKING:
    from jumplora_server.engine.tokenizer import TemplateReader, Tokenizer

NO_TEMPLATE = "no_template"  # the reason, by which a command line knows what to say
SMALL_BYTES = 4096  # of all prompts of a request: some milliseconds

Read = Callable[[str], tuple[int, ...] | None]
"""Token ids of what a client gave; None where they are too many and may not be cut."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """A request's prompts: `given` are texts for the template of `spec`, or whole without one.

    `sizes` are the UTF-8 bytes of the prompts that will be made, `truncate` cuts them to so many
    tokens; without it, more than `allowed` are an error. `names` says what the client calls them,
    `is_late` whether the request is past its deadline.
    """

    given: Sequence[str]
    sizes: Sequence[int]
    spec: PromptSpec | None
    truncate: int | None
    allowed: int
    names: FieldNames
    is_late: Callable[[], bool]


def check_sizes(services: Services, ask: Ask) -> None:
    allowed, count = services.prompts_per_request, len(ask.prompts)
    if count > allowed:
        raise InvalidInput(
            f"{ask.names.prompts}: {count} prompts given; at most {allowed} are allowed"
        )
    allowed = services.settings.max_text_bytes
    for index, prompt in enumerate(ask.prompts):
        size = len(prompt.encode())
        if size > allowed:
            raise InputTooLong(
                f"{ask.name(index)}: {size} bytes given; at most {allowed} are allowed"
            )


def prompt_spec(ask: Ask, lease: Lease) -> PromptSpec:
    if lease.manifest is None or lease.manifest.prompt is None:
        whose = "the bare backbone" if lease.ref is None else f"the adapter of {lease.ref.task!r}"
        raise InvalidInput(
            f"{ask.names.prompts}: {whose} has no prompt template; {ask.names.whole}",
            reason=NO_TEMPLATE,
        )
    return lease.manifest.prompt


def prompt_sizes(services: Services, ask: Ask, spec: PromptSpec | None) -> list[int]:
    """UTF-8 bytes of every prompt; an adapter's template may make much of a short text.

    Raises InputTooLong before any of them is made. A template that has {text} once is never over.
    """
    if spec is None:
        return [len(prompt.encode()) for prompt in ask.prompts]
    measured = measure(spec)
    sizes = [measured.with_text(text) for text in ask.prompts]
    allowed = services.settings.max_text_bytes + max(MAX_FRAME_BYTES, measured.frame_bytes)
    for index, size in enumerate(sizes):
        if size > allowed:
            raise InputTooLong(
                f"{ask.name(index)}: the adapter's template, which has {{text}} "
                f"{measured.texts} times, makes a prompt of {size} bytes of it; at most {allowed} "
                "are allowed: give a shorter text"
            )
    return sizes


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
    read = _reader(tokenizer, templates, prompts)
    if sum(prompts.sizes) <= SMALL_BYTES:
        return await lanes.small.run(task, partial(_encode_all, read, prompts))
    encoded = []
    for index in range(len(prompts.given)):
        encoded.append(await lanes.large.run(task, partial(_encode_one, read, prompts, index)))
    return encoded


def _reader(tokenizer: Tokenizer, templates: TemplateReader, prompts: Prompts) -> Read:
    if prompts.spec is None:
        return partial(_read, tokenizer, prompts)
    frame = Frame.of(prompts.spec).marked(templates.mark)
    return partial(_read_text, templates.tokenizer, frame, prompts)


def _encode_all(read: Read, prompts: Prompts) -> list[tuple[int, ...]]:
    return [_encode_one(read, prompts, index) for index in range(len(prompts.given))]


def _encode_one(read: Read, prompts: Prompts, index: int) -> tuple[int, ...]:
    name = prompts.names.prompt(index, len(prompts.given))
    if prompts.is_late():  # large ones may have waited long for their turn
        raise DeadlineExceeded(
            f"the deadline passed before {name} was tokenized; give "
            f"a longer {prompts.names.plain('timeout_ms')} or shorter prompts"
        )
    allowed = prompts.allowed
    try:
        ids = read(prompts.given[index])
    except NoEmbedding as error:
        raise InvalidInput(
            f"{name}: the prompt needs the token {error.token!r} (id {error.token_id}), which the "
            f"backbone does not know: its embedding has {error.rows} rows; leave it out"
        ) from error
    if ids is None:
        truncate = prompts.names.parameter("truncate")
        raise InputTooLong(
            f"{name}: the prompt has more than {allowed} tokens, which are the most that are "
            f"allowed; give less, or have it cut: set {truncate} to {allowed}"
        )
    return ids


def _read(tokenizer: Tokenizer, prompts: Prompts, prompt: str) -> tuple[int, ...] | None:
    """None where the prompt is too long and may not be cut."""
    if prompts.truncate is None:
        return tokenizer.try_encode(prompt, prompts.allowed)
    return tokenizer.encode(prompt, truncate_to=prompts.truncate)


def _read_text(
    tokenizer: Tokenizer, frame: Frame, prompts: Prompts, given: str
) -> tuple[int, ...] | None:
    truncate = prompts.truncate
    if truncate is None:
        return tokenizer.try_encode(frame.around(given), prompts.allowed)
    # Twice as many tokens as may stay: where text and template meet, some may become one.
    text = tokenizer.beginning(given, 2 * truncate)
    return tokenizer.encode(render_truncated(frame, text, tokenizer.raw, truncate))
