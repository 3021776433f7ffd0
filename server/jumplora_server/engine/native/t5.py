"""The T5 family as tapes: one encodes packed prompts, one decodes a token of many rows.

The same flow as engine/models/t5.py, which is its reference; here each line records an operation on
fixed buffers, and a whole step is one call. Every kernel computes a row in an order of its own, so
there is nothing to pad and nothing to round up.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from jumplora_adapters import network
from jumplora_adapters.architecture import Architecture
from jumplora_adapters.network import Attention, FeedForward, Site
from jumplora_server.engine.attention import Direction, position_buckets
from jumplora_server.engine.memory import lazy_zeros
from jumplora_server.engine.native.layout import LANES, MAX_MODULES, Function, Kind, Step
from jumplora_server.engine.native.sampling import CandidateLists
from jumplora_server.engine.native.tape import Tape
from jumplora_server.engine.native.weights import PackedWeight, pack_weights, roomy
from jumplora_server.engine.weights import StoredTensors


class NativeT5:
    """A backbone's packed weights, buffers and caches, and the tapes over them."""

    def __init__(
        self,
        config: Architecture,
        weights: StoredTensors,
        *,
        library: ctypes.CDLL,
        end_token_ids: tuple[int, ...],
        dtype: str,
        tokens: int,
        rows: int,
        nodes: int,
        max_source: int,
        max_target: int,
    ) -> None:
        """Args: `tokens` is how many one encode takes at most; the rest are the engine's limits."""
        self.config = config
        self.sites = {name: number for number, name in enumerate(network.sites(config))}
        self.weight_bytes = 0
        self._dtype = dtype
        self._weights = weights
        self._source = _whole(max_source)
        self._target = _whole(max_target)
        self._longest = max_source
        inner, wide = config.inner, config.d_ff * (2 if config.is_gated else 1)
        together = rows + nodes  # what one decode computes
        capacity = max(tokens, together)
        self._x = _buffer(capacity, config.d_model)
        self._h = _buffer(capacity, config.d_model)
        self._wide = _buffer(capacity, max(3 * inner, wide))
        self._mid = _buffer(capacity, max(inner, config.d_ff))
        # For rows packed side by side, or for tokens transposed: each prompt's to whole vectors.
        widest = max(config.d_model, inner, config.d_ff)
        lanes = max(capacity + LANES * rows, LANES * together)
        self._scratch = _buffer(max(capacity * (widest + 7), lanes * widest))
        # Not written here: rows that no step has had cost no memory.
        self.logits = roomy((together, config.vocab_size), torch.float32)
        self.highest = torch.zeros(together)
        self.best = torch.zeros(together, dtype=torch.int64)
        self.logprobs = torch.zeros(together, dtype=torch.float64)
        # The tokens that each cache row was fed: repetition counts the start token, too.
        self.fed = torch.zeros(rows, max_target, dtype=torch.int32)
        self._ends = torch.tensor(end_token_ids, dtype=torch.int64)
        self.candidates = CandidateLists(together, len(end_token_ids), widest_search=rows)
        # A page costs memory once a row has used it. Not on huge pages: a row has 2 MB of each for
        # 512 keys, and a short prompt writes a little of every head's part.
        layers, numbers = config.num_decoder_layers, rows * inner
        # Beside int8 weights, which a decode reads as well, these would be a third of all bytes.
        self._is_source_half = dtype == "int8"
        kept = torch.float16 if self._is_source_half else torch.float32
        self._source_k, self._source_v = (
            lazy_zeros((layers, numbers * self._source), kept) for _ in range(2)
        )
        self._target_k, self._target_v = (
            lazy_zeros((layers, numbers * self._target), torch.float32) for _ in range(2)
        )
        modules = network.network(config)
        self._embedding = self._tensor(modules.encoder.embedding)
        self._decoder_embedding = self._embedding
        if not weights.are_tied(modules.decoder.embedding, modules.encoder.embedding):
            self._decoder_embedding = self._tensor(modules.decoder.embedding)
        self._biases: dict[tuple[str, Direction], Tensor] = {}  # by the name of their table
        # First, while there is room for the copies on their way: it is the largest.
        self._head = self._pack(modules.head)
        self.encoding, self.decoding, self._copying = (Tape(library) for _ in range(3))
        self._record_encode(self.encoding, modules)
        self._record_decode(self.decoding, modules)
        self._record_copy(self._copying)
        del self._weights

    def encode(self, step: Step) -> None:
        """Write packed prompts' keys and values into their source places."""
        self.encoding.replay(step)

    def decode(self, step: Step) -> None:
        """One token of each sequence: `best[i]` and where wanted `logprobs[i]` for the i-th.

        `highest[i]` is not finite where it can have none; `logits[i]` are as they were computed.
        """
        self.decoding.replay(step)

    def copy(self, step: Step) -> None:
        """Copy what rows of the target cache hold."""
        self._copying.replay(step)

    # -- the tapes

    def _record_encode(self, tape: Tape, modules: network.Network) -> None:
        sizes = (self.config.num_heads, self.config.d_kv)
        many = Kind.DELTA_MANY
        tape.add(Kind.EMBED, self._embedding, self._x, n=(self.config.d_model,))
        for block in modules.encoder.blocks:
            own = block.attention
            self._norm(tape, own.norm)
            self._linear(tape, many, self._h, self._wide, own.q, own.k, own.v)
            tape.add(
                Kind.ATTEND_PROMPTS, self._wide, self._mid, self._encoder_bias(own),
                n=(*sizes, self._longest),
            )  # fmt: skip
            self._linear(tape, many, self._mid, self._x, own.o, adds=True)
            self._feed_forward(tape, many, block.feed_forward)
        self._norm(tape, modules.encoder.norm)
        for block, keys, values in zip(
            modules.decoder.blocks, self._source_k, self._source_v, strict=True
        ):
            assert block.cross is not None
            self._linear(tape, many, self._h, self._wide, block.cross.k, block.cross.v)
            tape.add(
                Kind.STORE_SOURCE, self._wide, keys, values,
                n=(*sizes, self._source, int(self._is_source_half)),
            )  # fmt: skip

    def _record_decode(self, tape: Tape, modules: network.Network) -> None:
        config, few = self.config, Kind.DELTA_FEW
        sizes = (config.num_heads, config.d_kv)
        tape.add(Kind.EMBED, self._decoder_embedding, self._x, n=(config.d_model,))
        for i, block in enumerate(modules.decoder.blocks):
            own, cross = block.attention, block.cross
            assert cross is not None
            self._norm(tape, own.norm)
            self._linear(tape, few, self._h, self._wide, own.q, own.k, own.v)
            tape.add(
                Kind.ATTEND_SELF, self._wide, self._mid, self._target_k[i], self._target_v[i],
                self._decoder_bias(own), n=(*sizes, self._target),
            )  # fmt: skip
            self._linear(tape, few, self._mid, self._x, own.o, adds=True)
            self._norm(tape, cross.norm)
            self._linear(tape, few, self._h, self._wide, cross.q)
            tape.add(
                Kind.ATTEND_CROSS, self._wide, self._mid, self._source_k[i], self._source_v[i],
                n=(*sizes, self._source, int(self._is_source_half)),
            )  # fmt: skip
            self._linear(tape, few, self._mid, self._x, cross.o, adds=True)
            self._feed_forward(tape, few, block.feed_forward)
        self._norm(tape, modules.decoder.norm, factor=config.logit_scale)
        self._product(tape, self._h, self._head, self.logits, modules.head)
        self._deltas(tape, few, self._h, self.logits, modules.head)
        self._choose(tape)

    def _record_copy(self, tape: Tape) -> None:
        sizes = (self.config.num_heads, self.config.d_kv, self._target)
        for keys, values in zip(self._target_k, self._target_v, strict=True):
            tape.add(Kind.COPY, keys, values, n=sizes)

    # -- operations

    def _choose(self, tape: Tape) -> None:
        size = self.config.vocab_size
        tape.add(Kind.BEST, self.logits, self.highest, self.best, n=(size,))
        tape.add(
            Kind.CHOOSE, self.logits, self.highest, self.best, self.logprobs, self.fed, self._ends,
            self.candidates.ids, self.candidates.logprobs,
            n=(size, self.fed.shape[1], len(self._ends), self.candidates.most),
        )  # fmt: skip
        tape.add(Kind.READ_EDGES, self.logits, self.highest, n=(size,))

    def _norm(self, tape: Tape, name: str, *, factor: float = 1.0) -> None:
        tape.add(
            Kind.NORM, self._x, self._tensor(name), self._h,
            n=(self.config.d_model,), f=(self.config.layer_norm_epsilon, factor),
        )  # fmt: skip

    def _feed_forward(self, tape: Tape, kind: Kind, dense: FeedForward) -> None:
        d_ff = self.config.d_ff
        self._norm(tape, dense.norm)
        function = Function[self.config.activation.upper()]
        if self.config.is_gated:
            self._linear(tape, kind, self._h, self._wide, *dense.wide)
            tape.add(Kind.GATE, self._wide, self._mid, n=(d_ff, function))
        else:
            self._linear(tape, kind, self._h, self._mid, *dense.wide)
            tape.add(Kind.ACTIVATE, self._mid, n=(d_ff, function))
        self._linear(tape, kind, self._mid, self._x, dense.narrow, adds=True)

    def _linear(
        self, tape: Tape, kind: Kind, x: Tensor, y: Tensor, *sites: Site, adds: bool = False
    ) -> None:
        """One product for several sites with one input, and what rows add to each of them.

        Deltas that no row of a step adds cost nothing: their operations are passed over.
        """
        self._product(tape, x, self._pack(*sites), y, *sites, adds=adds)
        self._deltas(tape, kind, x, y, *sites)

    def _product(
        self,
        tape: Tape,
        x: Tensor,
        weight: PackedWeight,
        y: Tensor,
        *sites: Site,
        adds: bool = False,
    ) -> None:
        d_in, d_out, first, modules = self._numbers(sites)
        sizes = (d_in, d_out, modules * d_out, int(adds), first, modules)
        if weight.scales is None:
            tape.add(Kind.LINEAR_F32, x, weight.panels, y, self._scratch, n=sizes)
        else:
            tape.add(Kind.LINEAR_I8, x, weight.panels, y, self._scratch, weight.scales, n=sizes)

    def _deltas(self, tape: Tape, kind: Kind, x: Tensor, y: Tensor, *sites: Site) -> None:
        d_in, d_out, first, modules = self._numbers(sites)
        tape.add(kind, x, y, self._scratch, n=(d_in, d_out, modules * d_out, first, modules))

    def _numbers(self, sites: Sequence[Site]) -> tuple[int, int, int, int]:
        """d_in and d_out of each, the place of the first in a table, and how many there are."""
        assert len(sites) <= MAX_MODULES
        d_out, d_in = sites[0].shape
        first = self.sites[sites[0].name]
        for number, site in enumerate(sites, first):  # the kernels count on from the first
            assert (self.sites[site.name], site.shape) == (number, (d_out, d_in)), site.name
        return d_in, d_out, first, len(sites)

    # -- parameters

    def _tensor(self, name: str) -> Tensor:
        tensor = self._weights[name].float().contiguous()
        self.weight_bytes += tensor.nbytes
        return tensor

    def _pack(self, *sites: Site) -> PackedWeight:
        packed = pack_weights([self._weights[site.weight] for site in sites], self._dtype)
        self.weight_bytes += packed.nbytes
        return packed

    def _encoder_bias(self, attention: Attention) -> Tensor:
        """[heads, 2 * longest - 1]: the bias of each distance, key minus query."""
        return self._bias(attention, "both", torch.arange(1 - self._longest, self._longest))

    def _decoder_bias(self, attention: Attention) -> Tensor:
        """[heads, target]: the bias of each distance, keys before their query, nearest last."""
        return self._bias(attention, "past", torch.arange(1 - self._target, 1))

    def _bias(self, attention: Attention, sees: Direction, distance: Tensor) -> Tensor:
        """Of each distance [n]: [heads, n]. Blocks with one table have one tensor."""
        name = attention.position_bias
        assert name is not None
        if (name, sees) not in self._biases:
            buckets = position_buckets(distance, self.config, sees=sees)
            self._biases[name, sees] = self._tensor(name)[buckets].t().contiguous()
        return self._biases[name, sees]


def _whole(length: int) -> int:
    return -(-length // LANES) * LANES


def _buffer(*shape: int) -> Tensor:
    return roomy(shape, torch.float32).zero_()
