"""The T5 family as two tapes: one encodes packed prompts, one decodes a token of many rows.

The same flow as engine/t5.py, which is its reference; here each line records an operation on fixed
buffers, and a whole step is one call. Every kernel computes a row in an order of its own, so there
is nothing to pad and nothing to round up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture
from jumplora_adapters.checkpoint import DECODER_EMBEDDING, ENCODER_EMBEDDING, HEAD
from jumplora_server.engine.memory import lazy_zeros
from jumplora_server.engine.native.layout import LANES, Kind, Step
from jumplora_server.engine.native.tape import Tape
from jumplora_server.engine.native.weights import PackedWeight, pack_weight, roomy
from jumplora_server.engine.t5 import Direction, position_buckets
from jumplora_server.engine.weights import StoredTensors, stacked


class NativeT5:
    """A backbone's packed weights, buffers and caches, and the tapes over them."""

    def __init__(
        self,
        config: Architecture,
        weights: StoredTensors,
        *,
        end_token_ids: tuple[int, ...],
        dtype: str,
        tokens: int,
        rows: int,
        max_source: int,
        max_target: int,
    ) -> None:
        """Args: `tokens` is how many one encode takes at most; the rest are the engine's limits."""
        self.config = config
        self.modules: dict[str, int] = {}  # module name -> its place in a slot's table
        self.weight_bytes = 0
        self._dtype = dtype
        self._weights = weights
        self._source = _whole(max_source)
        self._target = _whole(max_target)
        self._longest = max_source
        inner, wide = config.inner, config.d_ff * (1 if config.feed_forward_proj == "relu" else 2)
        capacity = max(tokens, rows)
        self._x = _buffer(capacity, config.d_model)
        self._h = _buffer(capacity, config.d_model)
        self._wide = _buffer(capacity, max(3 * inner, wide))
        self._mid = _buffer(capacity, max(inner, config.d_ff))
        # For rows packed side by side, or for tokens transposed: each prompt's to whole vectors.
        widest = max(config.d_model, inner, config.d_ff)
        lanes = capacity + LANES * rows
        self._scratch = _buffer(max(capacity * (widest + 3), lanes * config.d_model))
        self._row_scales = _buffer(capacity, 2)
        self.logits = _buffer(rows, config.vocab_size)
        self.highest, self.best = torch.zeros(rows), torch.zeros(rows, dtype=torch.int64)
        self.logprobs = torch.zeros(rows, dtype=torch.float64)
        # The tokens that each cache row was fed: repetition counts the start token, too.
        self._fed = torch.zeros(rows, max_target, dtype=torch.int32)
        self._ends = torch.tensor(end_token_ids, dtype=torch.int64)
        cross = (config.num_decoder_layers, rows * config.num_heads * config.d_kv * self._source)
        own = (config.num_decoder_layers, rows * config.num_heads * config.d_kv * self._target)
        # A page costs memory once a row has used it. Not on huge pages: a row has 2 MB of each for
        # 512 keys, and a short prompt writes a little of every head's part.
        self._cross_k, self._cross_v = (lazy_zeros(cross, torch.float32) for _ in range(2))
        self._self_k, self._self_v = (lazy_zeros(own, torch.float32) for _ in range(2))
        self._embedding = self._tensor(ENCODER_EMBEDDING)
        self._decoder_embedding = self._embedding
        if not weights.are_tied(DECODER_EMBEDDING, ENCODER_EMBEDDING):
            self._decoder_embedding = self._tensor(DECODER_EMBEDDING)
        self._head = self._pack(HEAD)
        self.encoding, self.decoding = Tape(), Tape()
        self._number_modules()
        self._record_encode(self.encoding)
        self._record_decode(self.decoding)
        del self._weights

    def encode(self, step: Step) -> None:
        """Encode packed prompts into their rows' cross-attention caches."""
        self.encoding.replay(step)

    def decode(self, step: Step) -> None:
        """One token of each sequence: `best[i]` and where wanted `logprobs[i]` for the i-th.

        `highest[i]` is not finite where it can have none; `logits[i]` are as they were computed.
        """
        self.decoding.replay(step)

    # -- the two tapes

    def _record_encode(self, tape: Tape) -> None:
        config = self.config
        sizes = (config.num_heads, config.d_kv)
        bias = self._encoder_bias()
        tape.add(Kind.EMBED, self._embedding, self._x, n=(config.d_model,))
        for i in range(config.num_layers):
            layer = f"encoder.block.{i}.layer"
            own = f"{layer}.0.SelfAttention"
            self._norm(tape, f"{layer}.0.layer_norm")
            self._linear(tape, self._h, self._wide, own, "qkv")
            self._delta(tape, Kind.DELTA_MANY, self._h, self._wide, own, "qkv")
            tape.add(Kind.ATTEND_PROMPTS, self._wide, self._mid, bias, n=(*sizes, self._longest))
            self._linear(tape, self._mid, self._x, own, "o", adds=True)
            self._feed_forward(tape, f"{layer}.1")
        self._norm(tape, "encoder.final_layer_norm")
        for i in range(config.num_decoder_layers):
            cross = f"decoder.block.{i}.layer.1.EncDecAttention"
            self._linear(tape, self._h, self._wide, cross, "kv")
            self._delta(tape, Kind.DELTA_MANY, self._h, self._wide, cross, "kv")
            tape.add(
                Kind.STORE_SOURCE, self._wide, self._cross_k[i], self._cross_v[i],
                n=(*sizes, self._source),
            )  # fmt: skip

    def _record_decode(self, tape: Tape) -> None:
        config = self.config
        sizes = (config.num_heads, config.d_kv)
        bias = self._decoder_bias()
        tape.add(Kind.EMBED, self._decoder_embedding, self._x, n=(config.d_model,))
        for i in range(config.num_decoder_layers):
            layer = f"decoder.block.{i}.layer"
            own, cross = f"{layer}.0.SelfAttention", f"{layer}.1.EncDecAttention"
            self._norm(tape, f"{layer}.0.layer_norm")
            self._linear(tape, self._h, self._wide, own, "qkv")
            self._delta(tape, Kind.DELTA_FEW, self._h, self._wide, own, "qkv")
            tape.add(
                Kind.ATTEND_SELF, self._wide, self._mid, self._self_k[i], self._self_v[i], bias,
                n=(*sizes, self._target),
            )  # fmt: skip
            self._linear(tape, self._mid, self._x, own, "o", adds=True)
            self._norm(tape, f"{layer}.1.layer_norm")
            self._linear(tape, self._h, self._wide, cross, "q")
            self._delta(tape, Kind.DELTA_FEW, self._h, self._wide, cross, "q")
            tape.add(
                Kind.ATTEND_CROSS, self._wide, self._mid, self._cross_k[i], self._cross_v[i],
                n=(*sizes, self._source),
            )  # fmt: skip
            self._linear(tape, self._mid, self._x, cross, "o", adds=True)
            self._feed_forward(tape, f"{layer}.2")
        self._norm(tape, "decoder.final_layer_norm", factor=config.logit_scale)
        self._product(tape, self._h, self._head, self.logits)
        self._choose(tape)

    # -- operations

    def _choose(self, tape: Tape) -> None:
        size = self.config.vocab_size
        tape.add(Kind.BEST, self.logits, self.highest, self.best, n=(size,))
        tape.add(
            Kind.CHOOSE, self.logits, self.highest, self.best, self.logprobs, self._fed, self._ends,
            n=(size, self._fed.shape[1], len(self._ends)),
        )  # fmt: skip

    def _norm(self, tape: Tape, name: str, *, factor: float = 1.0) -> None:
        weight = self._tensor(f"{name}.weight")
        tape.add(
            Kind.NORM, self._x, weight, self._h,
            n=(self.config.d_model,), f=(self.config.layer_norm_epsilon, factor),
        )  # fmt: skip

    def _linear(
        self, tape: Tape, x: Tensor, y: Tensor, base: str, parts: str, *, adds: bool = False
    ) -> None:
        """One product for several weights of an attention: "qkv" is q, k and v side by side."""
        weight = self._pack(*(f"{base}.{part}.weight" for part in parts))
        self._product(tape, x, weight, y, adds=adds)

    def _feed_forward(self, tape: Tape, layer: str) -> None:
        dense, d_ff = f"{layer}.DenseReluDense", self.config.d_ff
        self._norm(tape, f"{layer}.layer_norm")
        narrow = self._pack(f"{dense}.wo.weight")
        if self.config.feed_forward_proj == "relu":
            self._product(tape, self._h, self._pack(f"{dense}.wi.weight"), self._mid)
            tape.add(Kind.RELU, self._mid, n=(d_ff,))
        else:
            wide = self._pack(f"{dense}.wi_0.weight", f"{dense}.wi_1.weight")
            self._product(tape, self._h, wide, self._wide)
            tape.add(Kind.GATED_GELU, self._wide, self._mid, n=(d_ff,))
        self._product(tape, self._mid, narrow, self._x, adds=True)

    def _product(
        self, tape: Tape, x: Tensor, weight: PackedWeight, y: Tensor, *, adds: bool = False
    ) -> None:
        sizes = (weight.d_in, weight.d_out, weight.d_out, int(adds))
        if weight.scales is None:
            tape.add(Kind.LINEAR_F32, x, weight.panels, y, self._scratch, n=sizes)
        else:
            tape.add(
                Kind.LINEAR_I8, x, weight.panels, y, self._scratch, weight.scales,
                self._row_scales, n=sizes,
            )  # fmt: skip

    def _delta(self, tape: Tape, kind: Kind, x: Tensor, y: Tensor, base: str, parts: str) -> None:
        first, inner = self.modules[f"{base}.{parts[0]}"], self.config.inner
        tape.add(
            kind, x, y, None, self._scratch,
            n=(self.config.d_model, inner, len(parts) * inner, first, len(parts)),
        )  # fmt: skip

    # -- parameters

    def _number_modules(self) -> None:
        for i in range(self.config.num_layers):
            for part in "qkv":
                self._number(f"encoder.block.{i}.layer.0.SelfAttention.{part}")
        for i in range(self.config.num_decoder_layers):
            for sub in ("0.SelfAttention", "1.EncDecAttention"):
                for part in "qkv":
                    self._number(f"decoder.block.{i}.layer.{sub}.{part}")

    def _number(self, module: str) -> None:
        self.modules[module] = len(self.modules)

    def _tensor(self, name: str) -> Tensor:
        tensor = self._weights[name].float().contiguous()
        self.weight_bytes += tensor.nbytes
        return tensor

    def _pack(self, *names: str) -> PackedWeight:
        packed = pack_weight(stacked(self._weights, names), self._dtype)
        self.weight_bytes += packed.nbytes
        return packed

    def _encoder_bias(self) -> Tensor:
        """[heads, 2 * longest - 1]: the bias of each distance, key minus query."""
        table = self._tensor("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
        distance = torch.arange(1 - self._longest, self._longest)
        return table[self._buckets(distance, "both")].t().contiguous()

    def _decoder_bias(self) -> Tensor:
        """[heads, target]: the bias of each distance, keys before their query, nearest last."""
        table = self._tensor("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
        distance = torch.arange(1 - self._target, 1)
        return table[self._buckets(distance, "past")].t().contiguous()

    def _buckets(self, distance: Tensor, sees: Direction) -> Tensor:
        config = self.config
        return position_buckets(
            distance,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            sees=sees,
        )


def _whole(length: int) -> int:
    return -(-length // LANES) * LANES


def _buffer(*shape: int) -> Tensor:
    return roomy(shape, torch.float32).zero_()
