"""A T5 v1.1 encoder-decoder for pre-training on fixed shapes, with transformers' parameter names.

transformers' own module is the reference and what the exported folder is loaded with; this one
exists because it compiles whole in bfloat16, which is several times as fast on a CPU.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

IGNORED = -100
COPY_STRENGTH = 0.5


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network, T5's names in short."""

    vocabulary: int = 32128  # T5's 32,100 ids, padded as in its checkpoints
    d_model: int = 256
    d_kv: int = 64
    heads: int = 4
    d_ff: int = 768
    encoder_layers: int = 4
    decoder_layers: int = 2
    buckets: int = 32
    max_distance: int = 128


class Norm(nn.Module):
    """T5's layer norm: root mean square only, statistics in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * scaled.to(x.dtype)


class Attention(nn.Module):
    """Multi-head attention without the 1/sqrt(d) factor, as in T5; `bias` is added to scores."""

    def __init__(self, shape: Shape, *, owns_bias: bool = False) -> None:
        super().__init__()
        inner = shape.heads * shape.d_kv
        self.heads = shape.heads
        self.q = nn.Linear(shape.d_model, inner, bias=False)
        self.k = nn.Linear(shape.d_model, inner, bias=False)
        self.v = nn.Linear(shape.d_model, inner, bias=False)
        self.o = nn.Linear(inner, shape.d_model, bias=False)
        if owns_bias:
            self.relative_attention_bias = nn.Embedding(shape.buckets, shape.heads)

    def forward(self, x: Tensor, source: Tensor, bias: Tensor | None) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.view(y.shape[0], y.shape[1], self.heads, -1).transpose(1, 2)

        q, k, v = split(self.q(x)), split(self.k(source)), split(self.v(source))
        scores = q @ k.transpose(-1, -2)  # [rows, heads, queries, keys]
        if bias is not None:
            scores = scores + bias
        weights = torch.softmax(scores.float(), -1).to(x.dtype)
        mixed: Tensor = self.o((weights @ v).transpose(1, 2).flatten(2))
        return mixed


class GatedGelu(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(shape.d_model, shape.d_ff, bias=False)
        self.wi_1 = nn.Linear(shape.d_model, shape.d_ff, bias=False)
        self.wo = nn.Linear(shape.d_ff, shape.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.wo(functional.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))
        return gated


class SelfSublayer(nn.Module):
    def __init__(self, shape: Shape, *, owns_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = Attention(shape, owns_bias=owns_bias)
        self.layer_norm = Norm(shape.d_model)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        normed = self.layer_norm(x)
        out: Tensor = x + self.SelfAttention(normed, normed, bias)
        return out


class CrossSublayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.EncDecAttention = Attention(shape)
        self.layer_norm = Norm(shape.d_model)

    def forward(self, x: Tensor, source: Tensor, bias: Tensor | None) -> Tensor:
        out: Tensor = x + self.EncDecAttention(self.layer_norm(x), source, bias)
        return out


class FeedForwardSublayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.DenseReluDense = GatedGelu(shape)
        self.layer_norm = Norm(shape.d_model)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.DenseReluDense(self.layer_norm(x))
        return out


class Block(nn.Module):
    def __init__(self, shape: Shape, *, is_first: bool, is_decoder: bool) -> None:
        super().__init__()
        sublayers: list[nn.Module] = [SelfSublayer(shape, owns_bias=is_first)]
        if is_decoder:
            sublayers.append(CrossSublayer(shape))
        sublayers.append(FeedForwardSublayer(shape))
        self.layer = nn.ModuleList(sublayers)


class Stack(nn.Module):
    """Encoder or decoder: blocks, then a norm."""

    def __init__(self, shape: Shape, layers: int, *, is_decoder: bool) -> None:
        super().__init__()
        self.shape, self.is_decoder = shape, is_decoder
        self.block = nn.ModuleList(
            Block(shape, is_first=i == 0, is_decoder=is_decoder) for i in range(layers)
        )
        self.final_layer_norm = Norm(shape.d_model)

    def position_bias(self, length: int) -> Tensor:
        """[1, heads, length, length] from the first block's table; causal in the decoder."""
        where = torch.arange(length)
        distance = where[None, :] - where[:, None]  # key minus query
        buckets = relative_buckets(distance, self.shape, is_bidirectional=not self.is_decoder)
        table = self.block[0].layer[0].SelfAttention.relative_attention_bias  # type: ignore[union-attr,index]
        bias: Tensor = table(buckets).permute(2, 0, 1)[None]
        if self.is_decoder:
            bias = bias.masked_fill(distance > 0, -1e9)
        return bias

    def forward(self, x: Tensor, source: Tensor | None, padding: Tensor | None) -> Tensor:
        """`padding`: 0 or -1e9 per encoder position, [rows, 1, 1, keys], None if there is none."""
        bias = self.position_bias(x.shape[1])
        if padding is not None and not self.is_decoder:
            bias = bias + padding
        for block in self.block:
            sublayers = list(block.layer)  # type: ignore[arg-type]
            x = sublayers[0](x, bias)
            if source is not None:
                x = sublayers[1](x, source, padding)
            x = sublayers[-1](x)
        normed: Tensor = self.final_layer_norm(x)
        return normed


class Network(nn.Module):
    """Tied embedding, encoder, decoder; forward gives the mean loss over target ids."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.shared = nn.Embedding(shape.vocabulary, shape.d_model)
        self.encoder = Stack(shape, shape.encoder_layers, is_decoder=False)
        self.decoder = Stack(shape, shape.decoder_layers, is_decoder=True)

    def forward(self, source: Tensor, padding: Tensor | None, targets: Tensor) -> Tensor:
        """source [rows, keys], targets [rows, ids] with IGNORED where there is nothing to learn."""
        encoded = self.encoder(self.shared(source), None, padding)
        shifted = functional.pad(targets.clamp_min(0)[:, :-1], (1, 0))  # starts with pad, id 0
        decoded = self.decoder(self.shared(shifted), encoded, padding)
        logits = (decoded * self.shape.d_model**-0.5) @ self.shared.weight.T
        return functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED
        )


def relative_buckets(distance: Tensor, shape: Shape, *, is_bidirectional: bool) -> Tensor:
    """T5's buckets: half of them exact, the rest logarithmic up to max_distance."""
    buckets, offset = shape.buckets, torch.zeros_like(distance)
    if is_bidirectional:
        buckets //= 2
        offset = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp_min(0)
    exact = buckets // 2
    ratio = torch.log(distance.clamp_min(1).float() / exact) / math.log(shape.max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp_max(buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


def initialise(network: Network, embedding: Tensor, generator: torch.Generator) -> None:
    """T5's scales, with o and wo at 0.3 of theirs so that the residual stream starts quiet.

    Cross-attention starts as a copier, o being half of v's inverse: what is attended to is then
    also what is said, and only the attention has to be learned before options can be copied.
    """
    shape = network.shape
    inner = shape.heads * shape.d_kv
    scales = {"q": (shape.d_model * shape.d_kv) ** -0.5, "o": 0.3 * inner**-0.5}
    scales |= dict.fromkeys(("k", "v", "wi_0", "wi_1"), shape.d_model**-0.5)
    scales |= {"wo": 0.3 * shape.d_ff**-0.5, "relative_attention_bias": shape.d_model**-0.5}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            owner = name.split(".")[-2]
            if owner in scales:
                parameter.normal_(0.0, scales[owner], generator=generator)
        network.shared.weight.copy_(embedding)
        for module in network.decoder.modules():
            if isinstance(module, CrossSublayer):
                attention = module.EncDecAttention
                nn.init.orthogonal_(attention.v.weight, generator=generator)
                attention.o.weight.copy_(COPY_STRENGTH * attention.v.weight.T)
