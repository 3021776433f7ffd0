"""From an Ask to submitted sequences: all of its prompts, or one clear error.

The order matters: route (a version is leased), reserve (the key's quota and the queue's places are
counted), only then tokenize, then submit.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jumplora_server.access.caller import Caller
from jumplora_server.access.quotas import Demand
from jumplora_server.api.ask import Ask, Origin, RequestRecord
from jumplora_server.api.choices import Offer
from jumplora_server.api.metering import Metered
from jumplora_server.api.prompts import Prompts, check_sizes, encode, prompt_sizes, prompt_spec
from jumplora_server.api.sight import may_ask_base
from jumplora_server.api.task_names import check_visible, with_version
from jumplora_server.api.wishes import Wishes, make_wishes
from jumplora_server.core import Lease, Sampling
from jumplora_server.errors import (
    BaseNotAllowed,
    Draining,
    InvalidInput,
    ServerError,
    UnknownTask,
    UnknownVersion,
)
from jumplora_server.loop.admission import Reservation
from jumplora_server.loop.loop import Continuation
from jumplora_server.loop.outbox import CancelCause, OnEvent, Payer, Stream
from jumplora_server.metrics.tasks import Late
from jumplora_server.services import Services
from jumplora_server.store_threads import returned
from jumplora_server.tracing.tracer import RequestAsked

FIRST_LOAD_SECONDS = 5.0  # how long a request waits for a task that was published just before it


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request's sequences, all on one version: those of each prompt, in the order of its prompts.

    Every prompt's sequences have the same `samplings`; of what they come to, the best `answers` are
    wanted. `deadline` is a time on the services' clock, and `late` how the request ends when it
    passes. `headers` tell of the key's quota. `offer` is there where choices are asked.
    """

    origin: Origin
    streams: tuple[tuple[Stream, ...], ...]
    samplings: tuple[Sampling, ...]
    answers: int
    deadline: float
    late: Late
    headers: dict[str, str]
    offer: Offer | None = None

    def cancel(self, cause: CancelCause) -> None:
        """Free the rows of what has not ended yet, and the version."""
        if self.offer is not None:
            self.offer.lease.release()
        for streams in self.streams:
            for stream in streams:
                stream.cancel(cause)


async def take_in(services: Services, record: RequestRecord, ask: Ask) -> Admitted:
    """Route, reserve, tokenize and submit. Raises server errors; then nothing is left behind."""
    arrived = services.clock()
    # Failures count for the task too; metrics keep names that are not registered apart.
    task = None if ask.task == services.settings.base_name else ask.task
    task = with_version(task, record.asked_version)
    record.task = None if task is None else task.partition("@")[0]
    deadline = arrived + _timeout(services, ask)
    record.late = late_of(ask.timeout_seconds, services.settings.request_timeout)
    check_sizes(services, ask)
    with await _lease(services, ask.caller, task) as lease:
        record.version = None if lease.ref is None else lease.ref.version
        payer = Payer(record.task, record.version, lease.role)
        wishes = make_wishes(
            ask, lease.manifest, services.limits, max_beams=services.loop.max_beams
        )
        spec = prompt_spec(ask, lease) if ask.form == "texts" else None
        sizes = prompt_sizes(services, ask, spec)
        metered, reservations = _reserve(services, record.task, ask, wishes, sizes)
        streams: list[tuple[Stream, ...]] = []
        trace = record.trace
        offer: Offer | None = None
        try:
            if ask.choices is not None:
                offer = await Offer.of(services, record.task, ask, lease)
                wishes = replace(wishes, samplings=tuple(map(offer.applied_to, wishes.samplings)))
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
                    names=ask.names,
                    is_late=lambda: services.clock() >= deadline,
                ),
            )
            if metered is not None:
                metered.count(encoded)
            for ids in encoded:
                first = len(streams) * len(wishes.samplings)
                opened = tuple(
                    Stream(
                        services.loop.cancel,
                        services.metrics,
                        # What a request's sequences share, one of them says of the version.
                        replace(payer, is_judged=lease.is_drawn and first + n == 0),
                        counts_prompt=not n,
                        late=record.late,
                        on_finish=None if trace is None else trace.sequence(first + n),
                    )
                    for n in range(len(wishes.samplings))
                )
                hear: list[OnEvent] = [stream.on_event for stream in opened]
                if metered is not None:
                    hear = [metered.settled(first + n, each) for n, each in enumerate(hear)]
                wanted = zip(wishes.samplings, hear, reservations[first:], strict=False)
                sequence_ids = services.loop.submit_all(
                    [Continuation(*each) for each in wanted],
                    lease=lease,
                    prompt=ids,
                    deadline=deadline,
                    wants=ask.wants,
                )
                for stream, sequence_id in zip(opened, sequence_ids, strict=True):
                    stream.opened(sequence_id)
                streams.append(opened)
                record.counted_by = "sequences"
        except BaseException as error:
            cause: CancelCause = "shed" if isinstance(error, Draining) else "error"
            for stream in itertools.chain(*streams):
                stream.cancel(cause)
            taken = len(streams) * len(wishes.samplings)
            if metered is not None:
                metered.give_back(error, taken)
            for reservation in reservations[taken:]:
                reservation.release()
            if offer is not None:
                offer.lease.release()
            raise
    record.prompt_tokens = sum(len(ids) for ids in encoded)
    if trace is not None:
        trace.asked(
            RequestAsked(
                wishes.samplings[0],
                prompts=len(streams),
                sequences=len(streams) * len(wishes.samplings),
                is_streamed=ask.streamed != "no",
            )
        )
    origin = Origin(lease.ref, record.prompt_tokens, lease.role)
    headers = {} if metered is None else metered.headers()
    return Admitted(
        origin,
        tuple(streams),
        wishes.samplings,
        wishes.answers,
        deadline,
        late=record.late,
        headers=headers,
        offer=offer,
    )


def _reserve(
    services: Services, task: str | None, ask: Ask, wishes: Wishes, sizes: Sequence[int]
) -> tuple[Metered | None, list[Reservation]]:
    """Of the key's quota, if it has one, and places in the queue: for each sequence of each prompt.

    Raises InvalidInput, KeyQuotaExceeded, QueueFull, ...
    """
    rows, sequences = wishes.samplings[0].rows, len(wishes.samplings)
    each, allowed = rows * sequences, services.settings.max_queued_requests
    if each * len(sizes) > allowed:
        raise InvalidInput(
            f"{ask.names.prompts}: {len(sizes)} prompts with {each} answers or beams each make "
            f"{each * len(sizes)} rows; at most {allowed} may wait here: ask for fewer at once"
        )
    limit = ask.truncate or services.limits.max_source_tokens
    # A token takes at least a byte, and longer prompts are cut or refused.
    upper = [min(limit, size + 1) for size in sizes]
    metered = None
    if ask.caller.is_metered:
        new_tokens = wishes.samplings[0].max_new_tokens
        metered = Metered(services.quotas, ask, Demand(upper, sequences, rows, new_tokens))
    others = [0] * (sequences - 1)
    places = [tokens for prompt in upper for tokens in (prompt, *others)]
    try:
        return metered, services.loop.admission.reserve(task, places, rows=rows)
    except ServerError:
        if metered is not None:
            metered.refused()
        raise


async def _lease(services: Services, caller: Caller, task: str | None) -> Lease:
    if task is None:
        settings = services.settings
        if settings.allow_base == "no":
            raise BaseNotAllowed(
                "the bare backbone is not served here: name a task, or start the server with "
                "JUMPLORA_ALLOW_BASE=yes"
            )
        if not may_ask_base(settings, caller):
            raise BaseNotAllowed(
                "this key has a list of tasks, and the bare backbone is not in it: name one of "
                f"them, or have {settings.base_name!r} added to the key's tasks"
            )
        return Lease.base()
    name = task.partition("@")[0]
    check_visible(caller, name)
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


def late_of(asked: float | None, longest: float) -> Late:
    """How a request ends whose deadline passes. A deadline is the client's own if it is shorter
    than the server's limit, whatever its length."""
    return "timeout" if asked is None or asked >= longest else "client_deadline"


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
