"""The parameters of sampling in torch: how each changes what rows may choose, all rows at once.

To add one: a field of core.Sampling, and a function in EDITS or SELECTIONS here and in sampling.cpp
(and in sampling_reference.py).
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from jumplora_server.core import Sampling

_PLAIN = Sampling(max_new_tokens=1)
_BLOCK = 64  # tokens of n-grams that are compared at once


@dataclass(frozen=True, slots=True)
class Asked:
    """What some rows ask for."""

    samplings: Rows[Sampling]  # [n]
    table: Tensor  # [columns, n] float64, on the device
    fed: Tensor  # [n, width] the start token and the tokens chosen so far; the first fills it up
    ends: tuple[int, ...]

    def __getitem__(self, name: str) -> Tensor:
        """A column [n, 1]; infinite where a row does not set the parameter."""
        return self.table[COLUMNS.index(name)][:, None]

    def of(self, rows: Rows[int], index: Tensor) -> Asked:
        """Some of the rows; `index` has them on the device."""
        samplings = [self.samplings[i] for i in rows]
        return Asked(samplings, self.table[:, index], self.fed[index], self.ends)

    def sets(self, name: str) -> bool:
        """Whether any row sets the parameter."""
        return any(sets(sampling, name) for sampling in self.samplings)


@dataclass(frozen=True, slots=True)
class Ranked:
    """The highest tokens of some rows, of equals the lower id first. To drop one is to set it 0."""

    weights: Tensor  # [n, listed] float64: e^((logit - highest) / temperature)
    beyond: Tensor  # [n, 1] the weight of all that is not listed


def _penalise_repetition(x: Tensor, asked: Asked) -> None:
    """CTRL's (arXiv 1909.05858, section 4.1): sign-aware, start token and all, as transformers."""
    penalty = asked["repetition_penalty"].float()
    seen = x.gather(1, asked.fed)
    x.scatter_(1, asked.fed, torch.where(seen > 0, seen / penalty, seen * penalty))


def _forbid_repeated_ngrams(x: Tensor, asked: Asked) -> None:
    """Those that would complete one that stands already, the start token's too, as transformers."""
    size, position = asked["no_repeat_ngram_size"], asked["position"]
    longest = max(sampling.no_repeat_ngram_size for sampling in asked.samplings)
    width = asked.fed.shape[1]
    places = torch.arange(width, device=x.device)  # of an n-gram's last token
    is_repeated = (size > 0) & (places >= size - 1) & (places <= position)
    # What stands before each place and before the next token, many tokens at once: with a kernel
    # for each of them, one row's long n-grams would slow all others.
    blocks = max(1, -(-(min(longest, width) - 1) // _BLOCK))
    windows = torch.nn.functional.pad(asked.fed, (blocks * _BLOCK, 0)).unfold(1, _BLOCK, 1)
    for block in range(blocks):
        first = (blocks - block - 1) * _BLOCK
        end = (first + position.long() + 1)[..., None].expand(-1, -1, _BLOCK)
        before = torch.arange((block + 1) * _BLOCK, block * _BLOCK, -1, device=x.device)
        is_same = windows[:, first : first + width] == windows.gather(1, end)
        is_repeated &= (is_same | (before >= size[..., None])).all(dim=-1)
    # The lowest counts where a token stands several times.
    forbidden = torch.where(is_repeated, -torch.inf, torch.inf).to(x.dtype)
    x.scatter_reduce_(1, asked.fed, forbidden, "amin")


def _forbid_an_early_end(x: Tensor, asked: Asked) -> None:
    is_early = asked["position"] < asked["min_new_tokens"]
    for end in asked.ends:
        x[:, end].masked_fill_(is_early[:, 0], -torch.inf)


def _keep_top_k(ranked: Ranked, asked: Asked) -> None:
    listed = ranked.weights.shape[1]
    ranks = torch.arange(listed, device=ranked.weights.device)
    ranked.weights.masked_fill_(ranks >= asked["top_k"], 0.0)
    ranked.beyond.masked_fill_(asked["top_k"] <= listed, 0.0)


def _keep_top_p(ranked: Ranked, asked: Asked) -> None:
    """The smallest set whose mass reaches top_p: the token that crosses it belongs to it."""
    mass = ranked.weights.cumsum(dim=-1)
    goal = asked["top_p"] * (mass[:, -1:] + ranked.beyond)
    ranked.weights[:, 1:].masked_fill_(mass[:, :-1] >= goal, 0.0)


# In the order in which they count, each under its field of Sampling.
EDITS = {
    "repetition_penalty": _penalise_repetition,
    "no_repeat_ngram_size": _forbid_repeated_ngrams,
    "min_new_tokens": _forbid_an_early_end,
}
"""Change logits [n, vocabulary] in place; of rows with beams, log-probabilities."""
SELECTIONS = {
    "top_k": _keep_top_k,
    "top_p": _keep_top_p,
}
"""Drop ranked tokens, the lowest ones."""

COLUMNS = ("place", "row", "token", "position", "draw", "temperature", *EDITS, *SELECTIONS)
"""Of `Asked.table`."""


def sets(sampling: Sampling, name: str) -> bool:
    """Whether it sets a parameter to something that has an effect."""
    return bool(getattr(sampling, name) != getattr(_PLAIN, name))
