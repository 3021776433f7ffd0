"""The native CPU path as a runner: turns sequences into the step that the tapes replay."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Rows
from dataclasses import replace

import torch
from torch import Tensor

from jumplora_adapters import network
from jumplora_adapters.architecture import Architecture
from jumplora_adapters.format import Adapter
from jumplora_server.core import Encoding, EngineLimits, Pass, RowCopy, Sequence, StepOutput
from jumplora_server.engine.native.arrangement import Arrangement
from jumplora_server.engine.native.forms import (
    NativeAdapter,
    TrunkForm,
    pack_native,
    with_table,
)
from jumplora_server.engine.native.model import NATIVE_MODELS
from jumplora_server.engine.native.nodes import NodeArrays, Nodes
from jumplora_server.engine.native.sampling import Samplings
from jumplora_server.engine.native.step import prepare
from jumplora_server.engine.native.tape import Tape
from jumplora_server.engine.native.weights import pack_weights, packed_bytes
from jumplora_server.engine.native.work import Lineage, encode_work
from jumplora_server.engine.sampling import step_output
from jumplora_server.engine.trunk import fold
from jumplora_server.engine.weights import StoredTensors

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
        library: ctypes.CDLL,
    ) -> None:
        """`library`: the kernels that compute."""
        self._library = library
        self._start = start_token_id
        self._dtype = dtype
        self._weights = weights  # kept for what is folded later: it holds open files, no tensors
        self._sites = network.sites(config)
        self._tokens = max(ENCODE_TOKENS, limits.max_source_tokens)
        self._model = NATIVE_MODELS[config.family](
            config,
            weights,
            library=library,
            end_token_ids=limits.end_token_ids,
            dtype=dtype,
            tokens=self._tokens,
            rows=limits.max_rows,
            nodes=limits.max_nodes,
            max_source=limits.max_source_tokens,
            max_target=limits.max_target_tokens,
        )
        self._samplings = Samplings(self._model.fed, start_token_id, len(limits.end_token_ids))
        self._inner = torch.empty(0)
        self._arranged: Arrangement | None = None  # the last step's
        # Where kernels write what they found. A slice of an array costs a tenth of a tensor's.
        chosen = (self._model.highest, self._model.best, self._model.logprobs)
        self._found = [tensor.numpy() for tensor in chosen]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the backbone as it is resident."""
        return self._model.weight_bytes

    def pack(self, adapter: Adapter) -> NativeAdapter:
        """Bring an adapter into the kernels' forms; any thread."""
        return pack_native(adapter, self._model.sites, self._library)

    @property
    def can_fold(self) -> bool:
        """Whether it takes trunks."""
        return True

    def fold(self, adapters: Rows[Adapter]) -> NativeAdapter:
        """Merge a lineage's first versions into a trunk; any thread."""
        trunk = fold(
            adapters,
            self._weights,
            self._sites,
            lambda merged: TrunkForm(pack_weights([merged], self._dtype)),
        )
        return with_table(trunk, self._model.sites)

    def trunk_bytes(self, names: Iterable[str]) -> int:
        """What a trunk of these sites takes, without making it."""
        return sum(packed_bytes(*self._sites[name].shape, self._dtype) for name in {*names})

    def encode(self, encodings: Rows[Encoding], lineages: Rows[Lineage]) -> None:
        """Write each prompt's keys and values into its source place."""
        # Neighbours of one lineage share blocks, and those of one length are computed together.
        pairs = sorted(
            zip(encodings, lineages, strict=True), key=lambda p: (p[0].slots, len(p[0].prompt))
        )
        for portion in _portions(pairs, self._tokens):
            prompts = [encoding.prompt for encoding, _ in portion]
            starts = list(itertools.accumulate(map(len, prompts), initial=0))
            spans = itertools.pairwise(starts)
            work = encode_work(spans, [slots for _, slots in portion], len(self._model.sites))
            prepared = prepare(
                tokens=[*itertools.chain(*prompts)],
                lengths=[*map(len, prompts)],
                starts=starts[:-1],
                source_places=[encoding.place for encoding, _ in portion],
                work=work,
                inner=self._room(work.inner),
            )
            self._model.encode(prepared.step)

    def decode(
        self,
        sequences: Rows[Sequence],
        lineages: Rows[Lineage],
        passes: Rows[Pass] = (),
        lineages_of_passes: Rows[Lineage] = (),
    ) -> StepOutput:
        """Choose each sequence's next token, and read off what the nodes of passes lead to."""
        nodes = self._nodes(passes, lineages_of_passes, first=len(sequences))
        arranged = self._arrange([*lineages, *nodes.lineages] if nodes else lineages)
        places = arranged.places[: len(sequences)]
        read = self._decode(sequences, nodes, arranged)
        highest, tokens, logprobs = (found[: len(arranged.order)].tolist() for found in self._found)
        return replace(
            step_output(
                sequences,
                [math.isfinite(highest[n]) for n in places],
                [tokens[n] for n in places],
                [logprobs[n] for n in places],
                self._model.candidates.read(sequences, places),
            ),
            passes=read,
        )

    def logits(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> Tensor:
        """Of each sequence's next token [n, vocabulary]; valid until the next decode."""
        arranged = self._arrange(lineages)
        self._decode(sequences, None, arranged)
        return self._model.logits[: len(sequences)][arranged.places]

    def _nodes(self, passes: Rows[Pass], lineages: Rows[Lineage], *, first: int) -> Nodes | None:
        if not passes:
            return None
        return Nodes.of(passes, lineages, first=first, start_token_id=self._start)

    def _arrange(self, lineages: Rows[Lineage]) -> Arrangement:
        if self._arranged is None or not self._arranged.holds(lineages):
            self._arranged = Arrangement.of(lineages, len(self._model.sites))
        return self._arranged

    def _decode(
        self, sequences: Rows[Sequence], nodes: Nodes | None, arranged: Arrangement
    ) -> tuple[tuple[tuple[float, ...], ...], ...]:
        """Compute a step; returns what the nodes lead to."""
        order = arranged.order
        tokens = [s.output[-1] if s.output else self._start for s in sequences]
        encodings = [sequence.encoding for sequence in sequences]
        rows = [sequence.row for sequence in sequences]
        positions = [len(sequence.output) for sequence in sequences]
        samplings = self._samplings.of(sequences)
        arrays: NodeArrays | None = None
        if nodes is not None:
            tokens += nodes.tokens
            encodings += nodes.encodings
            rows += [-1] * len(nodes.tokens)  # nothing is written there
            positions += [len(path) - 1 for path in nodes.paths]
            samplings += [None] * len(nodes.tokens)
            arrays = nodes.arrays(order, arranged.places)
        work = arranged.work
        prepared = prepare(
            tokens=[tokens[n] for n in order],
            lengths=[len(encodings[n].prompt) for n in order],
            source_places=[encodings[n].place for n in order],
            target_rows=[rows[n] for n in order],
            positions=[positions[n] for n in order],
            work=work,
            inner=self._room(work.inner),
            samplings=[samplings[n] for n in order],
            nodes=arrays,
        )
        self._model.decode(prepared.step)
        if nodes is None or arrays is None:
            return ()
        return nodes.read(arrays, arranged.places)

    def copy(self, copies: Rows[RowCopy]) -> None:
        """Copy what rows of the target cache hold."""
        prepared = prepare(
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

    def _room(self, numbers: int) -> Tensor | None:
        """For what a step's low-rank deltas compute on their way, kept for the next step.

        A token's part of it is a small part of what the factors take themselves.
        """
        if numbers > self._inner.numel():
            self._inner = torch.empty(numbers)
        return self._inner if numbers else None


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
