"""Text scores: exact match, token F1 and ROUGE-L, each between 0 and 1 per pair."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from jumplora_adapters.folding import folded

_WORD = re.compile(r"\w+")


def exact_match(predicted: str, expected: str) -> float:
    return float(folded(predicted) == folded(expected))


def token_f1(predicted: str, expected: str) -> float:
    """Harmonic mean of precision and recall over the bag of white-space tokens.

    Two empty texts agree fully; one empty text not at all.
    """
    ours, theirs = folded(predicted).split(), folded(expected).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


def rouge_l(predicted: str, expected: str) -> float:
    """F1 of the longest common subsequence of words (Lin, 2004, beta = 1, no stemming).

    Words are runs of letters, digits and underscores of the lower-cased texts.
    """
    ours, theirs = _WORD.findall(predicted.lower()), _WORD.findall(expected.lower())
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * common_length(ours, theirs) / (len(ours) + len(theirs))


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence; O(len(first) * len(second)) time, one row kept."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def all_scores(predicted: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Means over the pairs, between 0 and 1. Both sequences have the same, non-zero length."""
    measures = {"exact_match": exact_match, "f1": token_f1, "rouge_l": rouge_l}
    pairs = list(zip(predicted, expected, strict=True))
    return {
        name: sum(measure(ours, theirs) for ours, theirs in pairs) / len(pairs)
        for name, measure in measures.items()
    }
