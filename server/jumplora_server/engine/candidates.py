"""The candidates of rows with beams: the likeliest tokens, each with its log-probability.

As in transformers' beam search, log-probabilities are float32, and are what is edited.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from jumplora_server.core import Candidate, Sampling


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities [n, tokens] float32 of logits [n, tokens]."""
    top = logits.max(dim=-1, keepdim=True).values
    return logits - top - log_mass(logits, top)[:, None].float()


def log_mass(logits: Tensor, top: Tensor) -> Tensor:
    """[n] float64: the logarithms of the sums of e^(logit - top); the order of a sum may depend on
    the other rows, so what comes of it is to be rounded."""
    return (logits - top).exp().sum(dim=-1, dtype=torch.float64).log()


def rank(x: Tensor, listed: int) -> Tensor:
    """Ids [n, listed] of the highest numbers, of equals the lower id first."""
    if listed == x.shape[1]:
        return x.sort(dim=-1, descending=True, stable=True).indices
    bits = (x + 0.0).view(torch.int32)  # -0.0 equals 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # as integers they compare as the floats did
    last = x.shape[1] - 1
    keys = (ordered.long() << 32) | torch.arange(last, -1, -1, device=x.device)
    return last - (keys.topk(listed).values & 0xFFFFFFFF)


def with_beams(samplings: Rows[Sampling]) -> list[int]:
    """The indices of those that search with beams."""
    return [i for i, sampling in enumerate(samplings) if sampling.beams is not None]


def most_candidates(samplings: Rows[Sampling], end_tokens: int) -> int:
    """How many any of them is to have."""
    return max(s.beams.candidates(end_tokens) if s.beams else 0 for s in samplings)


def read_candidates(
    samplings: Rows[Sampling],
    end_tokens: int,
    ids: Rows[Rows[float]],
    logprobs: Rows[Rows[float]],
) -> dict[int, tuple[Candidate, ...]]:
    """What was listed for the rows with beams, by their indices: as many as they are to have.

    Args:
        ids: of each row with beams, the likeliest first.
        logprobs: of the same; -infinity stands behind the last one.
    """
    found = {}
    for i, tokens, scores in zip(with_beams(samplings), ids, logprobs, strict=True):
        most = most_candidates([samplings[i]], end_tokens)
        pairs = zip(tokens[:most], scores[:most], strict=True)
        allowed = itertools.takewhile(lambda pair: math.isfinite(pair[1]), pairs)
        found[i] = tuple(Candidate(int(token), logprob) for token, logprob in allowed)
    return found
