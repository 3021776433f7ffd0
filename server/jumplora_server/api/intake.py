"""From an Ask to submitted sequences: all of its prompts, or one clear error.

The order matters: route (a version is leased), reserve (the queue's places are counted), only then
tokenize, then submit.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jumplora_adapters.manifest import Manifest
from jumplora_adapters.sampling_bounds import find_out_of_bounds
from jumplora_server.api.ask import Ask, Caller, FieldNames, Origin, RequestRecord
from jumplora_server.api.prompts import Prompts, check_sizes, encode, prompt_sizes, prompt_spec
from jumplora_server.core import DEFAULT_NEW_TOKENS, EngineLimits, Lease, Sampling
from jumplora_server.errors import (
    BaseNotAllowed,
    Draining,
    InvalidInput,
    ServerError,
    UnknownTask,
    UnknownVersion,
)
from jumplora_server.loop.outbox import CancelCause, Stream
from jumplora_server.residency.entries import unknown_task
from jumplora_server.services import Services
from jumplora_server.store_threads import returned

_SAMPLERS = ("temperature", "top_k", "top_p")
# JavaScript and other JSON readers keep integers up to 2**53 exactly.
_RANDOM_SEEDS = 2**53
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
    check_sizes(services, ask)
    with await _lease(services, ask.caller, task) as lease:
        record.version = None if lease.ref is None else lease.ref.version
        samplings = tuple(make_sampling(ask, lease.manifest, services.limits) for _ in ask.prompts)
        spec = prompt_spec(ask, lease) if ask.form == "texts" else None
        sizes = prompt_sizes(services, ask, spec)
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
        raise unknown_task(name)  # as if it were not there
    try:
        return await _acquire(services, task)
    except UnknownTask:
        if not await _appeared(services, name):
            raise
    return await _acquire(services, task)


async def _acquire(services: Services, task: str) -> Lease:
    try:
        lease = services.residency.table.acquire(task)
    except UnknownVersion:
        if not services.residency.may_refresh:
            raise
    else:
        if isinstance(lease, Lease):
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


def make_sampling(ask: Ask, manifest: Manifest | None, limits: EngineLimits) -> Sampling:
    """Merge what was asked with the defaults; a random seed is chosen where none was given.

    Raises InvalidInput for contradictions, for more tokens than the server generates, and for a
    default that would count and that no request may ask for. A manifest's max_new_tokens over the
    server's limit means the limit: no request asked for it.
    """
    _check_asked(ask, limits)
    defaults: Mapping[str, Any] = {} if manifest is None else manifest.generation
    asked = ask.parameters
    merged = {**defaults, **asked}
    samples = asked.get("do_sample", any(name in merged for name in _SAMPLERS))
    _check_defaults(
        ask.names,
        {
            name: value
            for name, value in defaults.items()
            if name not in asked and (samples or name not in _SAMPLERS)
        },
    )
    max_new_tokens = min(merged.get("max_new_tokens", DEFAULT_NEW_TOKENS), limits.max_target_tokens)
    min_new_tokens = merged.get("min_new_tokens", 0)
    if "min_new_tokens" not in asked:
        min_new_tokens = min(min_new_tokens, max_new_tokens)
    if min_new_tokens > max_new_tokens:
        raise InvalidInput(
            f"{ask.names.parameter('min_new_tokens')}: {min_new_tokens} is more than "
            f"{ask.names.plain('max_new_tokens')}, {max_new_tokens}"
        )
    return Sampling(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        mode="sample" if samples else "greedy",
        temperature=merged.get("temperature", 1.0) if samples else 1.0,
        top_k=merged.get("top_k") if samples else None,
        top_p=merged.get("top_p") if samples else None,
        repetition_penalty=merged.get("repetition_penalty", 1.0),
        seed=_seed(asked) if samples else 0,
        stop=tuple(merged.get("stop", ())),
        logprobs=ask.logprobs,
    )


def _check_defaults(names: FieldNames, counting: Mapping[str, Any]) -> None:
    for fault in find_out_of_bounds(counting):
        name = names.parameter(fault.name)
        raise InvalidInput(
            f"{name}: the adapter's own default is not allowed ({fault.given} given; "
            f"{fault.allowed} allowed); set {name} in the request"
        )


def _check_asked(ask: Ask, limits: EngineLimits) -> None:
    names, asked = ask.names, ask.parameters
    if (tokens := asked.get("max_new_tokens", 0)) > limits.max_target_tokens:
        raise InvalidInput(
            f"{names.parameter('max_new_tokens')}: {tokens} is more than this server generates, "
            f"{limits.max_target_tokens}"
        )
    if ask.truncate is not None and ask.truncate > limits.max_source_tokens:
        raise InvalidInput(
            f"{names.parameter('truncate')}: {ask.truncate} is more than this server reads, "
            f"{limits.max_source_tokens}"
        )
    if asked.get("do_sample") is False:
        for name in (*_SAMPLERS, "seed"):
            if name in asked:
                raise InvalidInput(
                    f"{names.parameter(name)}: has no effect when "
                    f"{names.plain('do_sample')} is false"
                )


def _seed(asked: Mapping[str, Any]) -> int:
    return int(asked["seed"]) if "seed" in asked else secrets.randbelow(_RANDOM_SEEDS)
