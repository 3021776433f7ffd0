"""Options that are kept, and the ranking that is made of numbers."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_adapters.manifest import Calibration
from jumplora_server.api.choices import rank
from jumplora_server.options import NODE_BYTES, Key, Options, RecentOptions, find_fault
from jumplora_server.trie import Trie

logprobs = st.lists(st.none() | st.floats(-2000.0, -1e-3), min_size=1, max_size=12).filter(
    lambda values: any(value is not None for value in values)
)
temperatures = st.floats(0.05, 20.0)


def options(*texts: str) -> Options:
    """One token a character, the end token last."""
    return Options(texts, Trie.of([(*map(ord, text), 1) for text in texts]))


def key(name: str) -> Key:
    return (name, None)


def calibration(temperature: float) -> Calibration:
    return Calibration(
        dtype="float32", is_folded=False, options="0" * 64, temperature=temperature, rows=1,
        error=0.0, error_before=0.0,
    )  # fmt: skip


@given(logprobs, temperatures)
def test_a_ranking(values: list[float | None], temperature: float) -> None:
    texts = tuple(f"{n:02}" for n in range(len(values)))
    floors = {"min_probability": 0.0, "min_mass": 0.0}
    found, cause = rank(options(*texts), values, calibration(temperature), **floors)
    assert (cause, found.is_abstained, found.calibrated_by) == (None, False, "manifest")
    given = dict(zip(texts, values, strict=True))
    assert {option.text: option.logprob for option in found.options} == given
    # The likeliest first, equals as they were given, what was not looked at last.
    order = [(-math.inf if o.logprob is None else o.logprob, -int(o.text)) for o in found.options]
    assert order == sorted(order, reverse=True)
    probabilities = [option.probability for option in found.options]
    assert math.fsum(probabilities) == pytest.approx(1.0)
    assert probabilities == sorted(probabilities, reverse=True)
    best = found.options[0].logprob
    assert best is not None
    for option in found.options:
        if option.logprob is None:
            assert option.probability == 0.0
        else:
            ratio = math.exp((option.logprob - best) / temperature)
            assert option.probability == pytest.approx(ratio * probabilities[0])
    known = [value for value in values if value is not None]
    assert found.mass == pytest.approx(min(1.0, sum(map(math.exp, known))))
    plain, _ = rank(options(*texts), values, None, **floors)
    assert [o.text for o in plain.options] == [o.text for o in found.options]
    assert (plain.mass, plain.temperature, plain.calibrated_by) == (found.mass, 1.0, "nothing")


@pytest.mark.parametrize(
    ("min_probability", "min_mass", "cause"),
    [
        (0.75, 0.5, None),  # at least so much is enough
        (0.76, 0.0, "probability"),
        (0.0, 0.51, "mass"),
        (1.0, 1.0, "mass"),
    ],
)
def test_floors(min_probability: float, min_mass: float, cause: str | None) -> None:
    values = [math.log(0.375), math.log(0.125)]
    floors = {"min_probability": min_probability - 1e-9, "min_mass": min_mass - 1e-9}
    ranking, found = rank(options("a", "b"), values, None, **floors)
    assert (found, ranking.is_abstained) == (cause, cause is not None)
    assert ranking.options[0].text == "a"


def test_what_was_used_last_is_kept() -> None:
    kept = RecentOptions(most=2)
    first = options("a")
    kept.put(key("1"), first)
    kept.put(key("2"), options("b"))
    assert kept.get(key("1")) is first
    kept.put(key("3"), options("c"))
    assert kept.get(key("2")) is None
    assert kept.get(key("1")) is first
    assert len(kept) == 2
    kept.put(key("1"), options("d"))
    assert (len(kept), kept.nbytes) == (2, 2 * first.nbytes)


def test_bytes_are_bounded() -> None:
    small, large = options("a"), options("a" * 50)
    kept = RecentOptions(most_bytes=large.nbytes)
    for number in range(100):
        kept.put(key(str(number)), small)
        assert kept.nbytes <= large.nbytes
    assert len(kept) == large.nbytes // small.nbytes
    kept.put(key("large"), large)
    assert (len(kept), kept.nbytes) == (1, large.nbytes)
    kept.put(key("too large"), options("a" * 60))
    assert (len(kept), kept.nbytes) == (0, 0)
    assert large.nbytes > 50 * NODE_BYTES


def test_any_thread_may_use_it() -> None:
    kept = RecentOptions(most=3)
    one = options("a")

    def use(start: int) -> None:
        for number in range(300):
            kept.put(key(str((start + number) % 7)), one)
            kept.get(key(str(number % 7)))

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(kept), kept.nbytes) == (3, 3 * one.nbytes)


@pytest.mark.parametrize(
    ("texts", "index"),
    [(["a", "b", "A"], 2), (["a  b", "a\tb"], 1), (["\ufb01", "fi"], 1), (["x", 3], 1), ([" "], 0)],
)
def test_faults_of_texts(texts: list[object], index: int) -> None:
    fault = find_fault(texts)
    assert fault is not None
    assert fault.index == index


def test_texts_that_differ_may_all_be_options() -> None:
    assert find_fault(["a", "b", "ab", "a b", "\u00e4", "\u4e00", "</s>"]) is None
