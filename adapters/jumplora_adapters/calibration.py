"""How sure an adapter is of its choices: one temperature, fitted on rows, and what it is worth.

Plain numbers: rows of log-probabilities, one for each option, and the index of the right one. Knows
no adapter's tensors and no server. Guo et al. 2017 (arXiv 1706.04599) is the source of temperature
scaling and of the bins of the expected calibration error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jumplora_adapters.manifest import Calibration, ChoicesSpec, Manifest, options_digest

LEAST_TEMPERATURE = 0.05
MOST_TEMPERATURE = 20.0
BINS = 15
LEFT_OUT = 1e-6
"""The most that all options without a log-probability weigh together, as a share of the others."""

Numbers = NDArray[np.float64]
_HALVINGS = 60
_DRAWS = 200


def is_stale(calibration: Calibration, manifest: Manifest) -> bool:
    """Whether it was fitted with another prompt section than the manifest's."""
    return manifest.prompt is None or calibration.options != options_digest(manifest.prompt)


@dataclass(frozen=True, slots=True, eq=False)
class Rated:
    """Rows with a weight for each option, and which option is right.

    `values` [rows, options] are log-probabilities, -inf where an option was too unlikely to be
    computed, or probabilities; `right` [rows] are indices of options. Of equal options the first
    is a row's answer.
    """

    values: Numbers
    right: NDArray[np.int64]

    @classmethod
    def of(cls, values: Sequence[Sequence[float | None]], right: Sequence[int]) -> Rated:
        """`values` are log-probabilities here, None where there is none."""
        rows = [[-np.inf if each is None else each for each in row] for row in values]
        return cls(np.array(rows, dtype=np.float64), np.array(right, dtype=np.int64))

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """[rows]: whether the likeliest option is the right one."""
        right: NDArray[np.bool_] = self.values.argmax(axis=1) == self.right
        return right

    @property
    def accuracy(self) -> float:
        """The share of rows whose answer is right."""
        return float(self.is_right.mean())

    def at(self, temperature: float) -> Rated:
        """The same rows with probabilities, from their log-probabilities."""
        return Rated(softmax(self.values / temperature), self.right)


def softmax(logits: Numbers) -> Numbers:
    """Over the last axis; 0 where a logit is -inf, of which no row has nothing else."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True), dtype=np.float64)


def fit_temperature(rated: Rated) -> float:
    """The temperature, 0.05 to 20, at which the right options of log-probabilities are likeliest.

    The likelihood's logarithm is concave in the temperature's reciprocal, so its slope is 0 at one
    place at most, and halving finds it. The slope stays over 0 where every row is right, and below
    0 where the log-probabilities speak against the right options: then a bound is returned. A right
    option without a log-probability counts as LEFT_OUT of the others: its own is not known, and 0
    would make every temperature as unlikely.
    """
    values = _with_right_ones(rated)
    low, high = 1 / MOST_TEMPERATURE, 1 / LEAST_TEMPERATURE  # reciprocals
    if _slope(values, rated.right, low) <= 0:
        return MOST_TEMPERATURE
    if _slope(values, rated.right, high) >= 0:
        return LEAST_TEMPERATURE
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _slope(values, rated.right, middle) > 0:
            low = middle
        else:
            high = middle
    return 2 / (low + high)


def calibration_error(rated: Rated) -> float:
    """How far the best option's probability is from being right that often, over all rows.

    Expected calibration error: rows are sorted into BINS of equal width by that probability; the
    error is the mean distance of a bin's mean probability from its accuracy, weighted by its rows.
    """
    return _error(rated.values.max(axis=1), rated.is_right)


def error_by_chance(rated: Rated) -> float:
    """The error that so many rows show on average where each probability is exactly right.

    Few rows in a bin are seldom right as often as they should be: no calibration measures less.
    """
    confidence, random = rated.values.max(axis=1), np.random.default_rng(0)
    drawn = (random.random(len(confidence)) < confidence for _ in range(_DRAWS))
    return float(np.mean([_error(confidence, is_right) for is_right in drawn]))


@dataclass(frozen=True, slots=True)
class Coverage:
    """The share of rows that is answered at an accuracy, where the least sure ones are not.

    `min_probability` is the least probability of those that are; None where none is.
    """

    accuracy: float
    share: float
    min_probability: float | None


def coverage(rated: Rated, accuracy: float) -> Coverage:
    """The most rows, the surest first, of which at least `accuracy` are right.

    Rows of one probability are answered together, as `min_probability` in a request would have it.
    """
    confidence = rated.values.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    sure = confidence[order]
    answered = np.arange(1, len(sure) + 1)
    is_last = np.append(sure[:-1] > sure[1:], True)
    # Counts, not shares: 0.9 of 10 rows is 9, and rounding must not say otherwise.
    is_enough = np.cumsum(rated.is_right[order]) >= accuracy * answered - 1e-9
    found = np.flatnonzero(is_last & is_enough)
    if not len(found):
        return Coverage(accuracy, 0.0, None)
    last = int(found[-1])
    return Coverage(accuracy, (last + 1) / len(sure), float(sure[last]))


def confusion(rated: Rated) -> NDArray[np.int64]:
    """[options, options]: rows with the right option of the line, answered with the column's."""
    options = rated.values.shape[1]
    places = rated.right * options + rated.values.argmax(axis=1)
    return np.bincount(places, minlength=options**2).reshape(options, options)


def calibrated(
    manifest: Manifest,
    new: Calibration,
    *,
    min_probability: float | None = None,
    min_mass: float | None = None,
) -> tuple[Manifest, tuple[Calibration, ...]]:
    """The manifest with one more calibration, and those that it lost because they are stale.

    A calibration of the same dtype and form is replaced. One that was fitted with another prompt
    section says nothing of this one. `min_probability` and `min_mass` replace the manifest's.
    """
    choices = manifest.choices or ChoicesSpec()
    others = [
        each
        for each in choices.calibrations
        if (each.dtype, each.is_folded) != (new.dtype, new.is_folded)
    ]
    stale = tuple(each for each in others if each.options != new.options)
    kept = [*(each for each in others if each not in stale), new]
    kept.sort(key=lambda each: (each.dtype, each.is_folded))
    asked = {"min_probability": min_probability, "min_mass": min_mass}
    section = choices.model_copy(
        update={
            "calibrations": tuple(kept),
            **{name: least for name, least in asked.items() if least is not None},
        }
    )
    return manifest.model_copy(update={"choices": section}), stale


def _error(confidence: Numbers, is_right: NDArray[np.bool_]) -> float:
    bin_of = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(np.int64)
    surplus = np.bincount(bin_of, weights=confidence - is_right, minlength=BINS)
    return float(np.abs(surplus).sum() / len(confidence))


def _with_right_ones(rated: Rated) -> Numbers:
    """Log-probabilities in which each row's right option has one."""
    values, rows = rated.values.copy(), np.arange(len(rated.right))
    least = values.max(axis=1)
    least = least + np.log(np.exp(values - least[:, None]).sum(axis=1)) + np.log(LEFT_OUT)
    right = values[rows, rated.right]
    values[rows, rated.right] = np.where(np.isneginf(right), least, right)
    return values


def _slope(values: Numbers, right: NDArray[np.int64], reciprocal: float) -> float:
    """Of the mean log-likelihood over the temperature's reciprocal: the right options'
    log-probabilities less those that the options have on average."""
    weights = softmax(values * reciprocal)
    expected = np.where(weights > 0, values, 0.0) * weights  # 0 times -inf is 0 here
    return float((values[np.arange(len(right)), right] - expected.sum(axis=1)).mean())
