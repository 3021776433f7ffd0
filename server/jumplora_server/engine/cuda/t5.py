"""T5 with decode steps of few kernels: eleven a block, where torch's operators alone take 28.

Attention is one launch over what is cached, and what a sub-layer adds to its input is added by its
last product. `T5` is the slow reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture
from jumplora_server.engine.attention import position_buckets
from jumplora_server.engine.cache import Caches
from jumplora_server.engine.cuda.plan import Kernels, OwnStep
from jumplora_server.engine.linear import PlainLinear, Plan
from jumplora_server.engine.models.t5 import T5, Layer
from jumplora_server.engine.weights import StoredTensors


@dataclass(frozen=True, slots=True)
class KernelAttention:
    """`RowAttention` as two launches a block."""

    kernels: Kernels
    caches: Caches
    step: OwnStep
    biases: Mapping[str, Tensor]  # by table [heads, target], by how far a key is before the query
    places: Tensor  # [R] in the source cache

    def own(self, layer: int, qkv: Tensor, table: str) -> Tensor:
        """As `DecodeAttention.own`; appends the new keys and values."""
        cache = self.caches.target
        return self.kernels.attend_own(
            qkv, cache.k[layer], cache.v[layer], self.step, self.biases[table]
        )

    def source(self, layer: int, q: Tensor) -> Tensor:
        """As `DecodeAttention.source`."""
        cache = self.caches.source
        return self.kernels.attend_source(
            q, cache.k[layer], cache.v[layer], self.places, cache.lengths
        )


class CudaT5(T5):
    """The backbone's forward pass with its decode steps on a runner's kernels."""

    def __init__(
        self,
        config: Architecture,
        weights: StoredTensors,
        *,
        dtype: str,
        device: torch.device,
        kernels: Kernels,
        target: int,
    ) -> None:
        """`target` is how many positions a row of the cache has."""
        super().__init__(config, weights, dtype=dtype, device=device)
        self._kernels = kernels
        steps = -torch.arange(target, device=device)
        buckets = position_buckets(steps, config, sees="past")
        self._no_bias = torch.zeros(config.d_ff, dtype=self.dtype, device=device)
        self._past_biases = {
            name: table[buckets].t().float().contiguous()
            for name, table in self._tables(self.decoder)
        }  # each [heads, target]

    def decode(
        self,
        tokens: Tensor,
        positions: Tensor,
        live: Tensor,
        places: slice | Tensor,
        *,
        lengths: tuple[int, int],
        plan: Plan,
        caches: Caches,
    ) -> Tensor:
        """As `T5.decode`; reads each row's own lengths, whatever `lengths` says."""
        assert isinstance(places, Tensor)
        is_live = torch.zeros(tokens.shape[0], dtype=torch.int32, device=self.device)
        step = OwnStep(positions, is_live.index_fill_(0, live, 1))
        attention = KernelAttention(self._kernels, caches, step, self._past_biases, places)
        return self._decode(tokens, attention, plan)

    def _feed_forward(self, layer: Layer, x: Tensor, plan: Plan) -> Tensor:
        """x + the feed-forward of x; on a GPU the first product applies a ReLU itself."""
        is_relu = self.config.activation == "relu" and not self.config.is_gated
        if not x.is_cuda or not is_relu or layer.wide.has_deltas(plan):
            return super()._feed_forward(layer, x, plan)
        linear = layer.wide.linear
        assert isinstance(linear, PlainLinear)
        # The library's products do that together with a bias only.
        h = self._norm(x, layer.dense_norm)
        wide = torch._addmm_activation(self._no_bias, h, linear.weight.t())
        return layer.narrow.onto(x, wide, plan)
