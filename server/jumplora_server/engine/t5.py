"""The T5 family (T5, T5 v1.1 / Flan-T5, mT5), written once for batched incremental decoding.

Source of the architecture: Raffel et al., arXiv 1910.10683, and the checkpoints' own layout.
transformers is the oracle in tests. Prompts are packed without padding for every linear; only
attention pads, within groups of like length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from jumplora_adapters.architecture import Architecture
from jumplora_adapters.checkpoint import DECODER_EMBEDDING, ENCODER_EMBEDDING, HEAD
from jumplora_server.engine.cache import RowCache, round_up
from jumplora_server.engine.delta import Plan
from jumplora_server.engine.linear import MIN_ROWS, Linear, make_linear
from jumplora_server.engine.sampling import to_device
from jumplora_server.engine.weights import StoredTensors, stacked, to_dtype

Direction = Literal["both", "past"]
UNCUT_ELEMENTS = 16384  # largest elementwise operation that torch leaves to one thread


@dataclass(frozen=True, slots=True)
class LengthGroup:
    """Prompts whose lengths round up to the same L, and where their tokens lie in the pack."""

    rows: Tensor  # [b] cache rows
    index: Tensor  # [b, L] positions in the packed tokens; padding repeats a prompt's first token
    packed: Tensor  # [m] positions of the packed tokens, without padding
    padded: Tensor  # [m] the same in [b * L]
    bias: Tensor  # [b or 1, heads, L, L] position bias plus the mask of padding


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's parameters; the decoder's also holds cross-attention."""

    prefix: str
    norms: tuple[Tensor, ...]  # one before each sub-layer
    qkv: Linear  # d_model -> 3 * inner
    out: Linear
    wide: Linear  # wi, or wi_0 and wi_1 side by side
    narrow: Linear
    cross_q: Linear | None = None
    cross_kv: Linear | None = None
    cross_out: Linear | None = None


class T5:
    """The backbone's forward pass over packed prompts and over one token of many rows."""

    def __init__(
        self, config: Architecture, weights: StoredTensors, *, dtype: str, device: torch.device
    ) -> None:
        self.config = config
        self.device = device
        self.dtype = to_dtype(dtype)
        self._form = dtype
        self._weights = weights
        self.weight_bytes = 0
        # The largest ones first, while there is room for the copies on their way.
        self.embedding = self._tensor(ENCODER_EMBEDDING)  # [vocab, d_model]
        self.decoder_embedding = self.embedding
        if not weights.are_tied(DECODER_EMBEDDING, ENCODER_EMBEDDING):
            self.decoder_embedding = self._tensor(DECODER_EMBEDDING)
        self.head = self._linear(HEAD)
        self.encoder = [self._layer("encoder", i) for i in range(config.num_layers)]
        self.decoder = [self._layer("decoder", i) for i in range(config.num_decoder_layers)]
        self.encoder_norm = self._tensor("encoder.final_layer_norm.weight")
        self.decoder_norm = self._tensor("decoder.final_layer_norm.weight")
        bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        self.encoder_bias = self._tensor(f"encoder.{bias}")  # [buckets, heads]
        self.decoder_bias = self._tensor(f"decoder.{bias}")
        del self._weights

    # -- parameters

    def _tensor(self, name: str) -> Tensor:
        tensor = self._weights[name].to(self.device, self.dtype)
        self.weight_bytes += tensor.nbytes
        return tensor

    def _linear(self, *names: str) -> Linear:
        """One linear of several weights stacked by output, so that one product serves them all."""
        linear = make_linear(stacked(self._weights, names), self._form, self.device)
        self.weight_bytes += linear.nbytes
        return linear

    def _layer(self, stack: str, block: int) -> Layer:
        base = f"{stack}.block.{block}.layer"
        own, cross = f"{base}.0.SelfAttention", f"{base}.1.EncDecAttention"
        is_decoder = stack == "decoder"
        last = 2 if is_decoder else 1
        dense = f"{base}.{last}.DenseReluDense"
        wide = ("wi",) if self.config.feed_forward_proj == "relu" else ("wi_0", "wi_1")
        return Layer(
            prefix=base,
            norms=tuple(self._tensor(f"{base}.{i}.layer_norm.weight") for i in range(last + 1)),
            qkv=self._linear(*(f"{own}.{name}.weight" for name in "qkv")),
            out=self._linear(f"{own}.o.weight"),
            wide=self._linear(*(f"{dense}.{name}.weight" for name in wide)),
            narrow=self._linear(f"{dense}.wo.weight"),
            cross_q=self._linear(f"{cross}.q.weight") if is_decoder else None,
            cross_kv=self._linear(f"{cross}.k.weight", f"{cross}.v.weight") if is_decoder else None,
            cross_out=self._linear(f"{cross}.o.weight") if is_decoder else None,
        )

    # -- the two phases

    def encode(
        self, tokens: Tensor, groups: Sequence[LengthGroup], plan: Plan, cache: RowCache
    ) -> None:
        """Encode packed prompts and write their cross-attention keys and values.

        Args:
            tokens: [n] all prompts' ids one after another, n >= MIN_ROWS.
        """
        x = self.embedding[tokens]  # [n, d_model]
        for layer in self.encoder:
            h = self._norm(x, layer.norms[0])
            qkv = self._qkv(layer, h, plan)
            x = self._plus(x, layer.out, self._attend_groups(qkv, groups))
            x = self._feed_forward(layer, x, self._norm(x, layer.norms[1]))
        x = self._norm(x, self.encoder_norm)
        for index, layer in enumerate(self.decoder):
            assert layer.cross_kv is not None
            kv = layer.cross_kv(x)  # [n, 2 * inner]
            plan.add(f"{layer.prefix}.1.EncDecAttention.k", x, kv[:, : self.config.inner])
            plan.add(f"{layer.prefix}.1.EncDecAttention.v", x, kv[:, self.config.inner :])
            for group in groups:
                k, v = self._heads(kv[group.index], 2)  # each [b, heads, L, d_kv]
                cache.write_source(index, group.rows, k, v)

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
        """One step of the first R cache rows; returns logits [R, vocab] in float32.

        Args:
            tokens: [R] each row's previous token (rows not live: anything).
            positions: [R] the position that token takes in its row.
            live: [n] the rows that really decode; only their caches are written.
            lengths: (source, target) longest valid lengths, rounded up by `round_up`.
        """
        source, target = lengths
        rows = tokens.shape[0]
        self_bias = self._causal_bias(positions, target)  # [R, heads, target]
        source_mask = cache.source_mask[:rows, None, :source]  # [R, 1, source]
        live_positions = positions[live]
        x = self.decoder_embedding[tokens]  # [R, d_model]
        for index, layer in enumerate(self.decoder):
            assert layer.cross_q is not None
            assert layer.cross_out is not None
            h = self._norm(x, layer.norms[0])
            qkv = self._qkv(layer, h, plan)
            q, k, v = qkv.view(rows, 3, self.config.num_heads, self.config.d_kv).unbind(1)
            cache.append(index, live, live_positions, k[live], v[live])
            own = self._attend_rows(q, cache.self_k[index], cache.self_v[index], self_bias)
            x = self._plus(x, layer.out, own)
            h = self._norm(x, layer.norms[1])
            q = layer.cross_q(h)
            plan.add(f"{layer.prefix}.1.EncDecAttention.q", h, q)
            q = q.view(rows, self.config.num_heads, self.config.d_kv)
            read = self._attend_rows(q, cache.cross_k[index], cache.cross_v[index], source_mask)
            x = self._plus(x, layer.cross_out, read)
            x = self._feed_forward(layer, x, self._norm(x, layer.norms[2]))
        x = self._norm(x, self.decoder_norm) * self.config.logit_scale
        return self.head(x).float()

    # -- pieces

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (self.config.d_model,), weight, self.config.layer_norm_epsilon)

    def _qkv(self, layer: Layer, h: Tensor, plan: Plan) -> Tensor:
        qkv = layer.qkv(h)  # [n, 3 * inner]
        inner = self.config.inner
        for i, name in enumerate("qkv"):
            plan.add(
                f"{layer.prefix}.0.SelfAttention.{name}", h, qkv[:, i * inner : (i + 1) * inner]
            )
        return qkv

    def _plus(self, x: Tensor, linear: Linear, y: Tensor) -> Tensor:
        """x + linear(y), which may be x itself."""
        return x + linear(y)

    def _feed_forward(self, layer: Layer, x: Tensor, h: Tensor) -> Tensor:
        """x + the feed-forward of h."""
        wide = layer.wide(h)
        if self.config.feed_forward_proj == "relu":
            return self._plus(x, layer.narrow, F.relu_(wide))
        gate, value = wide.chunk(2, dim=-1)
        return self._plus(x, layer.narrow, _gelu(gate) * value)

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[b, L, parts * inner] -> parts tensors [b, heads, L, d_kv]."""
        b, length = x.shape[:2]
        split = x.view(b, length, parts, self.config.num_heads, self.config.d_kv)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _attend_groups(self, qkv: Tensor, groups: Sequence[LengthGroup]) -> Tensor:
        """Encoder self-attention, group by group: [n, 3 * inner] -> [n, inner]."""
        out = torch.empty_like(qkv[:, : self.config.inner])
        for group in groups:
            q, k, v = self._heads(qkv[group.index], 3)
            read = _attend_prompts(q, k, v, group.bias)
            flat = read.transpose(1, 2).reshape(-1, self.config.inner)  # [b * L, inner]
            out[group.packed] = flat[group.padded]
        return out

    def _attend_rows(self, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """One query a row over its cache: q [R, heads, d_kv], bias [R, 1 or heads, L]."""
        rows, heads, width = q.shape
        length = bias.shape[-1]
        # Views with a uniform batch stride: nothing of the cache is copied.
        keys = keys[:rows].view(rows * heads, -1, width)[:, :length]
        values = values[:rows].view(rows * heads, -1, width)[:, :length]
        scores = torch.bmm(q.reshape(rows * heads, 1, width), keys.transpose(1, 2))
        weights = torch.softmax(
            scores.view(rows, heads, length) + bias, dim=-1, dtype=torch.float32
        )
        read = torch.bmm(weights.to(q.dtype).view(rows * heads, 1, length), values)
        return read.view(rows, heads * width)

    # -- position biases and groups

    def _causal_bias(self, positions: Tensor, length: int) -> Tensor:
        """Position bias of one query a row over keys 0..length-1, later ones masked out.

        positions [R] -> [R, heads, length]. Computed each step: a table of all positions would
        take heads * length ** 2 numbers.
        """
        distance = torch.arange(length, device=self.device) - positions[:, None]  # key minus query
        buckets = position_buckets(
            distance,
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
            sees="past",
        )
        bias = self.decoder_bias[buckets].permute(0, 2, 1)  # [R, heads, length]
        return bias.masked_fill((distance > 0)[:, None, :], torch.finfo(self.dtype).min)

    def groups(self, spans: Sequence[tuple[int, int]], rows: Sequence[int]) -> list[LengthGroup]:
        """Group prompts by rounded length.

        Args:
            spans: [start, stop) of each prompt in the packed tokens.
            rows: the cache row of each prompt.
        """
        by_length: dict[int, list[int]] = {}
        for i, (start, stop) in enumerate(spans):
            by_length.setdefault(round_up(stop - start), []).append(i)
        return [
            self._group(length, [spans[i] for i in members], [rows[i] for i in members])
            for length, members in sorted(by_length.items())
        ]

    def _group(self, length: int, spans: list[tuple[int, int]], rows: list[int]) -> LengthGroup:
        # Built on the host: asking the device which tokens are valid would wait for it.
        starts = torch.tensor([span[0] for span in spans])
        sizes = torch.tensor([span[1] - span[0] for span in spans])
        steps = torch.arange(length)
        valid = steps < sizes[:, None]  # [b, L]
        index = starts[:, None] + steps * valid
        bias = self._encoder_position_bias(length)[None]
        if not bool(valid.all()):
            lowest = torch.finfo(self.dtype).min
            outside = to_device(~valid, self.device)
            bias = bias.masked_fill(outside[:, None, None, :], lowest)
        return LengthGroup(
            rows=to_device(torch.tensor(rows), self.device),
            index=to_device(index, self.device),
            packed=to_device(index[valid], self.device),
            padded=to_device(valid.view(-1).nonzero()[:, 0], self.device),
            bias=bias,
        )

    def _encoder_position_bias(self, length: int) -> Tensor:
        """Relative position bias [heads, length, length]."""
        steps = torch.arange(length, device=self.device)
        distance = steps[None, :] - steps[:, None]  # key minus query
        buckets = position_buckets(
            distance,
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
            sees="both",
        )
        return self.encoder_bias[buckets].permute(2, 0, 1).contiguous()


def _attend_prompts(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Each prompt's attention to itself: q, k, v [b, heads, L, d_kv], bias [b or 1, heads, L, L].

    On a CPU one call a prompt, so that a prompt is cut among threads as it is alone: with AVX2,
    MKL's sums in this kernel depend on the thread that computes them.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    biases = bias.expand(q.shape[0], -1, -1, -1)
    return torch.cat(
        [
            F.scaled_dot_product_attention(
                q[i : i + 1], k[i : i + 1], v[i : i + 1], attn_mask=biases[i : i + 1], scale=1.0
            )
            for i in range(q.shape[0])
        ]
    )


def _gelu(x: Tensor) -> Tensor:
    """The tanh form of GELU, x [n, d_ff], with the same bits for a row in any batch.

    On a CPU torch cuts a large elementwise operation into one piece a thread, and the tail of each
    piece goes through another tanh; blocks under that size are never cut.
    """
    if x.device.type != "cpu":
        return F.gelu(x, approximate="tanh")
    rows = max(1, UNCUT_ELEMENTS // x.shape[1])
    starts = range(0, x.shape[0], rows)
    return torch.cat([F.gelu(x[i : i + rows], approximate="tanh") for i in starts])


def position_buckets(
    distance: Tensor, num_buckets: int, max_distance: int, *, sees: Direction
) -> Tensor:
    """T5's bucket of a relative position (key minus query): exact when near, logarithmic when far.

    "both" (encoder) spends half of the buckets on keys after the query; "past" (decoder) puts all
    of those into bucket 0. Source: arXiv 1910.10683, section 2.1.
    """
    offset = torch.zeros_like(distance)
    if sees == "both":
        num_buckets //= 2
        offset = (distance > 0) * num_buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp_min(0)
    exact = num_buckets // 2
    ratio = torch.log(distance.clamp_min(1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (num_buckets - exact)).long()).clamp_max(num_buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


def min_rows(dtype: str) -> int:
    """Fewest rows a step computes: integer sums are exact at any count, float ones are not."""
    return 1 if dtype == "int8" else MIN_ROWS
