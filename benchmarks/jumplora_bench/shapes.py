"""The shapes of backbones that are measured: the sizes of published T5 checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

ShapeName = Literal["tiny", "base", "large"]
SHAPE_NAMES: tuple[ShapeName, ...] = get_args(ShapeName)

# Sizes of google-t5/t5-base and t5-large (config.json). tiny measures nothing: it is small
# enough to see that a program runs.
_SIZES: Mapping[ShapeName, Mapping[str, int]] = MappingProxyType(
    {
        "tiny": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 2},
        "base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12, "num_layers": 12},
        "large": {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_heads": 16, "num_layers": 24},
    }
)
VOCABULARY = 32128


def config_of(shape: ShapeName) -> dict[str, Any]:
    """config.json of a T5 v1.0 of that shape: ReLU, tied head, scaled decoder output."""
    sizes = _SIZES[shape]
    return {
        **sizes,
        "num_decoder_layers": sizes["num_layers"],
        "vocab_size": VOCABULARY,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.1,
        "feed_forward_proj": "relu",
        "is_encoder_decoder": True,
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "tie_word_embeddings": True,
        "scale_decoder_outputs": True,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
