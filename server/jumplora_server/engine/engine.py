"""The engine: one backbone, a bank of adapters, fixed cache rows, and one `step`.

Knows tensors; knows no queue, task or HTTP. `step` and `release` belong to the engine thread;
`pack`, `install` and `remove` may be called from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from jumplora_adapters.format import Adapter
from jumplora_server.core import Batch, EngineLimits, Sequence, StepOutput
from jumplora_server.engine.bank import Bank, PackedAdapter, pack
from jumplora_server.engine.cache import RowCache, round_up
from jumplora_server.engine.delta import make_plan
from jumplora_server.engine.sampling import Sampler
from jumplora_server.engine.t5 import T5, min_rows
from jumplora_server.engine.weights import read_config, read_weights


class Engine:
    """Computes batches of rows that each use the adapters of their own lineage, or none."""

    def __init__(
        self,
        folder: Path,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        max_rows: int = 16,
        max_source_tokens: int = 512,
        max_target_tokens: int = 128,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load a backbone.

        Args:
            folder: a local Hugging Face T5, T5 v1.1 / Flan-T5 or mT5 folder with safetensors.
            dtype: float32, bfloat16, or int8 (CPU only: int8 linears, the rest in float32).
            max_rows: sequences that decode together.

        Raises:
            CheckpointError: the folder is not servable.
            ValueError: dtype and device do not go together.
        """
        if dtype not in ("float32", "bfloat16", "int8"):
            raise ValueError(f"dtype {dtype!r} is unknown; allowed are float32, bfloat16, int8")
        if dtype == "int8" and device != "cpu":
            raise ValueError(f"dtype int8 runs on the CPU only, device is {device!r}")
        config = read_config(folder)
        self._clock = clock
        self.device = device
        self.dtype = dtype
        self.limits = EngineLimits(
            max_rows=max_rows,
            max_source_tokens=max_source_tokens,
            max_target_tokens=max_target_tokens,
            eos_token_id=config.eos_token_id,
        )
        self._device = torch.device(device)
        self._start = config.decoder_start_token_id
        self._min_rows = min_rows(dtype)
        self._model = T5(config, read_weights(folder, config), dtype=dtype, device=self._device)
        self._cache = RowCache(
            config,
            rows=max(max_rows, self._min_rows),
            max_source=max_source_tokens,
            max_target=max_target_tokens,
            dtype=self._model.dtype,
            device=self._device,
        )
        self._bank = Bank()
        self._sampler = Sampler(eos_token_id=config.eos_token_id, start_token_id=self._start)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the backbone as it is resident."""
        return self._model.weight_bytes

    # -- any thread

    def pack(self, adapter: Adapter) -> PackedAdapter:
        """Bring an adapter into the form the engine applies; CPU heavy, off the engine's path."""
        return pack(adapter, self._device)

    def install(self, packed: PackedAdapter) -> int:
        """Make a packed adapter addressable by the returned slot number."""
        return self._bank.install(packed)

    def remove(self, slot: int) -> None:
        """Forget a slot; only when no live sequence uses it."""
        self._bank.remove(slot)

    # -- the engine thread

    @torch.inference_mode()
    def step(self, batch: Batch) -> StepOutput:
        """Encode the batch's new prompts, then choose one token for each decoding sequence."""
        began = self._clock()
        if batch.encode:
            self._encode(batch.encode)
        encode_seconds = self._clock() - began
        if not batch.decode:
            return StepOutput((), (), (), encode_seconds)
        output = self._sampler.choose(self._decode(batch.decode), batch.decode)
        for index in output.failed:
            self._cache.clear_row(batch.decode[index].row)
        return replace(output, encode_seconds=encode_seconds)

    def release(self, sequence: Sequence) -> None:
        """Forget what is kept for a sequence that ended."""
        self._sampler.forget(sequence.id)

    def _encode(self, sequences: Rows[Sequence]) -> None:
        # Neighbours of one lineage make a plan of slices instead of index copies.
        sequences = sorted(sequences, key=lambda s: (s.slots, len(s.prompt)))
        tokens: list[int] = []
        spans: list[tuple[int, int]] = []
        for sequence in sequences:
            spans.append((len(tokens), len(tokens) + len(sequence.prompt)))
            tokens.extend(sequence.prompt)
            self._cache.open_row(sequence.row, len(sequence.prompt))
        lineages = [self._bank.forms(sequence.slots) for sequence in sequences]
        plan = make_plan(lineages, spans, "encode", self._device)
        groups = self._model.groups(spans, [sequence.row for sequence in sequences])
        tokens.extend([self._start] * (self._min_rows - len(tokens)))
        self._model.encode(torch.tensor(tokens, device=self._device), groups, plan, self._cache)

    def _decode(self, sequences: Rows[Sequence]) -> Tensor:
        """Logits [n, vocab] of the next token, one row a sequence."""
        rows = [sequence.row for sequence in sequences]
        count = max(self._min_rows, max(rows) + 1)
        tokens, positions = [self._start] * count, [0] * count
        for row, sequence in zip(rows, sequences, strict=True):
            positions[row] = len(sequence.output)
            if sequence.output:
                tokens[row] = sequence.output[-1]
        lineages = [self._bank.forms(sequence.slots) for sequence in sequences]
        plan = make_plan(lineages, [(row, row + 1) for row in rows], "decode", self._device)
        live = torch.tensor(rows, device=self._device)
        logits = self._model.decode(
            torch.tensor(tokens, device=self._device),
            torch.tensor(positions, device=self._device),
            live,
            lengths=(
                round_up(max(len(sequence.prompt) for sequence in sequences)),
                round_up(max(positions) + 1),
            ),
            plan=plan,
            cache=self._cache,
        )
        return logits[live]
