"""The T5 family (T5, v1.1 / Flan-T5, mT5, umT5 and its kin) in torch, for batched decoding.

Source of the architecture: Raffel et al., arXiv 1910.10683, and the checkpoints' own layout.
transformers is the oracle in tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jumplora_adapters import network
from jumplora_adapters.architecture import Architecture
from jumplora_adapters.network import Site
from jumplora_server.engine.activations import activate
from jumplora_server.engine.attention import (
    DecodeAttention,
    LengthGroup,
    RowAttention,
    attend_prompts,
    causal_bias,
    masked_bias,
    path_bias,
    prompt_bias,
)
from jumplora_server.engine.cache import Caches, SourceCache
from jumplora_server.engine.linear import Plan, Projection, make_linear
from jumplora_server.engine.passes import NodeAttention, NodeGroup
from jumplora_server.engine.weights import StoredTensors, stacked, to_dtype


@dataclass(frozen=True, slots=True)
class Cross:
    """The decoder's attention to the prompt; its keys and values are computed in the encode."""

    norm: Tensor
    q: Projection
    kv: Projection
    out: Projection


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's parameters."""

    norm: Tensor
    qkv: Projection
    out: Projection
    position_bias: str  # which table
    dense_norm: Tensor
    wide: Projection
    narrow: Projection


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
        modules = network.network(config)
        encoder, decoder = modules.encoder, modules.decoder
        # The largest ones first, while there is room for the copies on their way.
        self.embedding = self._tensor(encoder.embedding)  # [vocab, d_model]
        self.decoder_embedding = self.embedding
        if not weights.are_tied(decoder.embedding, encoder.embedding):
            self.decoder_embedding = self._tensor(decoder.embedding)
        self.head = self._projection(modules.head)
        self.position_biases: dict[str, Tensor] = {}  # by name: [buckets, heads]
        self.encoder = [self._layer(block) for block in encoder.blocks]
        self.decoder = [self._layer(block) for block in decoder.blocks]
        self.cross = [self._cross(block.cross) for block in decoder.blocks if block.cross]
        self.encoder_norm = self._tensor(encoder.norm)
        self.decoder_norm = self._tensor(decoder.norm)
        del self._weights

    # -- parameters

    def _tensor(self, name: str) -> Tensor:
        tensor = self._weights[name].to(self.device, self.dtype)
        self.weight_bytes += tensor.nbytes
        return tensor

    def _projection(self, *sites: Site) -> Projection:
        """Several weights stacked by output, so that one product serves them all."""
        weight = stacked(self._weights, [site.weight for site in sites])
        linear = make_linear(weight, self._form, self.device)
        self.weight_bytes += linear.nbytes
        return Projection(sites, linear)

    def _layer(self, block: network.Block) -> Layer:
        own, dense = block.attention, block.feed_forward
        assert own.position_bias is not None
        if own.position_bias not in self.position_biases:
            self.position_biases[own.position_bias] = self._tensor(own.position_bias)
        return Layer(
            norm=self._tensor(own.norm),
            qkv=self._projection(own.q, own.k, own.v),
            out=self._projection(own.o),
            position_bias=own.position_bias,
            dense_norm=self._tensor(dense.norm),
            wide=self._projection(*dense.wide),
            narrow=self._projection(dense.narrow),
        )

    def _cross(self, cross: network.Attention) -> Cross:
        return Cross(
            norm=self._tensor(cross.norm),
            q=self._projection(cross.q),
            kv=self._projection(cross.k, cross.v),
            out=self._projection(cross.o),
        )

    # -- the two phases

    def encode(
        self, tokens: Tensor, groups: Sequence[LengthGroup], plan: Plan, cache: SourceCache
    ) -> None:
        """As `Model.encode`."""
        x = self.embedding[tokens]  # [n, d_model]
        table, biases = "", list[Tensor]()
        for layer in self.encoder:
            if layer.position_bias != table:  # one at a time: each takes heads * L ** 2 numbers
                table, biases = layer.position_bias, self._prompt_biases(layer, groups)
            qkv = layer.qkv(self._norm(x, layer.norm), plan)  # [n, 3 * inner]
            x = layer.out.onto(x, self._attend(qkv, groups, biases), plan)
            x = self._feed_forward(layer, x, plan)
        x = self._norm(x, self.encoder_norm)
        for index, cross in enumerate(self.cross):
            kv = cross.kv(x, plan)  # [n, 2 * inner]
            for group in groups:
                k, v = self._heads(kv[group.index], 2)  # each [b, heads, L, d_kv]
                cache.write(index, group.places, k, v)

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
        """As `Model.decode`."""
        source, target = lengths
        attention = RowAttention(
            caches=caches,
            biases={
                name: causal_bias(table, positions, target, self.config)
                for name, table in self._tables(self.decoder)
            },
            live=live,
            positions=positions[live],
            places=places,
            source_mask=caches.source.mask[places][:, None, :source],
        )
        return self._decode(tokens, attention, plan)

    def decode_nodes(
        self, tokens: Tensor, groups: Sequence[NodeGroup], *, plan: Plan, caches: Caches
    ) -> Tensor:
        """As `Model.decode_nodes`."""
        biases = {
            name: [path_bias(table, group.depths, group.hidden, self.config) for group in groups]
            for name, table in self._tables(self.decoder)
        }
        return self._decode(tokens, NodeAttention(caches.source, groups, biases), plan)

    def _decode(self, tokens: Tensor, attention: DecodeAttention, plan: Plan) -> Tensor:
        x = self.decoder_embedding[tokens]  # [n, d_model]
        for index, (layer, cross) in enumerate(zip(self.decoder, self.cross, strict=True)):
            qkv = layer.qkv(self._norm(x, layer.norm), plan)
            x = layer.out.onto(x, attention.own(index, qkv, layer.position_bias), plan)
            q = cross.q(self._norm(x, cross.norm), plan)
            x = cross.out.onto(x, attention.source(index, q), plan)
            x = self._feed_forward(layer, x, plan)
        x = self._norm(x, self.decoder_norm) * self.config.logit_scale
        return self.head(x, plan).float()

    # -- pieces

    def _prompt_biases(self, layer: Layer, groups: Sequence[LengthGroup]) -> list[Tensor]:
        """Each group's [b or 1, heads, L, L], its padding masked."""
        table = self.position_biases[layer.position_bias]
        biases = (prompt_bias(table, group.length, self.config) for group in groups)
        return [masked_bias(bias, group) for bias, group in zip(biases, groups, strict=True)]

    def _tables(self, layers: Sequence[Layer]) -> list[tuple[str, Tensor]]:
        """The position biases of some layers, each once."""
        names = dict.fromkeys(layer.position_bias for layer in layers)
        return [(name, self.position_biases[name]) for name in names]

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (self.config.d_model,), weight, self.config.layer_norm_epsilon)

    def _feed_forward(self, layer: Layer, x: Tensor, plan: Plan) -> Tensor:
        """x + the feed-forward of x."""
        wide = layer.wide(self._norm(x, layer.dense_norm), plan)
        if self.config.is_gated:
            gate, value = wide.chunk(2, dim=-1)
            return layer.narrow.onto(x, activate(self.config.activation, gate) * value, plan)
        return layer.narrow.onto(x, activate(self.config.activation, wide), plan)

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[b, L, parts * inner] -> parts tensors [b, heads, L, d_kv]."""
        b, length = x.shape[:2]
        split = x.view(b, length, parts, self.config.num_heads, self.config.d_kv)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _attend(
        self, qkv: Tensor, groups: Sequence[LengthGroup], biases: Sequence[Tensor]
    ) -> Tensor:
        """Encoder self-attention, group by group: [n, 3 * inner] -> [n, inner]."""
        out = torch.empty_like(qkv[:, : self.config.inner])
        for group, bias in zip(groups, biases, strict=True):
            q, k, v = self._heads(qkv[group.index], 3)
            read = attend_prompts(q, k, v, bias)
            flat = read.transpose(1, 2).reshape(-1, self.config.inner)  # [b * L, inner]
            out[group.packed] = flat[group.padded]
        return out
