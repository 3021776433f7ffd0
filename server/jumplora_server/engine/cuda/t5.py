"""T5 with decode steps of few kernels: eleven a block, where torch's operators alone take 28.

Attention is one launch over what is cached, and what a sub-layer adds to its input is added by its
last product. `T5` is the slow reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture
from jumplora_server.engine.cache import RowCache
from jumplora_server.engine.cuda.plan import Kernels, OwnStep
from jumplora_server.engine.delta import Plan
from jumplora_server.engine.linear import Linear, PlainLinear
from jumplora_server.engine.t5 import T5, Layer, position_buckets
from jumplora_server.engine.weights import StoredTensors


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
        buckets = position_buckets(
            steps,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            sees="past",
        )
        self._no_bias = torch.zeros(config.d_ff, dtype=self.dtype, device=device)
        self._past_bias = self.decoder_bias[buckets].t().float().contiguous()  # [heads, target]

    def decode(
        self,
        tokens: Tensor,
        positions: Tensor,
        live: Tensor,
        *,
        lengths: tuple[int, int],
        plan: Plan,
        cache: RowCache,
    ) -> Tensor:
        """As `T5.decode`; reads each row's own lengths, whatever `lengths` says."""
        is_live = torch.zeros(tokens.shape[0], dtype=torch.int32, device=self.device)
        step = OwnStep(positions, is_live.index_fill_(0, live, 1))
        x = self.decoder_embedding[tokens]  # [R, d_model]
        for index, layer in enumerate(self.decoder):
            assert layer.cross_q is not None
            assert layer.cross_out is not None
            qkv = self._qkv(layer, self._norm(x, layer.norms[0]), plan)
            own = self._kernels.attend_own(
                qkv, cache.self_k[index], cache.self_v[index], step, self._past_bias
            )
            x = self._plus(x, layer.out, own)
            h = self._norm(x, layer.norms[1])
            q = layer.cross_q(h)
            plan.add(f"{layer.prefix}.1.EncDecAttention.q", h, q)
            read = self._kernels.attend_source(
                q, cache.cross_k[index], cache.cross_v[index], cache.source_lengths
            )
            x = self._plus(x, layer.cross_out, read)
            x = self._feed_forward(layer, x, self._norm(x, layer.norms[2]))
        x = self._norm(x, self.decoder_norm) * self.config.logit_scale
        return self.head(x).float()

    def _plus(self, x: Tensor, linear: Linear, y: Tensor) -> Tensor:
        """x + linear(y), in x's memory on a GPU."""
        if not x.is_cuda:
            return super()._plus(x, linear, y)
        assert isinstance(linear, PlainLinear)
        return x.addmm_(y, linear.weight.t())

    def _feed_forward(self, layer: Layer, x: Tensor, h: Tensor) -> Tensor:
        """x + the feed-forward of h; on a GPU the first product applies a ReLU itself."""
        if not h.is_cuda or self.config.feed_forward_proj != "relu":
            return super()._feed_forward(layer, x, h)
        assert isinstance(layer.wide, PlainLinear)
        # The library's products do that together with a bias only.
        wide = torch._addmm_activation(self._no_bias, h, layer.wide.weight.t())
        return self._plus(x, layer.narrow, wide)
