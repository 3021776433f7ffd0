"""The native CPU path as a runner: turns sequences into the step that the tapes replay."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from torch import Tensor

from jumplora_adapters.architecture import Architecture
from jumplora_adapters.format import Adapter
from jumplora_server.core import EngineLimits, Sequence, StepOutput
from jumplora_server.engine.native.forms import NativeAdapter, pack_native
from jumplora_server.engine.native.layout import LANES, MAX_LANES, Block, Step
from jumplora_server.engine.native.sampling import Samplings
from jumplora_server.engine.native.t5 import NativeT5
from jumplora_server.engine.native.tape import Tape
from jumplora_server.engine.sampling import step_output
from jumplora_server.engine.weights import StoredTensors

Lineage = tuple[NativeAdapter, ...]
Pair = tuple[Sequence, Lineage]

# Prompts are encoded in portions of about this many tokens: activations stay near the processor,
# and the buffers stay small.
ENCODE_TOKENS = 1024


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
        self._model = NativeT5(
            config,
            weights,
            end_token_ids=limits.end_token_ids,
            dtype=dtype,
            tokens=self._tokens,
            rows=limits.max_rows,
            max_source=limits.max_source_tokens,
            max_target=limits.max_target_tokens,
        )
        self._samplings = Samplings(limits.max_rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the backbone as it is resident."""
        return self._model.weight_bytes

    def pack(self, adapter: Adapter) -> NativeAdapter:
        """Bring an adapter into the kernels' forms; any thread."""
        return pack_native(adapter, self._model.modules)

    def encode(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> None:
        """Encode each sequence's prompt into its row's cross-attention cache."""
        # Neighbours of one lineage share blocks, and those of one length are computed together.
        pairs = sorted(
            zip(sequences, lineages, strict=True), key=lambda p: (p[0].slots, len(p[0].prompt))
        )
        for portion in _portions(pairs, self._tokens):
            tokens = [token for sequence, _ in portion for token in sequence.prompt]
            starts = list(itertools.accumulate((len(s.prompt) for s, _ in portion), initial=0))
            spans = [*itertools.pairwise(starts)]
            prepared = _make_step(portion, tokens, spans, starts=starts[:-1])
            self._model.encode(prepared.step)

    def decode(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> StepOutput:
        """Choose each sequence's next token."""
        self._decode(sequences, lineages)
        highest, tokens, logprobs = (
            found[: len(sequences)].tolist()
            for found in (self._model.highest, self._model.best, self._model.logprobs)
        )
        return step_output(sequences, [*map(math.isfinite, highest)], tokens, logprobs)

    def logits(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> Tensor:
        """Of each sequence's next token [n, vocabulary]; valid until the next decode."""
        self._decode(sequences, lineages)
        return self._model.logits[: len(sequences)]

    def _decode(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> None:
        pairs = list(zip(sequences, lineages, strict=True))
        tokens = [s.output[-1] if s.output else self._start for s in sequences]
        spans = [(i, i + 1) for i in range(len(pairs))]
        positions = [len(sequence.output) for sequence in sequences]
        samplings = self._samplings.of(sequences)
        prepared = _make_step(pairs, tokens, spans, positions=positions, samplings=samplings)
        self._model.decode(prepared.step)

    @property
    def tapes(self) -> dict[str, Tape]:
        """The tapes of encode and decode, to time their operations."""
        return {"encode": self._model.encoding, "decode": self._model.decoding}

    def clear_row(self, row: int) -> None:
        """Nothing to do: what kernels read past a row's own keys is masked away."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step and the arrays that it points into: hold it until the step was computed."""

    step: Step
    arrays: tuple[object, ...]


def _make_step(
    pairs: Rows[Pair],
    tokens: Rows[int],
    spans: Rows[tuple[int, int]],
    *,
    starts: Rows[int] = (),
    positions: Rows[int] = (),
    samplings: Rows[int | None] = (),
) -> Prepared:
    """The step of these sequences, whose activations are the rows [start, stop) of `spans`."""
    blocks, tables = _blocks(spans, [lineage for _, lineage in pairs])
    arrays = (
        (ctypes.c_int32 * len(tokens))(*tokens),
        (ctypes.c_int64 * len(starts))(*starts),
        (ctypes.c_int64 * len(pairs))(*(len(sequence.prompt) for sequence, _ in pairs)),
        (ctypes.c_int64 * len(pairs))(*(sequence.row for sequence, _ in pairs)),
        (ctypes.c_int64 * len(positions))(*positions),
        (Block * len(blocks))(*blocks),
        (ctypes.c_void_p * len(tables))(*tables),
        (ctypes.c_void_p * len(samplings))(*samplings),
    )
    addresses = [ctypes.addressof(array) for array in arrays]
    step = Step(len(tokens), len(pairs), *addresses[:5], len(blocks), *addresses[5:])
    if not any(samplings):
        step.samplings = None
    return Prepared(step, arrays)


def _blocks(spans: Rows[tuple[int, int]], lineages: Rows[Lineage]) -> tuple[list[Block], list[int]]:
    """Cut neighbouring rows of one lineage into blocks; rows of the bare backbone are in none."""
    blocks: list[Block] = []
    tables: list[int] = []
    lane = 0
    addresses = [[slot.address for slot in lineage] for lineage in lineages]
    for lineage, group in itertools.groupby(
        zip(spans, addresses, strict=True), key=lambda pair: pair[1]
    ):
        members = [span for span, _ in group]
        if not lineage:
            continue
        for row in range(members[0][0], members[-1][1], MAX_LANES):
            rows = min(MAX_LANES, members[-1][1] - row)
            blocks.append(Block(row, rows, lane, len(tables), len(lineage)))
            lane += -(-rows // LANES) * LANES
        tables.extend(lineage)
    return blocks, tables


def _portions(pairs: Rows[Pair], most: int) -> Iterator[list[Pair]]:
    """Cut sequences into groups whose prompts have at most `most` tokens together."""
    portion: list[Pair] = []
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
