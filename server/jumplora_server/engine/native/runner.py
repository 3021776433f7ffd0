"""The native CPU path as a runner: turns sequences into the step that the tapes replay."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture
from jumplora_adapters.format import Adapter
from jumplora_server.core import Encoding, EngineLimits, RowCopy, Sequence, StepOutput
from jumplora_server.engine.native.forms import NativeAdapter, pack_native
from jumplora_server.engine.native.layout import LANES, MAX_LANES, Block, Step
from jumplora_server.engine.native.model import NATIVE_MODELS
from jumplora_server.engine.native.sampling import Samplings
from jumplora_server.engine.native.tape import Tape
from jumplora_server.engine.sampling import step_output
from jumplora_server.engine.weights import StoredTensors

Lineage = tuple[NativeAdapter, ...]

# Prompts are encoded in portions of about this many tokens: activations stay near the processor,
# and the buffers stay small.
ENCODE_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step and the arrays that it points into: hold it until the step was computed."""

    step: Step
    arrays: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """Which deltas the rows of a step add."""

    blocks: Rows[Block] = ()
    tables: Rows[int] = ()  # addresses of slots, one lineage after another
    targeted: bytes = b""
    inner: int = 0  # numbers of x A^T of the low-rank ones, of the operation that has most


class NativeRunner:
    """Encodes prompts and decodes one token of many rows with the compiled kernels."""

    def __init__(
        self,
        config: Architecture,
        weights: StoredTensors,
        *,
        start_token_id: int,
        dtype: str,
        limits: EngineLimits,
    ) -> None:
        """Raises NativeUnavailable where the kernels do not run."""
        self._start = start_token_id
        self._tokens = max(ENCODE_TOKENS, limits.max_source_tokens)
        self._model = NATIVE_MODELS[config.family](
            config,
            weights,
            end_token_ids=limits.end_token_ids,
            dtype=dtype,
            tokens=self._tokens,
            rows=limits.max_rows,
            max_source=limits.max_source_tokens,
            max_target=limits.max_target_tokens,
        )
        self._samplings = Samplings(self._model.fed, start_token_id, len(limits.end_token_ids))
        self._inner = torch.empty(0)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the backbone as it is resident."""
        return self._model.weight_bytes

    def pack(self, adapter: Adapter) -> NativeAdapter:
        """Bring an adapter into the kernels' forms; any thread."""
        return pack_native(adapter, self._model.sites)

    @property
    def can_fold(self) -> bool:
        """Not yet."""
        return False

    def fold(self, adapters: Rows[Adapter]) -> NativeAdapter:
        """No kernel reads a trunk yet."""
        raise NotImplementedError("the native kernels have no trunks yet; kernels torch has")

    def trunk_bytes(self, names: Iterable[str]) -> int:
        """No kernel reads a trunk yet."""
        raise NotImplementedError("the native kernels have no trunks yet; kernels torch has")

    def encode(self, encodings: Rows[Encoding], lineages: Rows[Lineage]) -> None:
        """Write each prompt's keys and values into its source place."""
        # Neighbours of one lineage share blocks, and those of one length are computed together.
        pairs = sorted(
            zip(encodings, lineages, strict=True), key=lambda p: (p[0].slots, len(p[0].prompt))
        )
        for portion in _portions(pairs, self._tokens):
            prompts = [encoding.prompt for encoding, _ in portion]
            starts = list(itertools.accumulate(map(len, prompts), initial=0))
            work = self._work([*itertools.pairwise(starts)], [slots for _, slots in portion])
            prepared = _prepare(
                tokens=[*itertools.chain(*prompts)],
                lengths=[*map(len, prompts)],
                starts=starts[:-1],
                source_places=[encoding.place for encoding, _ in portion],
                work=work,
                inner=self._room(work.inner),
            )
            self._model.encode(prepared.step)

    def decode(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> StepOutput:
        """Choose each sequence's next token."""
        self._decode(sequences, lineages)
        highest, tokens, logprobs = (
            found[: len(sequences)].tolist()
            for found in (self._model.highest, self._model.best, self._model.logprobs)
        )
        candidates = self._model.candidates.read(sequences)
        return step_output(sequences, [*map(math.isfinite, highest)], tokens, logprobs, candidates)

    def logits(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> Tensor:
        """Of each sequence's next token [n, vocabulary]; valid until the next decode."""
        self._decode(sequences, lineages)
        return self._model.logits[: len(sequences)]

    def _decode(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> None:
        work = self._work([(i, i + 1) for i in range(len(sequences))], lineages)
        prepared = _prepare(
            tokens=[s.output[-1] if s.output else self._start for s in sequences],
            lengths=[len(sequence.encoding.prompt) for sequence in sequences],
            source_places=[sequence.encoding.place for sequence in sequences],
            target_rows=[sequence.row for sequence in sequences],
            positions=[len(sequence.output) for sequence in sequences],
            work=work,
            inner=self._room(work.inner),
            samplings=self._samplings.of(sequences),
        )
        self._model.decode(prepared.step)

    def copy(self, copies: Rows[RowCopy]) -> None:
        """Copy what rows of the target cache hold."""
        prepared = _prepare(
            tokens=[0] * len(copies),
            lengths=[copy.same for copy in copies],
            source_places=[copy.source for copy in copies],
            target_rows=[copy.row for copy in copies],
            positions=[copy.tokens for copy in copies],
        )
        self._model.copy(prepared.step)
        for copy in copies:
            self._samplings.forget(copy.row)

    @property
    def sites(self) -> Mapping[str, int]:
        """Every linear layer's number in the tapes, ascending."""
        return self._model.sites

    @property
    def tapes(self) -> dict[str, Tape]:
        """The tapes of encode and decode, to time their operations."""
        return {"encode": self._model.encoding, "decode": self._model.decoding}

    def clear_row(self, row: int) -> None:
        """Nothing to do: what kernels read past a row's own keys is masked away."""

    def clear_place(self, place: int) -> None:
        """Nothing to do: what kernels read past a prompt's own keys is masked away."""

    def _work(self, spans: Rows[tuple[int, int]], lineages: Rows[Lineage]) -> Work:
        """Cut neighbouring rows of one lineage into blocks; rows of the bare backbone are in none.

        Args:
            spans: of each lineage, its rows of activations [start, stop).
        """
        blocks: list[Block] = []
        tables: list[int] = []
        targeted = 0
        lane = inner = 0
        addresses = [[slot.address for slot in lineage] for lineage in lineages]
        for _, group in itertools.groupby(
            zip(addresses, spans, lineages, strict=True), key=lambda member: member[0]
        ):
            members = [*group]
            lineage, (start, _), slots = members[0]
            stop = members[-1][1][1]
            if not lineage:
                continue
            for row in range(start, stop, MAX_LANES):
                rows = min(MAX_LANES, stop - row)
                blocks.append(Block(row, rows, lane, len(tables), len(lineage), inner))
                lanes = -(-rows // LANES) * LANES
                lane += lanes
                inner += lanes * sum(slot.inner for slot in slots)
            tables.extend(lineage)
        for slot in {id(slot): slot for lineage in lineages for slot in lineage}.values():
            targeted |= slot.targeted
        sites = targeted.to_bytes(-(-len(self._model.sites) // 8), "little")
        return Work(blocks, tables, sites, inner)

    def _room(self, numbers: int) -> Tensor | None:
        """For what a step's low-rank deltas compute on their way, kept for the next step.

        A token's part of it is a small part of what the factors take themselves.
        """
        if numbers > self._inner.numel():
            self._inner = torch.empty(numbers)
        return self._inner if numbers else None


def _prepare(
    *,
    tokens: Rows[int],
    lengths: Rows[int],
    source_places: Rows[int],
    starts: Rows[int] = (),
    target_rows: Rows[int] = (),
    positions: Rows[int] = (),
    work: Work | None = None,
    inner: Tensor | None = None,
    samplings: Rows[int | None] = (),
) -> Prepared:
    """The step of these numbers; layout.Step says what they are."""
    work = work or Work()
    numbers = [
        (ctypes.c_int64 * len(values))(*values)
        for values in (starts, lengths, source_places, target_rows, positions)
    ]
    given = (ctypes.c_int32 * len(tokens))(*tokens)
    blocks = (Block * len(work.blocks))(*work.blocks)
    tables = (ctypes.c_void_p * len(work.tables))(*work.tables)
    asked = (ctypes.c_void_p * len(samplings))(*samplings) if any(samplings) else None
    step = Step(
        len(tokens),
        len(lengths),
        ctypes.addressof(given),
        *map(ctypes.addressof, numbers),
        len(work.blocks),
        ctypes.addressof(blocks),
        ctypes.addressof(tables),
        work.targeted,
        None if inner is None else inner.data_ptr(),
        None if asked is None else ctypes.addressof(asked),
    )
    return Prepared(step, (given, *numbers, blocks, tables, inner, asked))


def _portions(
    pairs: Rows[tuple[Encoding, Lineage]], most: int
) -> Iterator[list[tuple[Encoding, Lineage]]]:
    """Cut encodings into groups whose prompts have at most `most` tokens together."""
    portion: list[tuple[Encoding, Lineage]] = []
    tokens = 0
    for pair in pairs:
        length = len(pair[0].prompt)
        if portion and tokens + length > most:
            yield portion
            portion, tokens = [], 0
        portion.append(pair)
        tokens += length
    if portion:
        yield portion
