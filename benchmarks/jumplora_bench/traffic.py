"""What is asked, and when: Poisson arrivals, Zipf-distributed tasks, texts of a fixed length.

All of it is fixed before the first request is sent, so a slow answer delays no arrival.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from jumplora_bench.tokenizer import random_text


@dataclass(frozen=True, slots=True)
class Question:
    """One request: `at` seconds after the start it is to be sent."""

    at: float
    task: str
    text: str


def poisson_arrivals(rate: float, seconds: float, rng: random.Random) -> list[float]:
    """Arrival times in [0, seconds), ascending, of a Poisson process of `rate` a second."""
    gaps = (rng.expovariate(rate) for _ in itertools.count())
    return list(itertools.takewhile(lambda at: at < seconds, itertools.accumulate(gaps)))


def zipf_weights(count: int, exponent: float) -> list[float]:
    """Shares of `count` tasks, the most frequent first, that add up to 1: of rank k, k^-exponent.

    Exponent 0 is the uniform mix.
    """
    raw = [rank**-exponent for rank in range(1, count + 1)]
    total = sum(raw)
    return [weight / total for weight in raw]


@dataclass(frozen=True, slots=True)
class Mix:
    """Which tasks are asked, how often, with prompts of how many tokens."""

    tasks: Sequence[str]  # the most frequent first
    exponent: float
    source: int

    def draw(self, arrivals: Sequence[float], rng: random.Random) -> list[Question]:
        """A question for each arrival."""
        weights = zipf_weights(len(self.tasks), self.exponent)
        tasks = rng.choices(self.tasks, weights, k=len(arrivals))
        return [
            Question(at, task, random_text(self.source, rng))
            for at, task in zip(arrivals, tasks, strict=True)
        ]
