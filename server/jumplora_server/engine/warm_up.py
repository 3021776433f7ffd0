"""What an engine computes before it is asked: it pays for what happens once.

That is threads that start, products that are prepared for a number of rows, kernels that are
compiled, and pages that are written for the first time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jumplora_server.core import (
    Batch,
    Choices,
    Encoding,
    EngineLimits,
    NoText,
    Pass,
    Sampling,
    Sequence,
    StepOutput,
)
from jumplora_server.trie import Trie

STEPS = 3


@dataclass(frozen=True, slots=True)
class Drill:
    """So many prompts of so many tokens, computed together; the last one may sample, or all have
    choices."""

    prompts: int
    source: int
    samples: bool = False
    chooses: bool = False


# In the order of what most requests are like, for a slow machine may have no time for the last.
# Few and short prompts, because the pages of the caches that they write stay: 3 MB for each 16
# tokens of a row of T5-large. Writing those of a longer prompt is little beside its computation.
DRILLS = (
    Drill(1, 16),
    Drill(1, 64),
    Drill(2, 16, samples=True),
    Drill(4, 16),
    Drill(1, 16, chooses=True),
)

LABELS = 7  # of choices, of two tokens each, which makes a node more


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
        passes = tuple(_passes(sequences, limits))
        decode = () if passes else sequences
        for _ in range(min(STEPS, limits.max_target_tokens)):
            output = step(Batch(encode=encode, decode=decode, passes=passes))
            encode = ()
            for sequence, token in zip(decode, output.token_ids, strict=True):
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
    choices = None
    if drill.chooses:
        choices = Choices(Trie.of([(n, 0)[: limits.max_target_tokens] for n in range(LABELS)]))
    for row in range(count):
        samples = drill.samples and row == count - 1
        yield Sequence(
            id=next(numbers),
            encoding=Encoding(None, prompt, place=row),
            sampling=Sampling(STEPS, mode="sample", top_k=50, top_p=0.9, logprobs="chosen")
            if samples
            else Sampling(STEPS, choices=choices),
            detokenizer=NoText(),
            arrived=0.0,
            row=row,
        )


def _passes(sequences: tuple[Sequence, ...], limits: EngineLimits) -> Iterator[Pass]:
    for sequence in sequences:
        if (choices := sequence.sampling.choices) is not None:
            count = min(len(choices.trie), limits.max_nodes)
            yield Pass(sequence, choices.trie, tuple(range(count)))
