"""From an Ask to submitted sequences: all of its prompts, or one clear error.

The order matters: route (a version is leased), reserve (the queue's places are counted), only then
tokenize, then submit.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from jumplora_adapters.manifest import Manifest
from jumplora_adapters.sampling_bounds import MAX_SEED, find_out_of_bounds
from jumplora_server.api.ask import Ask, Caller, FieldNames, Origin, RequestRecord
from jumplora_server.api.choices import Offer, check_choices
from jumplora_server.api.prompts import Prompts, check_sizes, encode, prompt_sizes, prompt_spec
from jumplora_server.core import DEFAULT_NEW_TOKENS, Beams, EngineLimits, Lease, Sampling
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
from jumplora_server.loop.outbox import CancelCause, Stream
from jumplora_server.residency.entries import unknown_task
from jumplora_server.services import Services
from jumplora_server.store_threads import returned

_SAMPLERS = ("temperature", "top_k", "top_p")
_OF_BEAMS = ("num_beams", "length_penalty", "early_stopping")
# JavaScript and other JSON readers keep integers up to 2**53 exactly.
_RANDOM_SEEDS = 2**53
FIRST_LOAD_SECONDS = 5.0  # how long a request waits for a task that was published just before it


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request's sequences, all on one version: those of each prompt, in the order of its prompts.

    Every prompt's sequences have the same `samplings`; of what they come to, the best `answers` are
    wanted. `deadline` is a time on the services' clock. `offer` is there where choices are asked.
    """

    origin: Origin
    streams: tuple[tuple[Stream, ...], ...]
    samplings: tuple[Sampling, ...]
    answers: int
    deadline: float
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
    record.task = None if task is None else task.partition("@")[0]
    deadline = arrived + _timeout(services, ask)
    check_sizes(services, ask)
    with await _lease(services, ask.caller, task) as lease:
        record.version = None if lease.ref is None else lease.ref.version
        wishes = make_wishes(
            ask, lease.manifest, services.limits, max_beams=services.loop.max_beams
        )
        spec = prompt_spec(ask, lease) if ask.form == "texts" else None
        sizes = prompt_sizes(services, ask, spec)
        reservations = _reserve(services, record.task, ask, wishes, sizes)
        streams: list[tuple[Stream, ...]] = []
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
            for ids in encoded:
                opened = tuple(
                    Stream(services.loop.cancel, services.metrics, record.task, counts_prompt=not n)
                    for n in range(len(wishes.samplings))
                )
                first = len(streams) * len(opened)
                wanted = zip(opened, wishes.samplings, reservations[first:], strict=False)
                sequence_ids = services.loop.submit_all(
                    [Continuation(sampling, s.on_event, places) for s, sampling, places in wanted],
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
            for reservation in reservations[len(streams) * len(wishes.samplings) :]:
                reservation.release()
            if offer is not None:
                offer.lease.release()
            raise
    record.prompt_tokens = sum(len(ids) for ids in encoded)
    origin = Origin(lease.ref, record.prompt_tokens)
    return Admitted(origin, tuple(streams), wishes.samplings, wishes.answers, deadline, offer)


def _reserve(
    services: Services, task: str | None, ask: Ask, wishes: Wishes, sizes: Sequence[int]
) -> list[Reservation]:
    """A place in the queue for each sequence of each prompt. Raises InvalidInput, QueueFull, ..."""
    rows = wishes.samplings[0].rows
    each, allowed = rows * len(wishes.samplings), services.settings.max_queued_requests
    if each * len(sizes) > allowed:
        raise InvalidInput(
            f"{ask.names.prompts}: {len(sizes)} prompts with {each} answers or beams each make "
            f"{each * len(sizes)} rows; at most {allowed} may wait here: ask for fewer at once"
        )
    limit = ask.truncate or services.limits.max_source_tokens
    # A token takes at least a byte, and longer prompts are cut or refused.
    others = [0] * (len(wishes.samplings) - 1)
    upper = [tokens for size in sizes for tokens in (min(limit, size + 1), *others)]
    return services.loop.admission.reserve(task, upper, rows=rows)


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


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is wanted of each prompt: the sequences to compute, and how many of them to answer with.

    A beam search is one sequence, which has as many answers itself. So are choices; what they are
    is not known yet.
    """

    samplings: tuple[Sampling, ...]
    answers: int = 1


def make_wishes(
    ask: Ask, manifest: Manifest | None, limits: EngineLimits, *, max_beams: int
) -> Wishes:
    """Merge what was asked with the defaults; a random seed is chosen where none was given.

    Raises InvalidInput for contradictions, for more tokens than the server generates, and for a
    default that would count and that no request may ask for. A manifest's max_new_tokens over the
    server's limit means the limit: no request asked for it.
    """
    if ask.choices is not None:
        check_choices(ask, limits)
        return Wishes((Sampling(max_new_tokens=1, logprobs=ask.logprobs),))
    defaults: Mapping[str, Any] = {} if manifest is None else manifest.generation
    asked = ask.parameters
    merged = {**defaults, **asked}
    has_beams = merged.get("num_beams", 1) > 1
    drawn = asked if has_beams else merged
    samples = asked.get("do_sample", any(name in drawn for name in _SAMPLERS))
    ignored = () if samples else _SAMPLERS
    if not has_beams:
        ignored = (*ignored, *_OF_BEAMS)
    _check_asked(ask, limits)
    counting = {n: v for n, v in defaults.items() if n not in asked and n not in ignored}
    _check_defaults(ask.names, counting)
    best_of, answers = _check_answers(ask, merged, has_beams=has_beams, samples=samples)
    max_new_tokens = min(merged.get("max_new_tokens", DEFAULT_NEW_TOKENS), limits.max_target_tokens)
    min_new_tokens = merged.get("min_new_tokens", 0)
    if "min_new_tokens" not in asked:
        min_new_tokens = min(min_new_tokens, max_new_tokens)
    if min_new_tokens > max_new_tokens:
        raise InvalidInput(
            f"{ask.names.parameter('min_new_tokens')}: {min_new_tokens} is more than "
            f"{ask.names.plain('max_new_tokens')}, {max_new_tokens}"
        )
    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        mode="sample" if samples else "greedy",
        temperature=merged.get("temperature", 1.0) if samples else 1.0,
        top_k=merged.get("top_k") if samples else None,
        top_p=merged.get("top_p") if samples else None,
        repetition_penalty=merged.get("repetition_penalty", 1.0),
        no_repeat_ngram_size=merged.get("no_repeat_ngram_size", 0),
        beams=_beams(ask, merged, answers, max_beams) if has_beams else None,
        seed=_seed(asked) if samples else 0,
        stop=tuple(merged.get("stop", ())),
        logprobs="chosen" if best_of > 1 else ask.logprobs,  # the best are found by them
    )
    # Each answer can be asked for again by its own seed.
    seeds = ((sampling.seed + number) % (MAX_SEED + 1) for number in range(best_of))
    return Wishes(tuple(replace(sampling, seed=seed) for seed in seeds), answers)


def _beams(ask: Ask, merged: Mapping[str, Any], answers: int, max_beams: int) -> Beams:
    width, plain = merged["num_beams"], ask.names.plain
    if width > max_beams:
        whose = "" if "num_beams" in ask.parameters else ", the adapter's own default,"
        why = f"{width}{whose} is more than this server has rows for, {max_beams}"
        _refuse(ask, "num_beams", why)
    if merged.get("stop"):
        off = f"set it to [], or {plain('num_beams')} to 1"
        _refuse(ask, "stop", f"a beam search cannot end at a text; {off}")
    return Beams(
        width,
        float(merged.get("length_penalty", 1.0)),
        merged.get("early_stopping", False),
        answers,
    )


def _check_answers(
    ask: Ask, merged: Mapping[str, Any], *, has_beams: bool, samples: bool
) -> tuple[int, int]:
    """How many sequences are computed for each prompt, and with how many it is answered."""
    asked, plain = ask.parameters, ask.names.plain
    width = merged.get("num_beams", 1)
    count = "n" if "n" in asked else "num_return_sequences"  # two names of one number
    best_of = asked.get("best_of", asked.get(count, 1))
    answers = asked.get(count, best_of)
    if asked.get("num_return_sequences", answers) != answers:
        _refuse(ask, "n", f"{plain('num_return_sequences')} is another name of it, and differs")
    several = "num_beams" if has_beams else "best_of" if "best_of" in asked else count
    if ask.streamed == "one" and (has_beams or best_of > 1):
        _refuse(ask, several, "a stream shows the tokens of one answer as they come; set it to 1")
    if ask.streamed == "several" and (has_beams or best_of > answers):
        _refuse(ask, several, "a stream shows tokens as they come, before the best are known")
    if has_beams:
        if samples:
            name = next((n for n in ("do_sample", *_SAMPLERS) if n in asked), "do_sample")
            why = f"beams draw nothing; leave it out, or set {plain('num_beams')} to 1"
            _refuse(ask, name, why)
        _refuse_any(ask, ("best_of", "seed"), f"has no effect with {plain('num_beams')} over 1")
        if answers > width:
            _refuse(ask, count, f"{answers} is more than {plain('num_beams')}, {width}")
        return 1, answers
    _refuse_any(ask, _OF_BEAMS[1:], f"has no effect without {plain('num_beams')} over 1")
    if best_of > 1 and not samples:
        ways = f"{ask.names.sampled}, or set {plain('num_beams')}"
        _refuse(ask, several, f"all would be the same; {ways}")
    if answers > best_of:
        _refuse(ask, count, f"{answers} is more than {plain('best_of')}, {best_of}")
    return best_of, answers


def _refuse(ask: Ask, name: str, why: str) -> NoReturn:
    raise InvalidInput(f"{ask.names.parameter(name)}: {why}")


def _refuse_any(ask: Ask, names: Iterable[str], why: str) -> None:
    for name in names:
        if name in ask.parameters:
            _refuse(ask, name, why)


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


def _seed(asked: Mapping[str, Any]) -> int:
    return int(asked["seed"]) if "seed" in asked else secrets.randbelow(_RANDOM_SEEDS)
