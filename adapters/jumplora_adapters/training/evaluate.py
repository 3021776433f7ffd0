"""Batched greedy decoding and scoring of the adapter as it will be saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import takewhile

import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig

from jumplora_adapters.decoding import TextDecoder
from jumplora_adapters.delta import Delta
from jumplora_adapters.training.adapt import AdaptedBackbone
from jumplora_adapters.training.batches import by_length, padded
from jumplora_adapters.training.data import Example
from jumplora_adapters.training.scores import all_scores

_SOURCE_TOKENS_A_BATCH = 16_384


def evaluate(
    adapted: AdaptedBackbone,
    deltas: Mapping[str, Delta],
    examples: Sequence[Example],
    decoder: TextDecoder,
    max_new_tokens: int,
) -> dict[str, float]:
    """Means of exact match, F1 and ROUGE-L over `examples`, each between 0 and 1."""
    with adapted.serving(deltas):
        predicted = greedy_texts(adapted, examples, decoder, max_new_tokens)
    return all_scores(predicted, [example.answer for example in examples])


@torch.inference_mode()
def greedy_texts(
    adapted: AdaptedBackbone,
    examples: Sequence[Example],
    decoder: TextDecoder,
    max_new_tokens: int,
) -> list[str]:
    """One decoded text an example, in their order, special tokens and the end token left out."""
    known = adapted.model.generation_config
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        decoder_start_token_id=known.decoder_start_token_id,
        eos_token_id=known.eos_token_id,
        pad_token_id=known.pad_token_id,
    )
    ends = frozenset(known.eos_token_id or ())
    lengths = [len(example.source) for example in examples]
    texts = [""] * len(examples)
    rows = max(1, min(128, _SOURCE_TOKENS_A_BATCH // max(lengths)))
    for indices in by_length(lengths, rows):
        source = padded([examples[i].source for i in indices], known.pad_token_id)
        is_source = padded([(1,) * lengths[i] for i in indices], 0)
        output = adapted.model.generate(
            input_ids=source.to(adapted.device),
            attention_mask=is_source.to(adapted.device),
            generation_config=greedy,
            # generate's own has as many layers as the encoder.
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
        )
        decoded = decoder.decode_all([_answer(ids, ends) for ids in output.tolist()])
        for index, text in zip(indices, decoded, strict=True):
            texts[index] = text
    return texts


def _answer(ids: Sequence[int], ends: Set[int]) -> list[int]:
    """What a server makes text of: neither the start token nor the end token, special or not."""
    return [*takewhile(lambda token: token not in ends, ids[1:])]
