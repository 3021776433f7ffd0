"""From an Ask to submitted sequences: all of its prompts, or one clear error.

The order matters: route (a version is leased), reserve (the queue's places are counted), only then
tokenize, then submit.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from jumplora_adapters.bounds import MAX_FRAME_BYTES
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import measure
from jumplora_server.api.ask import Ask, Caller, Origin
from jumplora_server.api.encoding import Prompts, encode
from jumplora_server.api.record import RequestRecord
from jumplora_server.api.sampling import make_sampling
from jumplora_server.core import Sampling
from jumplora_server.errors import (
    BaseNotAllowed,
    Draining,
    InputTooLong,
    InvalidInput,
    ServerError,
    UnknownTask,
)
from jumplora_server.loop.outbox import CancelCause, Stream
from jumplora_server.routing import Lease
from jumplora_server.services import Services
from jumplora_server.store_threads import returned

FIRST_LOAD_SECONDS = 5.0  # how long a request waits for a task that was published just before it


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request's sequences, in the order of its prompts, all on one version.

    `deadline` is a time on the services' clock.
    """

    origin: Origin
    streams: tuple[Stream, ...]
    samplings: tuple[Sampling, ...]
    deadline: float

    def cancel(self, cause: CancelCause) -> None:
        """Free the rows of what has not ended yet."""
        for stream in self.streams:
            stream.cancel(cause)


async def take_in(services: Services, record: RequestRecord, ask: Ask) -> Admitted:
    """Route, reserve, tokenize and submit. Raises server errors; then nothing is left behind."""
    arrived = services.clock()
    # Failures count for the task too; metrics keep names that are not registered apart.
    task = None if ask.task == services.settings.base_name else ask.task
    record.task = None if task is None else task.partition("@")[0]
    deadline = arrived + _timeout(services, ask)
    _check_sizes(services, ask)
    with await _lease(services, ask.caller, task) as lease:
        record.version = None if lease.ref is None else lease.ref.version
        samplings = tuple(make_sampling(ask, lease.manifest, services.limits) for _ in ask.prompts)
        spec = _prompt_spec(ask, lease) if ask.form == "texts" else None
        sizes = _prompt_sizes(services, ask, spec)
        limit = ask.truncate or services.limits.max_source_tokens
        # A token takes at least a byte, and longer prompts are cut or refused.
        upper = [min(limit, size + 1) for size in sizes]
        reservations = services.loop.admission.reserve(record.task, upper)
        submitted = 0
        try:
            encoded = await encode(
                services.lanes,
                services.tokenizer,
                services.templates,
                record.task,
                Prompts(
                    given=ask.prompts,
                    sizes=sizes,
                    spec=spec,
                    truncate=ask.truncate,
                    allowed=services.limits.max_source_tokens,
                    name=ask.name,
                    is_late=lambda: services.clock() >= deadline,
                ),
            )
            streams = []
            for ids, sampling, reservation in zip(encoded, samplings, reservations, strict=True):
                stream = Stream(services.loop.cancel, services.metrics, record.task)
                streams.append(stream)
                stream.opened(
                    services.loop.submit(
                        lease=lease,
                        prompt=ids,
                        sampling=sampling,
                        on_event=stream.on_event,
                        deadline=deadline,
                        wants=ask.wants,
                        reservation=reservation,
                    )
                )
                submitted += 1
                record.counted_by = "sequences"
        except BaseException as error:
            cause: CancelCause = "shed" if isinstance(error, Draining) else "error"
            for stream in streams if submitted else ():
                stream.cancel(cause)
            for reservation in reservations[submitted:]:
                reservation.release()
            raise
    record.prompt_tokens = sum(len(ids) for ids in encoded)
    origin = Origin(lease.ref, record.prompt_tokens)
    return Admitted(origin, tuple(streams), samplings, deadline)


async def _lease(services: Services, caller: Caller, task: str | None) -> Lease:
    if task is None:
        if services.settings.allow_base == "no":
            raise BaseNotAllowed(
                "the bare backbone is not served here: name a task, or start the server with "
                "JUMPLORA_ALLOW_BASE=yes"
            )
        return Lease.base()
    name = task.partition("@")[0]
    if not caller.may_see(name):
        raise UnknownTask(f"no task {name!r} is known to this key")
    try:
        return await _acquire(services, task)
    except UnknownTask:
        if not await _appeared(services, name):
            raise
    return await _acquire(services, task)


async def _acquire(services: Services, task: str) -> Lease:
    lease = services.residency.try_acquire(task)
    if lease is not None:
        return lease
    # The first use of a version reads the header of its file.
    return await services.reads.run(
        lambda: services.residency.acquire(task), returned(Lease.release)
    )


async def _appeared(services: Services, task: str) -> bool:
    """Whether the task was published just now; waits a while for its first load."""
    if not services.residency.may_look_for(task):  # no thread for one of many unknown names
        return False
    loaded = await services.reads.run(lambda: services.residency.look_for(task), lambda _: None)
    if loaded is None:
        return False
    try:
        # Shielded: another request that waits for the same load still gets it.
        waiting = asyncio.shield(asyncio.wrap_future(loaded))
        await asyncio.wait_for(waiting, FIRST_LOAD_SECONDS)
    except UnknownTask:
        return False
    except (TimeoutError, ServerError):
        pass  # the routing says what came of it
    return True


def _check_sizes(services: Services, ask: Ask) -> None:
    allowed, count = services.settings.prompts_per_request, len(ask.prompts)
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


def _prompt_spec(ask: Ask, lease: Lease) -> PromptSpec:
    if lease.manifest is None or lease.manifest.prompt is None:
        whose = "the bare backbone" if lease.ref is None else f"the adapter of {lease.ref.task!r}"
        raise InvalidInput(
            f"{ask.names.prompts}: {whose} has no prompt template; give the whole prompt as inputs"
        )
    return lease.manifest.prompt


def _prompt_sizes(services: Services, ask: Ask, spec: PromptSpec | None) -> list[int]:
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


def _timeout(services: Services, ask: Ask) -> float:
    longest, asked = services.settings.request_timeout, ask.timeout_seconds
    if asked is None:
        return longest
    if asked > longest:
        raise InvalidInput(
            f"{ask.names.parameter('timeout_ms')}: {asked * 1000:.0f} is more than this server "
            f"waits, {longest * 1000:.0f}"
        )
    return asked
