"""Scoring among the options: which of a few answers the model finds most likely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import EncoderDecoderCache

from jumplora_adapters.training.adapt import AdaptedBackbone
from jumplora_adapters.training.batches import IGNORED, by_length, padded
from jumplora_adapters.training.data import Example

POSITIONS_A_BATCH = 1_536  # answer tokens at once: each has logits over the whole vocabulary
SOURCE_TOKENS_A_BATCH = 16_384  # of all pairs of a source and an option: each has keys and values


@torch.inference_mode()
def best_options(
    adapted: AdaptedBackbone, examples: Sequence[Example], options: Sequence[tuple[int, ...]]
) -> list[int]:
    """The index of the option of highest total log-probability, end token included, by example.

    Totals, not means: an option is one answer among exclusive ones, whatever its length.
    """
    answers = padded(options, IGNORED).to(adapted.device)  # [options, tokens]
    lengths = [len(example.source) for example in examples]
    rows = min(
        POSITIONS_A_BATCH // answers.numel(),
        SOURCE_TOKENS_A_BATCH // (max(lengths) * len(options)),
    )
    best = [0] * len(examples)
    for indices in by_length(lengths, max(1, rows)):
        scores = option_scores(adapted, [examples[i].source for i in indices], answers)
        for index, choice in zip(indices, scores.argmax(1).tolist(), strict=True):
            best[index] = choice
    return best


@torch.inference_mode()
def option_scores(
    adapted: AdaptedBackbone, sources: Sequence[Sequence[int]], answers: Tensor
) -> Tensor:
    """Log-probability of every answer after every source: float32 [sources, options].

    `answers` are ids int64 [options, tokens], padded with IGNORED. The first token of all answers
    comes of one step a source, whose cached keys and values serve the rest.
    """
    model, config = adapted.model, adapted.model.generation_config
    count = len(answers)
    source = padded(sources, config.pad_token_id).to(adapted.device)
    is_source = padded([(1,) * len(ids) for ids in sources], 0).to(adapted.device)
    encoded = model.get_encoder()(input_ids=source, attention_mask=is_source)
    start = source.new_full((len(source), 1), config.decoder_start_token_id)
    first = model(
        encoder_outputs=encoded, attention_mask=is_source, decoder_input_ids=start, use_cache=True
    )
    scores: Tensor = (
        first.logits[:, -1].float().log_softmax(-1)[:, answers[:, 0]]
    )  # [sources, options]
    if answers.shape[1] == 1:
        return scores
    cache: EncoderDecoderCache = first.past_key_values
    cache.batch_repeat_interleave(count)
    encoded.last_hidden_state = encoded.last_hidden_state.repeat_interleave(count, 0)
    later = answers[:, 1:].repeat(len(source), 1)  # [sources * options, tokens - 1]
    is_answer = later != IGNORED
    with _logits_only_at(model, is_answer):
        logits = model(
            encoder_outputs=encoded,
            attention_mask=is_source.repeat_interleave(count, 0),
            decoder_input_ids=answers[:, :-1].clamp(min=0).repeat(len(source), 1),
            past_key_values=cache,
            use_cache=True,
        ).logits.float()  # [answer tokens, vocabulary]
    chosen = logits.gather(-1, later[is_answer][:, None])[:, 0] - logits.logsumexp(-1)
    totals = torch.zeros(later.shape, device=chosen.device).masked_scatter(is_answer, chosen)
    rest: Tensor = totals.sum(-1).view(-1, count)
    return scores + rest


@contextmanager
def _logits_only_at(model: Any, positions: Tensor) -> Iterator[None]:
    """Inside, the head sees the `positions` (bool [rows, tokens]) alone: padding is half of them,
    and the head over a whole vocabulary is most of a small model's work.
    """
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: (inputs[0][positions],)
    )
    try:
        yield
    finally:
        hook.remove()
