"""Which token a row gets, said slowly: one row in float64. The oracle of both fast ways.

They may differ from it where a draw or a share lies within 1e-12 of a border: sums of float64 have
another order there, and a share of weights that equals top_p in decimals equals it by chance only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from jumplora_server.core import Candidate, Sampling
from jumplora_server.engine.sampling import uniform


def choose_reference(
    logits: Tensor, sampling: Sampling, fed: Rows[int], ends: Rows[int]
) -> tuple[int, float | None]:
    """The token, -1 where there can be none, and the model's own log-probability of it.

    Args:
        logits: [vocabulary] float32.
        fed: the start token and the tokens chosen so far.
        ends: the tokens that end an answer.
    """
    x = edited(logits, sampling, fed, ends)
    if not (logits.max().isfinite() and x.max().isfinite()):
        return -1, None
    token = int(x.argmax())
    if sampling.mode == "sample":
        token = sample(x.double(), sampling, uniform(sampling.seed, len(fed) - 1))
    if sampling.logprobs == "none":
        return token, None
    return token, float(torch.log_softmax(logits.double(), dim=-1)[token])


def list_reference(
    logits: Tensor, sampling: Sampling, fed: Rows[int], ends: Rows[int]
) -> tuple[Candidate, ...]:
    """The candidates of a row with beams; none where there can be none. Args: as above."""
    assert sampling.beams is not None
    if not logits.max().isfinite():
        return ()
    x = edited(torch.log_softmax(logits.double(), dim=-1), sampling, fed, ends)
    ordered, ids = torch.sort(x, descending=True, stable=True)
    most = sampling.beams.candidates(len(ends))
    pairs = zip(ids[:most].tolist(), ordered[:most].tolist(), strict=True)
    return tuple(Candidate(token, logprob) for token, logprob in pairs if logprob > -math.inf)


def edited(x: Tensor, sampling: Sampling, fed: Rows[int], ends: Rows[int]) -> Tensor:
    """What is left of logits, or of log-probabilities, [vocabulary]."""
    x, position, size = x.clone(), len(fed) - 1, sampling.no_repeat_ngram_size
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor([*set(fed)])
        x[seen] = penalised(x[seen], sampling.repetition_penalty)
    if size > 0:
        ngrams = [[*fed[i : i + size]] for i in range(len(fed) - size + 1)]
        suffix = [*fed[len(fed) - size + 1 :]]
        x[[ngram[-1] for ngram in ngrams if ngram[:-1] == suffix]] = -torch.inf
    if position < sampling.min_new_tokens:
        x[list(ends)] = -torch.inf
    return x


def penalised(logits: Tensor, penalty: float) -> Tensor:
    """CTRL's repetition penalty (arXiv 1909.05858, section 4.1), sign-aware as in transformers."""
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def sample(logits: Tensor, sampling: Sampling, draw: float) -> int:
    """Invert the cumulative distribution over ids at `draw`, after temperature, top-k and top-p.

    Args:
        logits: [vocabulary] float64. Ties at the top-k or top-p border keep the lower token id.
    """
    cumulative = candidates(logits, sampling).cumsum(dim=-1)
    point = torch.tensor([draw * float(cumulative[-1])], dtype=torch.float64)
    token = int(torch.searchsorted(cumulative, point, right=True))
    return min(token, int(torch.searchsorted(cumulative, cumulative[-1:])))


def candidates(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities [vocabulary] of what may be drawn; the others are 0."""
    ordered, ids = torch.sort(logits / sampling.temperature, descending=True, stable=True)
    keep = len(ordered) if sampling.top_k is None else min(sampling.top_k, len(ordered))
    if sampling.top_p is not None:
        # The smallest set whose mass reaches top_p: the token that crosses it belongs to it.
        cumulative = torch.softmax(ordered[:keep], dim=-1).cumsum(dim=-1)
        keep = min(keep, int((cumulative < sampling.top_p).sum()) + 1)
    probabilities = torch.zeros_like(logits)
    probabilities[ids[:keep]] = torch.softmax(ordered[:keep], dim=-1)
    return probabilities
