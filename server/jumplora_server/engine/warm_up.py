"""What an engine computes before it is asked: it pays for what happens once.

That is threads that start, products that are prepared for a number of rows, kernels that are
compiled, and pages that are written for the first time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jumplora_server.core import Batch, Encoding, EngineLimits, Sampling, Sequence, StepOutput

STEPS = 3


@dataclass(frozen=True, slots=True)
class Drill:
    """So many prompts of so many tokens, computed together; the last one may sample."""

    prompts: int
    source: int
    samples: bool = False


# In the order of what most requests are like, for a slow machine may have no time for the last.
# Few and short prompts, because the pages of the caches that they write stay: 3 MB for each 16
# tokens of a row of T5-large. Writing those of a longer prompt is little beside its computation.
DRILLS = (Drill(1, 16), Drill(1, 64), Drill(2, 16, samples=True), Drill(4, 16))


def warm_up(
    step: Callable[[Batch], StepOutput],
    limits: EngineLimits,
    clock: Callable[[], float],
    *,
    most_seconds: float,
) -> int:
    """Compute drills until they are all done or time is up, at least the first; says how many.

    A step is never cut short, so it takes up to a step longer.
    """
    end = clock() + most_seconds
    done = 0
    numbers = itertools.count(-1, -1)
    for drill in DRILLS:
        if done and clock() >= end:
            break
        sequences = tuple(_sequences(drill, limits, numbers))
        encode = tuple(sequence.encoding for sequence in sequences)
        for _ in range(min(STEPS, limits.max_target_tokens)):
            output = step(Batch(encode=encode, decode=sequences))
            encode = ()
            for sequence, token in zip(sequences, output.token_ids, strict=True):
                sequence.output.append(max(0, token))  # -1 where a row failed
            if clock() >= end:
                break
        for sequence in sequences:
            sequence.row = -1  # over
        done += 1
    return done


def _sequences(drill: Drill, limits: EngineLimits, numbers: Iterator[int]) -> Iterator[Sequence]:
    count = min(drill.prompts, limits.max_rows)
    prompt = (0,) * min(drill.source, limits.max_source_tokens)
    for row in range(count):
        samples = drill.samples and row == count - 1
        yield Sequence(
            id=next(numbers),
            encoding=Encoding(None, prompt, place=row),
            sampling=Sampling(STEPS, mode="sample", top_k=50, top_p=0.9, logprobs="chosen")
            if samples
            else Sampling(STEPS),
            detokenizer=NoText(),
            arrived=0.0,
            row=row,
        )


class NoText:
    """A detokenizer where only token ids or times are of interest."""

    def push(self, token_id: int) -> str:
        """Nothing."""
        return ""

    def hold(self, token_id: int) -> None:
        """Nothing."""

    def flush(self) -> str:
        """Nothing."""
        return ""

    def is_special(self, token_id: int) -> bool:
        """None is."""
        return False
