"""The forward pass in torch: any device and dtype, and the reference of the native CPU path.

Turns sequences into the tensors that `T5` wants, and owns the caches.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture
from jumplora_adapters.format import Adapter
from jumplora_server.core import EngineLimits, Sequence, StepOutput
from jumplora_server.engine.bank import PackedAdapter, packed
from jumplora_server.engine.cache import RowCache, round_up
from jumplora_server.engine.delta import DeltaForm, Plan, make_form, make_plan
from jumplora_server.engine.memory import trim_memory
from jumplora_server.engine.sampling import Chooser, to_device
from jumplora_server.engine.t5 import T5, min_rows
from jumplora_server.engine.weights import StoredTensors

Lineage = tuple[PackedAdapter[DeltaForm], ...]


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
        self._start = start_token_id
        self._min_rows = min_rows(dtype)
        self._model = self._make_model(config, weights, dtype, limits)
        self._cache = RowCache(
            config,
            rows=max(limits.max_rows, self._min_rows),
            max_source=limits.max_source_tokens,
            max_target=limits.max_target_tokens,
            dtype=self._model.dtype,
            device=device,
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
    ) -> T5:
        return T5(config, weights, dtype=dtype, device=self._device)

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

    def encode(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> None:
        """Encode each sequence's prompt into its row's cross-attention cache."""
        # Neighbours of one lineage make a plan of slices instead of index copies.
        pairs = sorted(
            zip(sequences, lineages, strict=True), key=lambda p: (p[0].slots, len(p[0].prompt))
        )
        tokens: list[int] = []
        spans: list[tuple[int, int]] = []
        for sequence, _ in pairs:
            spans.append((len(tokens), len(tokens) + len(sequence.prompt)))
            tokens.extend(sequence.prompt)
        rows = [sequence.row for sequence, _ in pairs]
        self._cache.open_rows(rows, [stop - start for start, stop in spans])
        plan = self._encode_plan([lineage for _, lineage in pairs], spans)
        groups = self._model.groups(spans, rows)
        tokens.extend([self._start] * (self._min_rows - len(tokens)))
        given = to_device(torch.tensor(tokens), self._device)
        self._model.encode(given, groups, plan, self._cache)

    def _encode_plan(self, lineages: Rows[Lineage], spans: Rows[tuple[int, int]]) -> Plan:
        forms = [tuple(member.forms for member in lineage) for lineage in lineages]
        return make_plan(forms, spans, "encode", self._device)

    def decode(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> StepOutput:
        """Choose each sequence's next token."""
        return self._chooser.choose(self.logits(sequences, lineages), sequences)

    def logits(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> Tensor:
        """Of each sequence's next token [n, vocabulary] float32."""
        rows = [sequence.row for sequence in sequences]
        count = max(self._min_rows, max(rows) + 1)
        tokens, positions = [self._start] * count, [0] * count
        for row, sequence in zip(rows, sequences, strict=True):
            positions[row] = len(sequence.output)
            if sequence.output:
                tokens[row] = sequence.output[-1]
        forms = [tuple(member.forms for member in lineage) for lineage in lineages]
        plan = make_plan(forms, [(row, row + 1) for row in rows], "decode", self._device)
        live = to_device(torch.tensor(rows), self._device)
        logits = self._model.decode(
            to_device(torch.tensor(tokens), self._device),
            to_device(torch.tensor(positions), self._device),
            live,
            lengths=(
                round_up(max(len(sequence.prompt) for sequence in sequences)),
                round_up(max(positions) + 1),
            ),
            plan=plan,
            cache=self._cache,
        )
        return logits[live]

    def clear_row(self, row: int) -> None:
        """Forget a row's numbers, after it failed."""
        self._cache.clear_row(row)
