"""The forward pass on a GPU: T5 in torch, the deltas in Triton, decode steps as CUDA graphs.

Tested through Triton's interpreter on a CPU, where it gives `TorchRunner`'s tokens, and on an H100
(server/GPU.md says what was seen there).
"""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture
from jumplora_adapters.delta import Delta, SparseDelta
from jumplora_adapters.format import Adapter
from jumplora_adapters.network import sites
from jumplora_server.core import EngineLimits, Sequence
from jumplora_server.engine.cache import round_up
from jumplora_server.engine.cuda.expanded import Scratch
from jumplora_server.engine.cuda.factored import GatedFactors, has_mask
from jumplora_server.engine.cuda.forms import Resident, factor_all
from jumplora_server.engine.cuda.graphs import (
    DecodeShape,
    DecodeSteps,
    StepBuffers,
    StepInputs,
    fill,
    shape_of,
)
from jumplora_server.engine.cuda.model import CUDA_MODELS
from jumplora_server.engine.cuda.plan import DecodePlan, EncodePlan, Kernels, make_levels
from jumplora_server.engine.cuda.slot import DeviceAdapter, load, on_device
from jumplora_server.engine.cuda.upload import Uploader
from jumplora_server.engine.linear import Plan
from jumplora_server.engine.models.model import Model
from jumplora_server.engine.sampling import to_device
from jumplora_server.engine.torch_runner import Lineage, TorchRunner
from jumplora_server.engine.weights import StoredTensors

MOST_TARGETED = 16
"""Sets of kinds that have graphs of their own. A graph holds its logits, and is captured while a
request waits; adapters of many tasks mixed anyhow could ask for a thousand sets."""


class CudaRunner(TorchRunner):
    """`TorchRunner` with its own forms of deltas, and with decode steps on static buffers."""

    def __init__(
        self,
        config: Architecture,
        weights: StoredTensors,
        *,
        start_token_id: int,
        dtype: str,
        device: torch.device,
        limits: EngineLimits,
        resident: Resident = "packed",
        kernels: Kernels | None = None,
    ) -> None:
        """Load the backbone.

        Args:
            dtype: float32 or bfloat16.
            device: a CUDA device, or the CPU for tests.
            resident: what masked deltas that carry their factors are kept as.
            kernels: None takes Triton's.

        Raises:
            ValueError: another dtype.
        """
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype {dtype!r} given; a GPU runs float32 or bfloat16")
        if kernels is None:
            # Imported here: the references do without Triton.
            from jumplora_server.engine.cuda.launch import TRITON

            kernels = TRITON
        self._kernels = kernels
        super().__init__(
            config,
            weights,
            start_token_id=start_token_id,
            dtype=dtype,
            device=device,
            limits=limits,
        )
        self._resident = resident
        self._uploader = Uploader(device)
        self._scratch = Scratch()
        self._steps = DecodeSteps(self._compute, device)
        self._modules = {module: number for number, module in enumerate(sites(config))}
        # Sites of one kind are targeted together: every set of targets is another graph.
        kinds: dict[tuple[str, str], int] = {}
        for number, site in enumerate(sites(config).values()):
            if site.is_decoded:
                kind = (site.part, site.role)
                kinds[kind] = kinds.get(kind, 0) | 1 << number
        self._kinds = tuple(kinds.values())
        self._seen_targeted = {0}

    def _make_model(
        self, config: Architecture, weights: StoredTensors, dtype: str, limits: EngineLimits
    ) -> Model:
        return CUDA_MODELS[config.family](
            config,
            weights,
            dtype=dtype,
            device=self._device,
            kernels=self._kernels,
            target=round_up(limits.max_target_tokens),
        )

    def pack(self, adapter: Adapter) -> DeviceAdapter:
        """Put an adapter's deltas into a slot of device memory; any thread, beside the engine's.

        Factored modules whose mask, recomputed by the kernel on this device, has not the stored
        one's digest are packed instead.
        """
        factors: dict[str, GatedFactors] = {}
        if self._resident == "factored":
            with self._uploader.beside():
                factors = factor_all(adapter, self._device)
        packed = load(adapter, self._modules, factors, self._uploader)
        sound = {
            module: form
            for module, form in factors.items()
            if self._gives_mask(packed, module, adapter.deltas[module])
        }
        if len(sound) == len(factors):
            return packed
        return load(adapter, self._modules, sound, self._uploader)

    @property
    def can_fold(self) -> bool:
        """Not yet: its plans and graphs read the backbone's own weights."""
        return False

    def logits(self, sequences: Rows[Sequence], lineages: Rows[Lineage]) -> Tensor:
        """Of each sequence's next token [n, vocabulary] float32."""
        rows = [sequence.row for sequence in sequences]
        slots = [on_device(lineage) for lineage in lineages]
        inputs = StepInputs(
            rows=rows,
            tokens=[s.output[-1] if s.output else self._start for s in sequences],
            positions=[len(sequence.output) for sequence in sequences],
            places=[sequence.encoding.place for sequence in sequences],
            lineages=[[adapter.address for adapter in lineage] for lineage in slots],
            targeted=self._targeted(slots),
        )
        shape = shape_of(inputs, max_rows=self._caches.target.rows)
        logits = self._steps.run(shape, fill(shape, inputs, self._start))
        return logits[to_device(torch.tensor(rows), self._device)]

    def _encode_plan(self, lineages: Rows[Lineage], spans: Rows[tuple[int, int]]) -> Plan:
        slots = [on_device(lineage) for lineage in lineages]
        for adapter in {id(a): a for lineage in slots for a in lineage}.values():
            self._uploader.keep_for(adapter.pool)
        levels = make_levels(slots, spans, self._scratch, self._device)
        return EncodePlan(levels, self._modules, self._kernels, self._scratch)

    def _node_plan(
        self, lineages: Rows[Lineage], spans: Rows[tuple[int, int]], *, rows: int
    ) -> Plan:
        slots = [on_device(lineage) for lineage in lineages]
        addresses = torch.zeros(max(map(len, slots)), rows, dtype=torch.int64)
        targeted = 0
        for lineage, (start, stop) in zip(slots, spans, strict=True):
            for place, adapter in enumerate(lineage):
                addresses[place, start:stop] = adapter.address
                targeted |= adapter.targeted
        on_gpu = to_device(addresses, self._device)
        return DecodePlan(on_gpu, targeted, self._modules, self._kernels)

    def _compute(self, shape: DecodeShape, buffers: StepBuffers) -> Tensor:
        return self._model.decode(
            buffers.tokens,
            buffers.positions,
            buffers.live,
            buffers.places,
            lengths=(self._caches.source.length, self._caches.target.length),
            plan=DecodePlan(buffers.lineages, shape.targeted, self._modules, self._kernels),
            caches=self._caches,
        )

    def _targeted(self, lineages: Rows[tuple[DeviceAdapter, ...]]) -> int:
        """The modules whose deltas a decode step launches, a bit each.

        Those that any row has and all others of their kinds; all kinds where the set is a new one
        and there are MOST_TARGETED already. What no row has adds nothing, and costs a launch.
        """
        found = 0
        for lineage in lineages:
            for adapter in lineage:
                found |= adapter.targeted
        targeted = sum(kind for kind in self._kinds if kind & found)
        if targeted not in self._seen_targeted and len(self._seen_targeted) >= MOST_TARGETED:
            return sum(self._kinds)
        self._seen_targeted.add(targeted)
        return targeted

    def _gives_mask(self, packed: DeviceAdapter, module: str, delta: Delta) -> bool:
        assert isinstance(delta, SparseDelta)
        with self._uploader.beside():
            keep = self._kernels.kept(packed.pool, self._modules[module], delta.shape)
            return has_mask(keep, delta)
