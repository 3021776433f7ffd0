"""Writes the backbone as a folder that transformers' T5ForConditionalGeneration loads."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

from demo.recipe.network import Shape


def configuration(shape: Shape) -> T5Config:
    return T5Config(
        vocab_size=shape.vocabulary,
        d_model=shape.d_model,
        d_kv=shape.d_kv,
        d_ff=shape.d_ff,
        num_layers=shape.encoder_layers,
        num_decoder_layers=shape.decoder_layers,
        num_heads=shape.heads,
        relative_attention_num_buckets=shape.buckets,
        relative_attention_max_distance=shape.max_distance,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=True,
        scale_decoder_outputs=True,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )


def export(shape: Shape, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Stores in bfloat16; raises RuntimeError when a name is missing or unknown."""
    model = T5ForConditionalGeneration(configuration(shape))
    tied = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}
    missing, unknown = model.load_state_dict(dict(weights), strict=False)
    if unknown or set(missing) - tied:
        raise RuntimeError(f"names do not match T5's: missing {missing}, unknown {unknown}")
    model.to(torch.bfloat16).save_pretrained(folder)
    GenerationConfig(
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, max_new_tokens=16
    ).save_pretrained(folder)
