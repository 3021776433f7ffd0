"""The forward pass in torch: any device and dtype, and the reference of the native CPU path.

Turns encodings and sequences into the tensors that a model wants, and owns the caches.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Rows
from dataclasses import replace

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture
from jumplora_adapters.format import Adapter
from jumplora_adapters.network import sites
from jumplora_server.core import Encoding, EngineLimits, Pass, RowCopy, Sequence, StepOutput
from jumplora_server.engine.attention import group_prompts
from jumplora_server.engine.bank import PackedAdapter, packed
from jumplora_server.engine.cache import Caches, round_up
from jumplora_server.engine.delta import DeltaForm, make_form, make_plan
from jumplora_server.engine.linear import Plan, linear_bytes, make_linear, min_rows
from jumplora_server.engine.memory import trim_memory
from jumplora_server.engine.models.model import MODELS, Model
from jumplora_server.engine.passes import fed_tokens, group_nodes, read_edges
from jumplora_server.engine.sampling import Chooser, to_device
from jumplora_server.engine.trunk import TrunkForm, fold, refuse_to_fold
from jumplora_server.engine.weights import StoredTensors

Lineage = tuple[PackedAdapter[DeltaForm | TrunkForm], ...]


class TorchRunner:
    """Encodes prompts and decodes one token of many rows with torch's operators."""

    def __init__(
        self,
        config: Architecture,
        weights: StoredTensors,
        *,
        start_token_id: int,
        dtype: str,
        device: torch.device,
        limits: EngineLimits,
    ) -> None:
        self._device = device
        self._dtype = dtype
        # It holds open files and no tensors, and reads what is folded later.
        self._weights = weights if self.can_fold else None
        self._sites = sites(config)
        self._start = start_token_id
        self._min_rows = min_rows(dtype)
        self._model = self._make_model(config, weights, dtype, limits)
        self._caches = Caches.of(
            config, limits, min_rows=self._min_rows, dtype=self._model.dtype, device=device
        )
        self._chooser = Chooser(
            end_token_ids=limits.end_token_ids,
            start_token_id=start_token_id,
            rows=limits.max_rows,
            positions=limits.max_target_tokens,
            device=device,
        )

    def _make_model(
        self, config: Architecture, weights: StoredTensors, dtype: str, limits: EngineLimits
    ) -> Model:
        return MODELS[config.family](config, weights, dtype=dtype, device=self._device)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the backbone as it is resident."""
        return self._model.weight_bytes

    def pack(self, adapter: Adapter) -> PackedAdapter[DeltaForm]:
        """Bring an adapter into the forms this runner applies; any thread."""
        forms = packed(adapter, lambda delta: make_form(delta, self._device))
        if self._device.type == "cpu":
            trim_memory()  # holes between the forms, which the next pack would not use
        return forms

    @property
    def can_fold(self) -> bool:
        """Whether it takes trunks."""
        return self._device.type == "cpu" and self._dtype != "bfloat16"

    def fold(self, adapters: Rows[Adapter]) -> PackedAdapter[TrunkForm]:
        """Merge a lineage's first versions into a trunk; any thread."""
        if self._weights is None:
            refuse_to_fold(self._dtype, self._device)
        trunk = fold(
            adapters,
            self._weights,
            self._sites,
            lambda merged: TrunkForm(make_linear(merged, self._dtype, self._device)),
        )
        trim_memory()
        return trunk

    def trunk_bytes(self, names: Iterable[str]) -> int:
        """What a trunk of these sites takes, without making it."""
        if not self.can_fold:
            refuse_to_fold(self._dtype, self._device)
        return sum(linear_bytes(self._sites[name].shape, self._dtype) for name in {*names})

    def encode(self, encodings: Rows[Encoding], lineages: Rows[Lineage]) -> None:
        """Write each prompt's keys and values into its source place."""
        # Neighbours of one lineage make a plan of slices instead of index copies.
        pairs = sorted(
            zip(encodings, lineages, strict=True), key=lambda p: (p[0].slots, len(p[0].prompt))
        )
        tokens: list[int] = []
        spans: list[tuple[int, int]] = []
        for encoding, _ in pairs:
            spans.append((len(tokens), len(tokens) + len(encoding.prompt)))
            tokens.extend(encoding.prompt)
        places = [encoding.place for encoding, _ in pairs]
        self._caches.source.open(places, [stop - start for start, stop in spans])
        plan = self._encode_plan([lineage for _, lineage in pairs], spans)
        groups = group_prompts(spans, places, self._device)
        tokens.extend([self._start] * (self._min_rows - len(tokens)))
        given = to_device(torch.tensor(tokens), self._device)
        self._model.encode(given, groups, plan, self._caches.source)

    def _encode_plan(self, lineages: Rows[Lineage], spans: Rows[tuple[int, int]]) -> Plan:
        forms = [tuple(member.forms for member in lineage) for lineage in lineages]
        return make_plan(forms, spans, "encode", self._device)

    def decode(
        self,
        sequences: Rows[Sequence],
        lineages: Rows[Lineage],
        passes: Rows[Pass] = (),
        lineages_of_passes: Rows[Lineage] = (),
    ) -> StepOutput:
        """Choose each sequence's next token, and read off what the nodes of passes lead to."""
        output = StepOutput((), ())
        if sequences:
            output = self._chooser.choose(self.logits(sequences, lineages), sequences)
        if not passes:
            return output
        logits = self._logits_of_nodes(passes, lineages_of_passes)
        return replace(output, passes=read_edges(logits, passes))

    def _logits_of_nodes(self, passes: Rows[Pass], lineages: Rows[Lineage]) -> Tensor:
        """Of what follows each node [at least all nodes, vocabulary] float32."""
        tokens = fed_tokens(passes, self._start)
        tokens.extend([self._start] * (self._min_rows - len(tokens)))
        groups = group_nodes(passes, self._device)
        spans = [(group.start, group.stop) for group in groups]
        return self._model.decode_nodes(
            to_device(torch.tensor(tokens), self._device),
            groups,
            plan=self._node_plan(lineages, spans, rows=len(tokens)),
            caches=self._caches,
        )

    def _node_plan(
        self, lineages: Rows[Lineage], spans: Rows[tuple[int, int]], *, rows: int
    ) -> Plan:
        forms = [tuple(member.forms for member in lineage) for lineage in lineages]
        return make_plan(forms, spans, "decode", self._device)

    def logits(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> Tensor:
        """Of each sequence's next token [n, vocabulary] float32."""
        rows = [sequence.row for sequence in sequences]
        count = max(self._min_rows, max(rows) + 1)
        tokens, positions, places = [self._start] * count, [0] * count, [*range(count)]
        for row, sequence in zip(rows, sequences, strict=True):
            positions[row] = len(sequence.output)
            places[row] = sequence.encoding.place
            if sequence.output:
                tokens[row] = sequence.output[-1]
        forms = [tuple(member.forms for member in lineage) for lineage in lineages]
        plan = make_plan(forms, [(row, row + 1) for row in rows], "decode", self._device)
        live = to_device(torch.tensor(rows), self._device)
        logits = self._model.decode(
            to_device(torch.tensor(tokens), self._device),
            to_device(torch.tensor(positions), self._device),
            live,
            self._places(places),
            lengths=(
                round_up(max(len(sequence.encoding.prompt) for sequence in sequences)),
                round_up(max(positions) + 1),
            ),
            plan=plan,
            caches=self._caches,
        )
        return logits[live]

    def _places(self, places: list[int]) -> slice | Tensor:
        """Source places by row; one that is each row's own number needs no copy of the cache."""
        if places == [*range(len(places))]:
            return slice(len(places))
        return to_device(torch.tensor(places), self._device)

    def copy(self, copies: Rows[RowCopy]) -> None:
        """Copy what rows of the target cache hold."""
        self._caches.target.copy(copies)
        for copy in copies:
            self._chooser.forget(copy.row)

    def clear_row(self, row: int) -> None:
        """Forget a row's numbers, after it failed."""
        self._caches.target.clear(row)

    def clear_place(self, place: int) -> None:
        """Forget a source place's numbers, after a row that attended to it failed."""
        self._caches.source.clear(place)
