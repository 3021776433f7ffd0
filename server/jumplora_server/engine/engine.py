"""The engine: one backbone, a bank of adapters, caches of fixed size, and one `step`.

Knows tensors; knows no queue, task or HTTP. `step` belongs to the engine thread;
`pack`, `install` and `remove` may be called from any thread.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from jumplora_adapters.architecture import Family
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import Adapter
from jumplora_server.core import (
    Batch,
    Encoding,
    EngineLimits,
    InstructionSet,
    Kernels,
    Pass,
    RowCopy,
    Sequence,
    StepOutput,
)
from jumplora_server.engine.bank import Bank, PackedAdapter
from jumplora_server.engine.memory import lean_memory
from jumplora_server.engine.native.library import (
    NativeUnavailable,
    best_set,
    load_library,
)
from jumplora_server.engine.native.model import NATIVE_MODELS
from jumplora_server.engine.native.runner import NativeRunner
from jumplora_server.engine.torch_runner import TorchRunner
from jumplora_server.engine.warm_up import warm_up
from jumplora_server.engine.weights import StoredTensors

_log = logging.getLogger(__name__)


class Runner(Protocol):
    """The forward pass: what a lineage's rows compute, on one kind of hardware."""

    @property
    def weight_bytes(self) -> int: ...

    def pack(self, adapter: Adapter) -> PackedAdapter[Any]: ...

    @property
    def can_fold(self) -> bool: ...

    def fold(self, adapters: Rows[Adapter]) -> PackedAdapter[Any]:
        """Merge a lineage's first versions into the backbone's weights at their sites.

        Raises ValueError where it cannot, as `trunk_bytes` does.
        """

    def trunk_bytes(self, names: Iterable[str]) -> int: ...

    def encode(self, encodings: Rows[Encoding], lineages: Rows[tuple[Any, ...]]) -> None:
        """Write each prompt's keys and values into its source place."""

    def decode(
        self,
        sequences: Rows[Sequence],
        lineages: Rows[tuple[Any, ...]],
        passes: Rows[Pass] = (),
        lineages_of_passes: Rows[tuple[Any, ...]] = (),
    ) -> StepOutput:
        """A token for each sequence, and the log-probabilities of each pass."""

    def logits(self, sequences: Rows[Sequence], lineages: Rows[tuple[Any, ...]]) -> Tensor:
        """What a decode chooses from [n, vocabulary], to compare numbers."""

    def copy(self, copies: Rows[RowCopy]) -> None:
        """Copy what rows of the target caches hold."""

    def clear_row(self, row: int) -> None:
        """Forget a row's numbers, after it failed."""

    def clear_place(self, place: int) -> None:
        """Forget a source place's numbers, after a row that attended to it failed."""


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
        kernels: Kernels = "auto",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load a backbone.

        Args:
            folder: a local Hugging Face folder of the T5 family with safetensors.
            dtype: float32, bfloat16, or int8 (CPU only: int8 linears, the rest in float32).
            max_rows: sequences that decode together.
            kernels: native (compiled, float32 and int8 on the CPU), torch, auto: native where they
                run, or the instruction set of native ones.

        Raises:
            BackboneError: the folder is not servable.
            NativeUnavailable: native kernels are asked for and do not run here.
            ValueError: dtype, device and kernels do not go together.
        """
        if dtype not in ("float32", "bfloat16", "int8"):
            raise ValueError(f"dtype {dtype!r} is unknown; allowed are float32, bfloat16, int8")
        if dtype == "int8" and device != "cpu":
            raise ValueError(f"dtype int8 runs on the CPU only, device is {device!r}")
        # Kept since it was read for its fingerprint, so all of a server is of one reading.
        backbone = read_backbone(folder)
        config = backbone.architecture
        self._clock = clock
        self.device = device
        self.dtype = dtype
        self.vocab_size = config.vocab_size
        self.limits = EngineLimits(
            max_rows=max_rows,
            max_source_tokens=max_source_tokens,
            max_target_tokens=max_target_tokens,
            end_token_ids=backbone.generation.end_token_ids,
        )
        self.kernels = _choose_kernels(kernels, dtype, device, config.family)
        with lean_memory():
            self._runner = self._load(backbone, kernels)
        self._bank: Bank[Any] = Bank()
        self._spoiled: set[int] = set()  # source places to clear before another prompt

    def _load(self, backbone: Backbone, wanted: Kernels) -> Runner:
        config, start = backbone.architecture, backbone.generation.start_token_id
        weights = StoredTensors(backbone.checkpoint)
        if self.kernels != "torch":
            _log.info("native kernels for %s compute", self.kernels)
            return NativeRunner(
                config,
                weights,
                start_token_id=start,
                dtype=self.dtype,
                limits=self.limits,
                library=load_library(self.kernels),
            )
        device = torch.device(self.device)
        runner = choose_torch_runner(device, wanted, config.family)
        return runner(
            config,
            weights,
            start_token_id=start,
            dtype=self.dtype,
            device=device,
            limits=self.limits,
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of the backbone as it is resident."""
        return self._runner.weight_bytes

    @property
    def runner(self) -> Runner:
        """What computes, to measure it."""
        return self._runner

    def warm_up(self, most_seconds: float) -> int:
        """Compute small batches before the first request, so that it costs what the next ones do.

        Before any sequence is served: it uses their rows. Returns how many drills there was time
        for.
        """
        return warm_up(self.step, self.limits, self._clock, most_seconds=most_seconds)

    # -- any thread

    def pack(self, adapter: Adapter) -> PackedAdapter[Any]:
        """Bring an adapter into the form the engine applies; CPU heavy, off the engine's path."""
        return self._runner.pack(adapter)

    @property
    def can_fold(self) -> bool:
        """Whether it takes trunks: on the CPU, in float32 and int8."""
        return self._runner.can_fold

    def fold(self, adapters: Rows[Adapter]) -> PackedAdapter[Any]:
        """Merge a lineage's first versions, oldest first, into a trunk; CPU heavy, as `pack` is.

        A lineage's slots are then the trunk's and those of the later versions. A row takes the
        trunk's product in place of the backbone's at each site that one of `adapters` targets.

        Raises:
            ValueError: no adapter is given, or `can_fold` is False.
            BackboneError: the backbone's files cannot be read any more.
        """
        return self._runner.fold(adapters)

    def trunk_bytes(self, sites: Iterable[str]) -> int:
        """What a trunk takes whose versions target these sites (their names), before it is made.

        Raises:
            ValueError: `can_fold` is False.
            KeyError: a name is not that of a linear layer.
        """
        return self._runner.trunk_bytes(sites)

    def install(self, packed: PackedAdapter[Any]) -> int:
        """Make a packed adapter addressable by the returned slot number."""
        return self._bank.install(packed)

    def remove(self, slot: int) -> None:
        """Forget a slot; only when no live sequence uses it."""
        self._bank.remove(slot)

    # -- the engine thread

    @torch.inference_mode()
    def step(self, batch: Batch) -> StepOutput:
        """Copy rows, encode new prompts, then choose one token for each decoding sequence."""
        try:
            return self._step(batch)
        except Exception:  # what it wrote was not looked at, and may not be finite
            self._forget(batch.sequences)
            self._spoiled.update(encoding.place for encoding in batch.encode)
            raise

    def _step(self, batch: Batch) -> StepOutput:
        began = self._clock()
        if batch.copies:
            self._copy(batch.copies)
        if batch.encode:
            self._encode(batch.encode)
        encode_seconds = self._clock() - began
        if not batch.decode and not batch.passes:
            return StepOutput((), (), (), encode_seconds)
        for sequence in batch.decode:
            self._check(sequence.output)
        self._check_passes(batch.passes)
        output = self._runner.decode(
            batch.decode,
            [self._bank.lineage(sequence.encoding.slots) for sequence in batch.decode],
            batch.passes,
            [self._bank.lineage(each.sequence.encoding.slots) for each in batch.passes],
        )
        self._forget([batch.decode[index] for index in output.failed])
        self._forget(
            [
                each.sequence
                for each, found in zip(batch.passes, output.passes, strict=True)
                if not found
            ]
        )
        return replace(output, encode_seconds=encode_seconds)

    def _forget(self, sequences: Rows[Sequence]) -> None:
        for sequence in sequences:
            self._runner.clear_row(sequence.row)
            # Later: other sequences may still attend to it.
            self._spoiled.add(sequence.encoding.place)

    def _encode(self, encodings: Rows[Encoding]) -> None:
        for encoding in encodings:
            # Compiled kernels trust what they read, and on CUDA a bad index ends the process.
            if not 0 <= min(encoding.prompt) <= max(encoding.prompt) < self.vocab_size:
                raise IndexError(f"a prompt has tokens outside of 0 to {self.vocab_size - 1}")
            if len(encoding.prompt) > self.limits.max_source_tokens:
                raise IndexError(
                    f"a prompt has {len(encoding.prompt)} tokens; a place takes "
                    f"{self.limits.max_source_tokens}"
                )
            if encoding.place in self._spoiled:
                self._spoiled.remove(encoding.place)
                self._runner.clear_place(encoding.place)
        self._runner.encode(encodings, [self._bank.lineage(e.slots) for e in encodings])

    def _check(self, output: list[int]) -> None:
        """Raise IndexError for a token that cannot be fed: -1 stands where a row failed."""
        if output and not 0 <= output[-1] < self.vocab_size:
            raise IndexError(f"a row was given the token {output[-1]}")
        if len(output) >= self.limits.max_target_tokens:
            raise IndexError(f"a row takes {self.limits.max_target_tokens} tokens and has them all")

    def _check_passes(self, passes: Rows[Pass]) -> None:
        """Raise IndexError for what would read or write outside of the kernels' arrays."""
        count = sum(len(each.nodes) for each in passes)
        if count > self.limits.max_nodes:
            raise IndexError(f"{count} nodes given; a step takes {self.limits.max_nodes}")
        for each in passes:
            trie, nodes = each.trie, each.nodes
            is_ascending = all(a < b for a, b in itertools.pairwise(nodes))
            if not nodes or not is_ascending or nodes[0] != 0 or nodes[-1] >= len(trie):
                raise IndexError(f"a pass of {len(trie)} nodes cannot compute {nodes}")
            depths = {-1: -1}  # what node 0 stands behind
            for node in nodes:
                if trie.parents[node] not in depths:
                    raise IndexError(f"node {node} is in a pass that has not its parent")
                depths[node] = depths[trie.parents[node]] + 1
                if depths[node] >= self.limits.max_target_tokens:
                    raise IndexError(
                        f"node {node} is token {depths[node] + 1} of its path; a row takes "
                        f"{self.limits.max_target_tokens}"
                    )
                fed = () if node == 0 else (trie.tokens[node],)
                for token in (*fed, *(edge.token for edge in trie.edges[node])):
                    if not 0 <= token < self.vocab_size:
                        raise IndexError(f"a trie has tokens outside of 0 to {self.vocab_size - 1}")

    def _copy(self, copies: Rows[RowCopy]) -> None:
        targets = [copy.row for copy in copies]
        if len({*targets}) < len(targets) or not {*targets}.isdisjoint(c.source for c in copies):
            raise ValueError("a row is copied to twice, or copied from and to")
        for copy in copies:
            if not 0 <= copy.same <= copy.tokens <= self.limits.max_target_tokens:
                raise IndexError(f"tokens {copy.same} to {copy.tokens} of a row cannot be copied")
            if not all(0 <= row < self.limits.max_rows for row in (copy.source, copy.row)):
                raise IndexError(
                    f"row {copy.source} cannot be copied to row {copy.row}: there are 0 to "
                    f"{self.limits.max_rows - 1}"
                )
        self._runner.copy(copies)


def choose_torch_runner(device: torch.device, wanted: Kernels, family: str) -> type[TorchRunner]:
    """The GPU's own runner where it was not ruled out and computes the family, else torch alone."""
    if device.type != "cuda" or wanted != "auto":
        return TorchRunner
    # Imported here: most servers have no GPU.
    from jumplora_server.engine.cuda.model import CUDA_MODELS
    from jumplora_server.engine.cuda.runner import CudaRunner

    return CudaRunner if family in CUDA_MODELS else TorchRunner


def _choose_kernels(
    wanted: Kernels, dtype: str, device: str, family: Family
) -> InstructionSet | Literal["torch"]:
    is_for_native = device == "cpu" and dtype in ("float32", "int8") and family in NATIVE_MODELS
    if wanted == "torch" or (wanted == "auto" and not is_for_native):
        return "torch"
    if not is_for_native:
        raise ValueError(
            "native kernels compute float32 and int8 on the CPU, of the families "
            f"{', '.join(NATIVE_MODELS)}; not {dtype} of {family} on {device}"
        )
    if wanted != "auto" and wanted != "native":
        load_library(wanted)
        return wanted
    try:
        return best_set()
    except NativeUnavailable as reason:
        if wanted == "native":
            raise
        _log.warning("the slower torch path computes: %s", reason)
        return "torch"
