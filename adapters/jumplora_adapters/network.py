"""The modules of a T5 network and their names: the one place that writes them.

Source: Raffel et al., arXiv 1910.10683, and the names that transformers gives in its checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # its module needs torch, and the command line imports this one at its start
    from jumplora_adapters.architecture import Architecture, ModelType

StackName = Literal["encoder", "decoder"]
Part = Literal["self", "cross", "feed-forward", "head"]
Role = Literal["q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo", "lm_head"]

HEAD: Role = "lm_head"
ALL_LINEAR = "all-linear"  # PEFT's name for all linear layers but the head
OF_A_MODEL = ("shared.weight", "embed_tokens.weight", "layer_norm.weight")
"""Ends of names that every checkpoint has, and no adapter."""
LINEAR: frozenset[str] = frozenset(get_args(Role)) - {HEAD}
"""The last part of the names of all linear layers but the head."""


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

    def position_biases(self) -> tuple[str, ...]:
        """The tables of its blocks, each once."""
        named = (attention.position_bias for b in self.blocks for attention in b.attentions())
        return tuple(dict.fromkeys(name for name in named if name is not None))


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


@dataclass(frozen=True, slots=True)
class _Names:
    """How a family names its modules. A block's are filled with its stack and its number."""

    shared: str
    embeddings: tuple[str, str]
    head: str
    stacks: Mapping[StackName, str]
    norm: str  # behind a stack
    position_bias: str
    block: str
    parts: Mapping[Part, tuple[str, str]]  # in a block: the norm and the module; n is its layer
    roles: Mapping[Role, str]
    obsolete: frozenset[str] = frozenset()


_T5 = _Names(
    shared="shared.weight",
    embeddings=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    head=HEAD,
    stacks={"encoder": "encoder", "decoder": "decoder"},
    norm="{stack}.final_layer_norm.weight",
    # One table a stack, in its first block.
    position_bias="{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    block="{stack}.block.{block}",
    parts={
        "self": ("layer.{n}.layer_norm.weight", "layer.{n}.SelfAttention"),
        "cross": ("layer.{n}.layer_norm.weight", "layer.{n}.EncDecAttention"),
        "feed-forward": ("layer.{n}.layer_norm.weight", "layer.{n}.DenseReluDense"),
    },
    roles={role: role for role in get_args(Role)},
    # The published T5 files have it; no T5 implementation has a layer for it.
    obsolete=frozenset({"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"}),
)
_UMT5 = replace(
    _T5,  # but a table a block
    position_bias="{stack}.block.{block}.layer.0.SelfAttention.relative_attention_bias.weight",
)
_NAMES: Mapping[ModelType, _Names] = {"t5": _T5, "mt5": _T5, "umt5": _UMT5}


def network(architecture: Architecture) -> Network:
    """The modules of a backbone."""
    head = _NAMES[architecture.model_type].head
    return Network(
        encoder=_stack(architecture, "encoder"),
        decoder=_stack(architecture, "decoder"),
        head=Site(
            head, (architecture.vocab_size, architecture.d_model), "decoder", None, "head", HEAD
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
    names = _NAMES[architecture.model_type]
    embedding = (architecture.vocab_size, d)
    table = (architecture.relative_attention_num_buckets, architecture.num_heads)
    shapes: dict[str, tuple[int, ...]] = {names.shared: embedding}
    # In this order the benchmarks draw the random backbones that their results are of.
    for stack in (modules.encoder, modules.decoder):
        for block in stack.blocks:
            for attention in block.attentions():
                for site in (attention.q, attention.k, attention.v, attention.o):
                    shapes[site.weight] = site.shape
                shapes[attention.norm] = (d,)
            for site in (*block.feed_forward.wide, block.feed_forward.narrow):
                shapes[site.weight] = site.shape
            shapes[block.feed_forward.norm] = (d,)
        shapes |= dict.fromkeys(stack.position_biases(), table)
        shapes[stack.norm] = (d,)
    tied = (names.shared, *names.embeddings, modules.head.weight)
    return Parameters(
        shapes=shapes | dict.fromkeys(tied, embedding), tied=tied, obsolete=names.obsolete
    )


def embeddings(architecture: Architecture) -> tuple[str, ...]:
    """The modules with a matrix that is looked up in: tokens and position biases."""
    modules, names = network(architecture), _NAMES[architecture.model_type]
    biases = (*modules.encoder.position_biases(), *modules.decoder.position_biases())
    found = (names.shared, *names.embeddings, *biases)
    return tuple(name.removesuffix(".weight") for name in found)


def kind_of(module: str) -> str:
    """A linear layer whatever its block: "encoder SelfAttention q"."""
    if "." not in module:
        return module
    stack, *_, part, role = module.split(".")
    return f"{stack} {part} {role}"


def short_name(module: str) -> str:
    """For people: "decoder 3 cross q" of decoder.block.3.layer.1.EncDecAttention.q.

    A name of another form is given as it is.
    """
    match module.split("."):
        case [stack, _, block, *_, part, role] if part in _SHORT:
            return f"{stack} {block} {_SHORT[part]} {role}"
        case _:
            return module


_SHORT = {"SelfAttention": "self", "EncDecAttention": "cross", "DenseReluDense": "feed-forward"}


def _stack(architecture: Architecture, stack: StackName) -> Stack:
    layers = architecture.num_layers if stack == "encoder" else architecture.num_decoder_layers
    names = _NAMES[architecture.model_type]
    return Stack(
        embedding=names.embeddings[stack == "decoder"],
        blocks=tuple(_block(architecture, stack, block) for block in range(layers)),
        norm=names.norm.format(stack=names.stacks[stack]),
    )


def _block(architecture: Architecture, stack: StackName, block: int) -> Block:
    is_decoder = stack == "decoder"
    norm, base = _place(architecture, stack, block, "feed-forward", 2 if is_decoder else 1)
    roles = _NAMES[architecture.model_type].roles
    d, ff = architecture.d_model, architecture.d_ff

    def site(role: Role, d_out: int, d_in: int) -> Site:
        name = f"{base}.{roles[role]}"
        return Site(name, (d_out, d_in), stack, block, "feed-forward", role)

    wide: tuple[Role, ...] = ("wi",)
    if architecture.is_gated:
        wide = ("wi_0", "wi_1")
    return Block(
        attention=_attention(architecture, stack, block, "self"),
        cross=_attention(architecture, stack, block, "cross") if is_decoder else None,
        feed_forward=FeedForward(
            norm=norm,
            wide=tuple(site(role, ff, d) for role in wide),
            narrow=site("wo", d, ff),
        ),
    )


def _place(
    architecture: Architecture, stack: StackName, block: int, part: Part, n: int
) -> tuple[str, str]:
    """The norm and the module of a block's part, which is its n-th."""
    names = _NAMES[architecture.model_type]
    base = names.block.format(stack=names.stacks[stack], block=block)
    norm, module = (f"{base}.{name.format(n=n)}" for name in names.parts[part])
    return norm, module


def _attention(
    architecture: Architecture, stack: StackName, block: int, part: Literal["self", "cross"]
) -> Attention:
    names = _NAMES[architecture.model_type]
    norm, name = _place(architecture, stack, block, part, 0 if part == "self" else 1)
    d, inner = architecture.d_model, architecture.inner

    def site(role: Role, d_out: int, d_in: int) -> Site:
        return Site(f"{name}.{names.roles[role]}", (d_out, d_in), stack, block, part, role)

    return Attention(
        norm=norm,
        q=site("q", inner, d),
        k=site("k", inner, d),
        v=site("v", inner, d),
        o=site("o", d, inner),
        position_bias=names.position_bias.format(stack=names.stacks[stack], block=block)
        if part == "self"
        else None,
    )
