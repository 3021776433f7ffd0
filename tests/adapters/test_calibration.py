"""Temperatures and measures of choices, against dense searches, closed forms and known cases."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import random_adapter, toy_backbone
from jumplora_adapters.calibration import (
    LEAST_TEMPERATURE,
    LEFT_OUT,
    MOST_TEMPERATURE,
    Rated,
    calibrated,
    calibration_error,
    confusion,
    coverage,
    error_by_chance,
    fit_temperature,
)
from jumplora_adapters.manifest import Calibration, ChoicesSpec, PromptSpec, options_digest

PROMPT = PromptSpec(template="{text}", options=("a", "b"))


def rated(*rows: tuple[Sequence[float | None], int]) -> Rated:
    return Rated.of([values for values, _ in rows], [right for _, right in rows])


def sure(*rows: tuple[float, bool]) -> Rated:
    """Rows of two options, the first of which has a probability of at least a half."""
    values = np.array([[confidence, 1 - confidence] for confidence, _ in rows])
    return Rated(values, np.array([0 if right else 1 for _, right in rows]))


def likelihood(given_rows: Rated, temperature: float) -> float:
    """The mean log-likelihood of the right options, in a form of its own."""
    total = 0.0
    for values, right in zip(given_rows.values, given_rows.right, strict=True):
        others = math.fsum(math.exp((each - values[right]) / temperature) for each in values)
        total -= math.log(others)
    return total / len(given_rows.right)


def drawn(seed: int, rows: int, temperature: float) -> Rated:
    """Rows whose right options are drawn from the softmax at `temperature`."""
    random = np.random.default_rng(seed)
    values = random.normal(scale=4.0, size=(rows, 5))
    return Rated(values, (values / temperature + random.gumbel(size=values.shape)).argmax(axis=1))


def test_the_digest_is_that_of_the_canonical_json() -> None:
    prompt = PromptSpec(template="é {text}", instruction="Which?", options=("b", "a"))
    text = '{"instruction":"Which?","options":["b","a"],"template":"é {text}"}'
    assert options_digest(prompt) == hashlib.sha256(text.encode()).hexdigest()
    assert options_digest(prompt) != options_digest(PROMPT)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_rows_were_drawn_at_is_found(temperature: float) -> None:
    assert fit_temperature(drawn(7, 20_000, temperature)) == pytest.approx(temperature, rel=0.04)


@given(st.integers(0, 1_000), st.sampled_from([0.3, 1.0, 4.0, 30.0]))
def test_no_other_temperature_is_likelier(seed: int, temperature: float) -> None:
    rows = drawn(seed, 40, temperature)
    found = fit_temperature(rows)
    assert LEAST_TEMPERATURE <= found <= MOST_TEMPERATURE
    grid = np.geomspace(LEAST_TEMPERATURE, MOST_TEMPERATURE, 200)
    assert likelihood(rows, found) >= max(likelihood(rows, each) for each in grid) - 1e-9


def test_two_rows_in_closed_form() -> None:
    """Three of four are right, all by the same distance d: e^(d/T) is 3."""
    rows = rated(*[([0.0, -2.0], 0)] * 3, ([0.0, -2.0], 1))
    assert fit_temperature(rows) == pytest.approx(2 / math.log(3))


def test_a_bound_where_no_temperature_is_likeliest() -> None:
    assert fit_temperature(rated(([0.0, -1.0], 0), ([-3.0, -1.0], 1))) == LEAST_TEMPERATURE
    assert fit_temperature(rated(([0.0, -1.0], 1), ([-3.0, -1.0], 0))) == MOST_TEMPERATURE
    assert fit_temperature(rated(([-1.0, -1.0], 1))) == MOST_TEMPERATURE, "it tells nothing"


def test_options_that_were_left_out_have_no_probability_and_can_be_right() -> None:
    rows = rated(*[([-0.1, None, -2.0], 0)] * 200, ([-0.1, None, -2.0], 1))
    weights = rows.at(1.7).values
    assert weights[0, 1] == 0
    assert weights.sum(axis=1) == pytest.approx(1.0)
    known = math.log(LEFT_OUT * (math.exp(-0.1) + math.exp(-2.0)))
    as_if = rated(*[([-0.1, None, -2.0], 0)] * 200, ([-0.1, known, -2.0], 1))
    assert fit_temperature(rows) == fit_temperature(as_if)
    assert LEAST_TEMPERATURE < fit_temperature(rows) < MOST_TEMPERATURE


@given(st.integers(0, 1_000), st.floats(0.05, 20))
def test_a_temperature_moves_no_answer(seed: int, temperature: float) -> None:
    rows = drawn(seed, 20, 1.0)
    assert rows.at(temperature).is_right.tolist() == rows.is_right.tolist()


def test_calibration_error_of_known_bins() -> None:
    assert calibration_error(sure((1.0, True), (1.0, True))) == 0
    assert calibration_error(sure((1.0, False))) == 1
    # Two in one bin balance each other; one in another bin does not.
    assert calibration_error(sure((0.75, True), (0.75, False), (0.95, True))) == pytest.approx(
        (2 * 0.25 + 0.05) / 3
    )
    # A bin holds its upper edge: 14/15 and 1 are two bins, so their faults do not cancel.
    edge = 14 / 15
    assert calibration_error(sure((edge, True), (1.0, False))) == pytest.approx((1 / 15 + 1) / 2)


def test_calibration_error_of_rows_that_are_as_sure_as_they_are_right() -> None:
    rows = drawn(3, 20_000, 2.0)
    assert calibration_error(rows.at(2.0)) < 0.015
    assert calibration_error(rows.at(1.0)) > 0.1


def test_the_error_that_few_rows_show_by_chance() -> None:
    few, many = sure(*[(0.8, True)] * 100), sure(*[(0.8, True)] * 10_000)
    # One bin: the mean distance of a binomial's share from its mean, nearly a normal one's.
    for rows, count in ((few, 100), (many, 10_000)):
        expected = math.sqrt(2 / math.pi * 0.8 * 0.2 / count)
        assert error_by_chance(rows) == pytest.approx(expected, rel=0.15)
    assert error_by_chance(sure((1.0, True), (1.0, False))) == 0, "what is certain has no spread"
    drawn_rows = drawn(5, 500, 1.0).at(1.0)
    assert calibration_error(drawn_rows) == pytest.approx(error_by_chance(drawn_rows), abs=0.02)


def test_coverage() -> None:
    rows = sure((0.99, True), (0.9, True), (0.8, False), (0.7, True), (0.6, True))
    assert coverage(rows, 0.8).share == 1.0
    assert coverage(rows, 0.8).min_probability == 0.6
    strict = coverage(rows, 0.95)
    assert (strict.share, strict.min_probability) == (0.4, 0.9)
    none = coverage(sure((0.9, False)), 0.5)
    assert (none.share, none.min_probability) == (0.0, None)


def test_rows_of_one_probability_are_answered_together() -> None:
    for order in ([True, False], [False, True]):
        rows = sure((0.9, True), *((0.8, right) for right in order))
        assert coverage(rows, 0.9).share == pytest.approx(1 / 3)


@given(st.integers(1, 400), st.integers(0, 400))
def test_coverage_takes_an_accuracy_that_is_just_met(rows: int, wrong: int) -> None:
    given_rows = sure(*((0.9, n >= wrong) for n in range(rows)))
    assert coverage(given_rows, given_rows.accuracy).share == 1.0


def test_confusion() -> None:
    rows = rated(([0.0, -1.0, -2.0], 0), ([0.0, -1.0, -2.0], 1), ([-3.0, -2.0, -1.0], 2))
    assert confusion(rows).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert rows.accuracy == pytest.approx(2 / 3)


def made(dtype: str, *, folded: bool = False, options: str = "", at: float = 1.5) -> Calibration:
    return Calibration.model_validate(
        {
            "dtype": dtype,
            "is_folded": folded,
            "options": options or options_digest(PROMPT),
            "temperature": at,
            "rows": 500,
            "error": 0.02,
            "error_before": 0.1,
        }
    )


def test_a_calibration_replaces_its_own_form_and_drops_stale_ones() -> None:
    plain = random_adapter(toy_backbone())[0].model_copy(update={"prompt": PROMPT})
    first, stale = calibrated(plain, made("int8"))
    assert first.choices == ChoicesSpec(calibrations=(made("int8"),))
    assert stale == ()
    second, _ = calibrated(first, made("float32", folded=True))
    third, _ = calibrated(second, made("int8", at=2.0))
    assert third.choices is not None
    assert third.choices.calibrations == (made("float32", folded=True), made("int8", at=2.0))
    changed, stale = calibrated(third, made("int8", options="ab" * 32))
    assert changed.choices == ChoicesSpec(calibrations=(made("int8", options="ab" * 32),))
    assert stale == (made("float32", folded=True),)


def test_what_is_asked_of_answers_stays() -> None:
    limits = ChoicesSpec(min_probability=0.5, min_mass=0.25)
    plain = random_adapter(toy_backbone())[0].model_copy(
        update={"prompt": PROMPT, "choices": limits}
    )
    manifest, _ = calibrated(plain, made("int8"))
    assert manifest.choices == limits.model_copy(update={"calibrations": (made("int8"),)})
    other, _ = calibrated(plain, made("int8"), min_mass=0.0)
    assert other.choices is not None
    assert (other.choices.min_probability, other.choices.min_mass) == (0.5, 0.0)
    assert manifest.model_copy(update={"choices": None}) == plain.model_copy(
        update={"choices": None}
    )
