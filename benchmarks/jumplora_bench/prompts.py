"""Random prompts as token ids."""

from __future__ import annotations

import random

from jumplora_bench.cases.case import Tokens
from jumplora_bench.tokenizer import END, FIRST_WORD


def random_prompts(rows: int, source: int, vocabulary: int, *, seed: int = 1) -> Tokens:
    """`rows` prompts of exactly `source` tokens, the end token last."""
    rng = random.Random(seed)
    return tuple(
        (*(rng.randrange(FIRST_WORD, vocabulary) for _ in range(source - 1)), END)
        for _ in range(rows)
    )
