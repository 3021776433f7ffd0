"""The nouns that pass between the stages of a request.

`AdapterRef -> Encoding -> Sequence -> Batch -> StepOutput -> TokenEvent`. Only `Encoding` and
`Sequence` are mutable, and only the engine thread touches them after `loop.submit`. Nothing here
knows HTTP, tensors or queues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Literal, Protocol

from jumplora_adapters.manifest import Manifest
from jumplora_server.trie import Trie

InstructionSet = Literal["avx512", "avx2_vnni", "avx2", "neon"]
"""What a processor may have and native kernels are compiled for."""

Kernels = Literal["auto", "native", "torch", InstructionSet]
"""An operator's choice: the best native ones or those of one instruction set, torch, or either."""


class NoEmbedding(ValueError):
    """A prompt needs a token that the backbone's embedding has no row for."""

    def __init__(self, token_id: int, token: str | None, rows: int) -> None:
        super().__init__(f"token {token_id} has no row in the embedding, which has {rows}")
        self.token_id = token_id
        self.token = token
        self.rows = rows


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """One immutable version of one task's adapter.

    `lineage` lists the digests whose deltas a row applies, oldest ancestor first and `version`
    itself last; the sum runs in that order.
    """

    task: str
    version: str
    lineage: tuple[str, ...]


class FinishReason(StrEnum):
    """Why a sequence ended. Clients see the first four: TGI's names, and one for choices."""

    EOS_TOKEN = "eos_token"
    LENGTH = "length"
    STOP_SEQUENCE = "stop_sequence"
    ABSTAINED = "abstained"  # no sequence ends so; an answer of choices may
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    ERROR = "error"


Wanted = Literal["tokens", "end"]
"""What a client wants to hear of: every token as it comes, or the end alone."""

DEFAULT_NEW_TOKENS = 32
"""Where neither the request nor the adapter's manifest says how many."""


@dataclass(frozen=True, slots=True)
class Beams:
    """Beam search: the likeliest continuations of a prompt, followed together.

    The parameters are transformers': `width` is its num_beams, `answers` its num_return_sequences.
    A hypothesis of n tokens scores the sum of their log-probabilities / n ** length_penalty.
    """

    width: int  # at least 2
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    answers: int = 1  # at most `width`

    def candidates(self, end_tokens: int) -> int:
        """How many tokens of a row are looked at: enough that `width` of them end nothing."""
        return self.width * max(2, 1 + end_tokens)


@dataclass(frozen=True, slots=True)
class Choices:
    """Which of some options is how likely, in place of generated text.

    `temperature` divides log-probabilities before they are compared. Here it only decides which
    options are so unlikely that they are not looked at.
    """

    trie: Trie
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. All bounds are checked at the edge (api/schemas)."""

    max_new_tokens: int
    min_new_tokens: int = 0
    mode: Literal["greedy", "sample"] = "greedy"
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0  # 0: any may come again
    beams: Beams | None = None  # with "greedy" only, and without stop strings
    choices: Choices | None = None  # then nothing else counts
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: Literal["none", "chosen"] = "none"

    @property
    def rows(self) -> int:
        """How many rows a sequence needs at the same time."""
        return 1 if self.beams is None else self.beams.width

    @property
    def is_plain(self) -> bool:
        """Whether the token is the one with the highest logit, and nothing changes the logits.

        It is looked at for every row of every step.
        """
        return (
            self.mode == "greedy"
            and self.beams is None
            and self.choices is None
            and self.min_new_tokens == 0
            and self.repetition_penalty == 1.0
            and self.no_repeat_ngram_size == 0
        )


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall-clock seconds of one sequence, all measured with one monotonic clock.

    `first_token` runs from arrival to the first generated token; None when none was generated.
    `arrived` is when it came, on that clock.
    """

    queue: float
    encode: float
    decode: float
    total: float
    first_token: float | None
    arrived: float = 0.0


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. `text` is what became printable with it: "" inside a half character."""

    id: int
    text: str
    logprob: float | None
    special: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the continuations that a prompt got, and how likely it is.

    `score` is the sum of its tokens' log-probabilities / n ** length_penalty for n tokens; without
    beams the penalty is 1, so it is their mean. None where none were asked for.
    """

    tokens: tuple[Token, ...]
    text: str
    reason: FinishReason
    generated_tokens: int
    score: float | None
    seed: int | None = None  # of a sampled one


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a sequence: the whole text and what it took. `error` is set with ERROR only.

    Of a beam search `answers` are its best hypotheses, the best first, which `reason` and `text`
    are of; `generated_tokens` is the sum of their tokens.

    Of choices `options` has the natural log-probability of each, its end token included; None where
    it is too small to count. `generated_tokens` and `score` are the likeliest one's; there is no
    text, for texts of options are not known here.
    """

    reason: FinishReason
    text: str
    prompt_tokens: int
    generated_tokens: int
    timing: Timing
    error: Exception | None = None
    score: float | None = None
    answers: tuple[Answer, ...] = ()
    options: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One step's news of one sequence. Every submitted sequence gets exactly one with `finish`."""

    sequence_id: int
    token: Token | None
    finish: Finish | None


class Detokenizer(Protocol):
    """Turns one sequence's token ids into text incrementally (engine/tokenizer)."""

    def push(self, token_id: int) -> str:
        """Add a token; return the text that became final with it ("" inside a half character)."""

    def hold(self, token_id: int) -> None:
        """Add a token whose text is not wanted yet; it comes with the next push or flush."""

    def flush(self) -> str:
        """Return the text still held back, at the end of the sequence."""

    def is_special(self, token_id: int) -> bool:
        """Whether the token is a control token that has no text (pad, eos)."""

    def fresh(self) -> Detokenizer:
        """A new one of the kind, for another sequence."""


class NoText:
    """A detokenizer where only token ids or times are of interest."""

    def push(self, token_id: int) -> str:
        """Nothing."""
        return ""

    def hold(self, token_id: int) -> None:
        """Nothing."""

    def flush(self) -> str:
        """Nothing."""
        return ""

    def is_special(self, token_id: int) -> bool:
        """None is."""
        return False

    def fresh(self) -> NoText:
        """This one: it keeps nothing."""
        return self


@dataclass(slots=True, eq=False)
class Encoding:
    """One prompt as one version reads it: what all of its sequences attend to.

    The scheduler gives it a place in the source caches with the first of its sequences that gets a
    row, and takes the place back with the last one that ends.
    """

    ref: AdapterRef | None  # None: the bare backbone
    prompt: tuple[int, ...]  # source token ids, eos included
    # Written by the scheduler:
    slots: tuple[int, ...] = ()  # bank slots of ref.lineage, in its order
    place: int = -1  # in the source caches; -1 while it holds none
    sequences: int = 0  # that have not ended


@dataclass(slots=True, eq=False)
class Sequence:
    """One continuation of a prompt on its way to its text. Times are monotonic seconds."""

    id: int
    encoding: Encoding
    sampling: Sampling
    detokenizer: Detokenizer
    arrived: float
    deadline: float | None = None
    priority: Literal["normal", "low"] = "normal"
    wants: Wanted = "tokens"
    row: int = -1  # in the target caches, set by the scheduler; -1 while it holds none
    # Written by the engine thread as it goes:
    output: list[int] = field(default_factory=list)
    text: str = ""
    logprob: float = 0.0  # the sum of its tokens', where they are asked for
    cancelled: bool = False
    started: float | None = None
    encoded: float | None = None
    first_token: float | None = None


@dataclass(frozen=True, slots=True)
class RowCopy:
    """A row that continues where another one stands.

    `tokens` is how many tokens the other one was fed: those are copied in the target caches, but
    for the first `same`, which this row was fed, too. The sequence that takes the row has the same
    tokens as its output.
    """

    source: int
    row: int
    tokens: int
    same: int = 0


@dataclass(frozen=True, slots=True)
class Pass:
    """Nodes of the trie of a sequence with choices, which one step computes side by side.

    Each attends to the nodes on its path from node 0, which are all among them, and to the
    sequence's prompt. Nothing is written to the target caches.
    """

    sequence: Sequence
    trie: Trie
    nodes: tuple[int, ...]  # ascending, so node 0 first and parents before their children


@dataclass(frozen=True, slots=True)
class Batch:
    """What one engine step computes: copies, prompts to encode, one token for each of `decode`,
    the nodes of `passes`.

    Every encoding has its place and slots, every sequence its row and an encoding that is in
    `encode` or was in an earlier batch's. No row is copied to twice, or copied from and to. All
    passes together have at most as many nodes as the limits say.
    """

    encode: tuple[Encoding, ...]
    decode: tuple[Sequence, ...]
    copies: tuple[RowCopy, ...] = ()
    passes: tuple[Pass, ...] = ()

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """All that the step computes something for: those of `decode`, then those of `passes`."""
        return (*self.decode, *(each.sequence for each in self.passes))

    def is_empty(self) -> bool:
        """Whether there is nothing to compute."""
        return not (self.encode or self.decode or self.passes)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that a beam may continue with.

    `logprob` is the natural log-probability that counts in the search: what the model gives it,
    after penalties. It is finite.
    """

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The chosen token of each sequence of `Batch.decode`, in its order.

    `logprobs[i]` is the natural log-probability of the chosen token under the model's own
    (unmodified) distribution, or None where the sequence did not ask. `failed` holds the indices
    whose logits were not finite or left no token: those sequences fail alone, their token is -1.
    `encode_seconds` is the part of the step that went into `Batch.encode`.

    `candidates[i]` has the likeliest tokens of a row with beams, the likeliest first and of equals
    the lower id: as many as `Beams.candidates` says, or all that are allowed. Its token is the
    first of them. Other rows have none, and where no row has any the whole is empty.

    `passes[i]` has, for each node of `Batch.passes[i]`, the natural log-probability of each of its
    edges under the model's own distribution. It is empty where a node's logits were not finite.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    failed: tuple[int, ...] = ()
    encode_seconds: float = 0.0
    candidates: tuple[tuple[Candidate, ...], ...] = ()
    passes: tuple[tuple[tuple[float, ...], ...], ...] = ()


MAX_NODES = 64
"""Nodes of tries that one step computes: their logits take memory, and other rows wait for them."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The fixed sizes an engine was built with, and where its backbone ends an answer."""

    max_rows: int  # sequences that decode together; there are as many source places
    max_source_tokens: int
    max_target_tokens: int
    end_token_ids: tuple[int, ...]  # each ends an answer; empty where only the length does
    max_nodes: int = MAX_NODES  # of all passes of a step together


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Caps on what waits for a row; running sequences do not count.

    `task_share`, in (0, 1], is how much one task may hold of what the others leave free, once the
    part is taken off that is kept back; 1 keeps nothing back.
    """

    max_requests: int = 256
    max_tokens: int = 65_536
    task_share: float = 0.5

    def requests_of_a_task(self, others: int = 0) -> int:
        """How many places a task may hold while `others` are taken by other tasks; at least one."""
        return max(1, int(self.task_share * (self._shared(self.max_requests) - others)))

    def tokens_of_a_task(self, others: int = 0) -> int:
        """How many tokens more than one prompt may come to, while others hold `others`."""
        return max(0, int(self.task_share * (self._shared(self.max_tokens) - others)))

    def _shared(self, most: int) -> int:
        return most - int(most * (1 - self.task_share) / 2)


Role = Literal["current", "staged"]
"""What a version is for its task: the one that it serves, or the one that gets a share of it."""


class Lease:
    """The right to use one version, counted from routing to the last token.

    Residency gives one to its caller, and `EngineLoop.submit` takes a share of its own for each
    sequence; each releases its own. The version stays loadable until all are released.
    """

    __slots__ = ("_count", "_held", "_uncount", "is_drawn", "manifest", "ref", "role")

    def __init__(
        self,
        ref: AdapterRef | None,
        manifest: Manifest | None,
        count: Callable[[], None],
        uncount: Callable[[], None],
        role: Role | None = None,
        is_drawn: bool = False,
    ) -> None:
        """Take over one count that was already made; `count` makes another, `uncount` drops one.

        `is_drawn`: by a staged version's share it was drawn which version this is on.
        """
        self.ref = ref
        self.role = role
        self.is_drawn = is_drawn
        self.manifest = manifest
        self._count = count
        self._uncount = uncount
        self._held = [ref]

    @classmethod
    def base(cls) -> Lease:
        """A lease on the bare backbone, which is never unloaded."""
        return cls(None, None, _nothing, _nothing)

    @property
    def is_released(self) -> bool:
        """Whether `release` was called."""
        return not self._held

    def share(self) -> Lease:
        """Another lease on the same version, released on its own. This one must still be held."""
        assert self._held, "a released lease cannot be shared"
        self._count()
        return Lease(self.ref, self.manifest, self._count, self._uncount, self.role, self.is_drawn)

    def release(self) -> None:
        """Give the count back. Any thread, any number of times."""
        try:
            self._held.pop()  # atomic: only one of several callers succeeds
        except IndexError:
            return
        self._uncount()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _nothing() -> None:
    return None
