"""What a task is charged for."""

from __future__ import annotations

import pytest

from fakes import FakeDetokenizer
from jumplora_server.core import AdapterRef, Encoding, Sampling, Sequence
from jumplora_server.scheduler.costs import prompt_cost, token_cost


def running(prompt: int, output: int, lineage: int) -> Sequence:
    """A sequence that has so many tokens, and a lineage of so many versions."""
    sequence = Sequence(
        id=0,
        encoding=Encoding(AdapterRef("a", "a", ("a",)), (5,) * prompt, slots=tuple(range(lineage))),
        sampling=Sampling(max_new_tokens=64),
        detokenizer=FakeDetokenizer(),
        arrived=0.0,
    )
    sequence.output.extend([7] * output)
    return sequence


@pytest.mark.parametrize(
    ("prompt", "output", "lineage", "encode", "token"),
    [
        (10, 0, 0, 10.0, 3.05),  # the bare backbone
        (10, 0, 1, 11.0, 3.355),
        (10, 0, 15, 25.0, 7.625),
        (500, 0, 0, 500.0, 5.5),  # a long prompt is read again for every token
        (10, 110, 0, 10.0, 3.6),  # and so is a long output
    ],
)
def test_costs(prompt: int, output: int, lineage: int, encode: float, token: float) -> None:
    sequence = running(prompt, output, lineage)
    assert prompt_cost(sequence.encoding) == pytest.approx(encode)
    assert token_cost(sequence) == pytest.approx(token)
