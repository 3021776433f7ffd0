"""Members of the T5 family by name, and odd shapes of them: what `tiny_t5` makes each of."""

from __future__ import annotations

from typing import Any

Options = dict[str, Any]


def _with(*, style: str = "v1.1", fields: Options | None = None, **options: Any) -> Options:
    return {"style": style, "layers": 1, "vocab": 512, "fields": fields or {}, **options}


def _activation(feed_forward_proj: str, **options: Any) -> Options:
    return _with(fields={"feed_forward_proj": feed_forward_proj}, **options)


def _distances(buckets: int, distance: int, **options: Any) -> Options:
    fields = {
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": distance,
    }
    return _with(fields=fields, **options)


# In the proportions of their published checkpoints.
MEMBERS: dict[str, Options] = {
    "T5": _with(style="v1.0", layers=2),
    "T5 v1.1": _with(layers=2),
    "mT5": _with(style="mt5", layers=2),
    "umT5": _with(style="umt5", layers=3),
    "ByT5": _with(layers=3, decoder_layers=1, vocab=384, heads=3),
    "CodeT5": _with(
        style="v1.0", layers=2, fields={"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    ),
    "UL2": _activation("gated-silu", d_kv=16, heads=2, layers=2),
    "MADLAD-400": _with(
        vocab=450, d_kv=16, heads=4, layers=2, fields={"eos_token_id": 2, "pad_token_id": 1}
    ),
}
SHAPES: dict[str, Options] = {
    # Attention.
    "heads wider than the model": _with(d_kv=24, heads=3),
    "heads narrower than the model": _with(d_kv=3, heads=2),
    "heads of 5": _with(d_kv=5, heads=3),
    "heads of 1": _with(d_kv=1, heads=7, style="v1.0"),
    "one head": _with(d_kv=17, heads=1, style="mt5"),
    "heads of 80": _with(d_kv=80, heads=1),
    # Positions.
    "seven buckets": _distances(7, 20),
    "four buckets": _distances(4, 3, style="v1.0"),
    "33 buckets, far": _distances(33, 1000, style="mt5"),
    "umT5 with five buckets": _distances(5, 40, style="umt5", layers=2),
    # Depths and widths.
    "a deeper encoder": _with(layers=4, decoder_layers=1, style="umt5"),
    "a deeper decoder": _with(layers=1, decoder_layers=4, style="umt5"),
    "a feed-forward of 13": _with(d_ff=13),
    "a feed-forward of 1": _with(d_ff=1, style="v1.0"),
    "a feed-forward of 100, gated SiLU": _activation("gated-silu", d_ff=100),
    "a model of 7": _with(d_model=7),
    "a model of 33": _with(d_model=33, style="v1.0"),
    "a vocabulary of 401": _with(vocab=401),
    # Norms.
    "a large epsilon": _with(fields={"layer_norm_epsilon": 1e-2}),
    "a small epsilon": _with(fields={"layer_norm_epsilon": 1e-12}, style="umt5"),
    # Activations.
    "GELU": _activation("gelu"),
    "gated GELU": _activation("gated-gelu_python", style="umt5"),
    "the tanh form, not gated": _activation("gelu_new", style="mt5"),
    "SiLU": _activation("silu", d_ff=19),
    "swish, gated": _activation("gated-swish", style="v1.0"),
    "gated ReLU": _activation("gated-relu", style="umt5"),
    "ReLU with a head of its own": _activation("relu"),
    # Heads and tokens.
    "gated with a tied head": _activation("gated-gelu", style="v1.0"),
    "a head of its own that is scaled": _with(fields={"scale_decoder_outputs": True}),
    "a umT5 that is scaled": _with(fields={"scale_decoder_outputs": True}, style="umt5"),
    "other tokens": _with(fields={"decoder_start_token_id": 9, "eos_token_id": 7}, style="mt5"),
}
