"""The modules of a T5 network and their names: the one place that writes them.

Source: Raffel et al., arXiv 1910.10683, and the names that transformers gives in its checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # its module needs torch, and the command line imports this one at its start
    from jumplora_adapters.architecture import Architecture

StackName = Literal["encoder", "decoder"]
Part = Literal["self", "cross", "feed-forward", "head"]
Role = Literal["q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo", "lm_head"]

HEAD: Role = "lm_head"
LINEAR: frozenset[str] = frozenset(get_args(Role)) - {HEAD}
"""The last part of the names of all linear layers but the head."""

_SHARED = "shared.weight"
_EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# The published T5 files have it; no T5 implementation has a layer for it.
_OBSOLETE = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


@dataclass(frozen=True, slots=True)
class Site:
    """One linear layer, y = x W^T with W [d_out, d_in]: where an adapter may add a delta."""

    name: str  # of the module
    shape: tuple[int, int]  # d_out, d_in
    stack: StackName
    block: int | None  # None: the head, which is behind all blocks of the decoder
    part: Part
    role: Role

    @property
    def weight(self) -> str:
        """The name of its parameter."""
        return f"{self.name}.weight"

    @property
    def is_decoded(self) -> bool:
        """Whether each token of an answer goes through it; the rest compute once a prompt."""
        if self.part == "cross":
            return self.role in ("q", "o")
        return self.stack == "decoder"


@dataclass(frozen=True, slots=True)
class Attention:
    """Four projections behind a norm; cross-attention has no position bias."""

    norm: str
    q: Site
    k: Site
    v: Site
    o: Site
    position_bias: str | None  # [buckets, heads]; blocks may have one in common


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Two products behind a norm; `wide` is one weight, or a gate and what it lets through."""

    norm: str
    wide: tuple[Site, ...]
    narrow: Site


@dataclass(frozen=True, slots=True)
class Block:
    """One layer of a stack; only the decoder's have cross-attention."""

    attention: Attention
    cross: Attention | None
    feed_forward: FeedForward

    def attentions(self) -> tuple[Attention, ...]:
        """Both, in the order of the network."""
        return (self.attention,) if self.cross is None else (self.attention, self.cross)


@dataclass(frozen=True, slots=True)
class Stack:
    """The encoder or the decoder."""

    embedding: str  # [vocabulary, d_model]
    blocks: tuple[Block, ...]
    norm: str  # behind the last block


@dataclass(frozen=True, slots=True)
class Network:
    """All modules of an encoder, a decoder and a head, by name."""

    encoder: Stack
    decoder: Stack
    head: Site

    def blocks(self) -> Iterator[Block]:
        """Of both stacks, in the order of the network."""
        yield from self.encoder.blocks
        yield from self.decoder.blocks


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a network asks of a checkpoint."""

    shapes: Mapping[str, tuple[int, ...]]  # of every parameter by its name, tied or not
    tied: tuple[str, ...]
    """What may be one tensor. The first that a file has stands in for those that it has not."""
    obsolete: frozenset[str]  # what files have although nothing computes with it


def network(architecture: Architecture) -> Network:
    """The modules of a backbone."""
    return Network(
        encoder=_stack(architecture, "encoder"),
        decoder=_stack(architecture, "decoder"),
        head=Site(
            HEAD, (architecture.vocab_size, architecture.d_model), "decoder", None, "head", HEAD
        ),
    )


def sites(architecture: Architecture) -> dict[str, Site]:
    """Every linear layer by its name, in the order of the network."""
    found: list[Site] = []
    modules = network(architecture)
    for block in modules.blocks():
        for attention in block.attentions():
            found += (attention.q, attention.k, attention.v, attention.o)
        found += (*block.feed_forward.wide, block.feed_forward.narrow)
    return {site.name: site for site in (*found, modules.head)}


def version_1_targets(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of what format version 1 may target and fingerprint version 1 covers.

    Every q and v projection, in the order of the network. This list never changes.
    """
    return {
        name: site.shape for name, site in sites(architecture).items() if site.role in ("q", "v")
    }


def parameters(architecture: Architecture) -> Parameters:
    """The shape of every parameter, and which of them may be one tensor."""
    modules, d = network(architecture), architecture.d_model
    embedding = (architecture.vocab_size, d)
    shapes: dict[str, tuple[int, ...]] = {_SHARED: embedding}
    for block in modules.blocks():
        for attention in block.attentions():
            for site in (attention.q, attention.k, attention.v, attention.o):
                shapes[site.weight] = site.shape
            shapes[attention.norm] = (d,)
            if attention.position_bias is not None:
                shapes[attention.position_bias] = (
                    architecture.relative_attention_num_buckets,
                    architecture.num_heads,
                )
        for site in (*block.feed_forward.wide, block.feed_forward.narrow):
            shapes[site.weight] = site.shape
        shapes[block.feed_forward.norm] = (d,)
    shapes |= {modules.encoder.norm: (d,), modules.decoder.norm: (d,)}
    tied = (_SHARED, *_EMBEDDINGS, modules.head.weight)
    return Parameters(
        shapes=shapes | dict.fromkeys(tied, embedding), tied=tied, obsolete=frozenset({_OBSOLETE})
    )


def embeddings(architecture: Architecture) -> tuple[str, ...]:
    """The modules with a matrix that is looked up in: tokens and position biases."""
    biases = {
        attention.position_bias
        for block in network(architecture).blocks()
        for attention in block.attentions()
        if attention.position_bias is not None
    }
    return tuple(name.removesuffix(".weight") for name in (_SHARED, *_EMBEDDINGS, *sorted(biases)))


def kind_of(module: str) -> str:
    """A linear layer whatever its block: "encoder SelfAttention q"."""
    if module == HEAD:
        return module
    stack, *_, part, role = module.split(".")
    return f"{stack} {part} {role}"


def short_name(module: str) -> str:
    """For people: "decoder 3 cross q" of decoder.block.3.layer.1.EncDecAttention.q."""
    if module == HEAD:
        return module
    stack, _, block, *_, part, role = module.split(".")
    return f"{stack} {block} {_SHORT[part]} {role}"


_SHORT = {"SelfAttention": "self", "EncDecAttention": "cross", "DenseReluDense": "feed-forward"}


def _stack(architecture: Architecture, stack: StackName) -> Stack:
    layers = architecture.num_layers if stack == "encoder" else architecture.num_decoder_layers
    return Stack(
        embedding=_EMBEDDINGS[stack == "decoder"],
        blocks=tuple(_block(architecture, stack, block) for block in range(layers)),
        norm=f"{stack}.final_layer_norm.weight",
    )


def _block(architecture: Architecture, stack: StackName, block: int) -> Block:
    is_decoder = stack == "decoder"
    last = 2 if is_decoder else 1
    base = f"{stack}.block.{block}.layer.{last}"
    d, ff = architecture.d_model, architecture.d_ff

    def site(role: Role, d_out: int, d_in: int) -> Site:
        name = f"{base}.DenseReluDense.{role}"
        return Site(name, (d_out, d_in), stack, block, "feed-forward", role)

    wide: tuple[Role, ...] = ("wi",)
    if architecture.feed_forward_proj != "relu":
        wide = ("wi_0", "wi_1")
    return Block(
        attention=_attention(architecture, stack, block, "self"),
        cross=_attention(architecture, stack, block, "cross") if is_decoder else None,
        feed_forward=FeedForward(
            norm=f"{base}.layer_norm.weight",
            wide=tuple(site(role, ff, d) for role in wide),
            narrow=site("wo", d, ff),
        ),
    )


def _attention(
    architecture: Architecture, stack: StackName, block: int, part: Literal["self", "cross"]
) -> Attention:
    layer = f"{stack}.block.{block}.layer.{0 if part == 'self' else 1}"
    name = f"{layer}.{'SelfAttention' if part == 'self' else 'EncDecAttention'}"
    d, inner = architecture.d_model, architecture.inner

    def site(role: Role, d_out: int, d_in: int) -> Site:
        return Site(f"{name}.{role}", (d_out, d_in), stack, block, part, role)

    return Attention(
        norm=f"{layer}.layer_norm.weight",
        q=site("q", inner, d),
        k=site("k", inner, d),
        v=site("v", inner, d),
        o=site("o", d, inner),
        # T5 keeps one table a stack, in its first block.
        position_bias=f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        if part == "self"
        else None,
    )
