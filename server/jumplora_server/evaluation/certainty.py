"""How sure a version was of its choices, and how right: from the answers of a transcript. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from jumplora_adapters.calibration import (
    Coverage,
    Rated,
    calibration_error,
    confusion,
    coverage,
    error_by_chance,
)
from jumplora_adapters.errors import DataError
from jumplora_server.evaluation.interview import Transcript

COVERED = (0.90, 0.95)
"""Accuracies at which the share of rows is counted that is answered so well."""


@dataclass(frozen=True, slots=True)
class Rankings:
    """All answers' options in one order: [rows, options], and what is expected of each row.

    `logprobs` are the model's own, `probabilities` as the server gave them, at its temperature.
    """

    options: tuple[str, ...]
    logprobs: Rated
    probabilities: Rated
    masses: tuple[float, ...]
    temperatures: tuple[float, ...]  # each that there was, once
    calibrated_by: Literal["manifest", "nothing"]
    abstained: int

    @classmethod
    def of(cls, transcript: Transcript, options: Sequence[str]) -> Rankings:
        """Of answers with choices, all of the same `options`; every expected answer is an option.

        Raises DataError where an answer has other options.
        """
        place = {option: index for index, option in enumerate(options)}
        logprobs: list[list[float | None]] = []
        probabilities: list[list[float | None]] = []
        details = [answer.response.details for answer in transcript.answers]
        for answer, each in zip(transcript.answers, details, strict=True):
            ranked = {choice.text: choice for choice in each.choices or ()}
            if ranked.keys() != place.keys():
                raise DataError(
                    f"line {answer.question.line} was answered with the options"
                    f" {' | '.join(ranked) or 'none'}, not {' | '.join(options)}: did the version"
                    " change? task@version asks one"
                )
            logprobs.append([ranked[option].logprob for option in options])
            probabilities.append([ranked[option].probability for option in options])
        right = [place[answer.question.expected] for answer in transcript.answers]
        return cls(
            tuple(options),
            Rated.of(logprobs, right),
            Rated.of(probabilities, right),
            tuple(_given(each.mass) for each in details),
            tuple(dict.fromkeys(_given(each.temperature) for each in details)),
            "manifest" if all(e.calibrated_by == "manifest" for e in details) else "nothing",
            Counter(each.finish_reason for each in details)["abstained"],
        )


@dataclass(frozen=True, slots=True)
class Certainty:
    """What the probabilities of a run are worth.

    `accuracy` is that of the likeliest options, whether the server abstained or not.
    `error_by_chance` is the calibration error that the best calibration would show. `confusion`
    has a line for each expected option, a column for each given one, in the order of `options`.
    """

    options: tuple[str, ...]
    accuracy: float
    calibration_error: float
    error_by_chance: float
    temperatures: tuple[float, ...]
    calibrated_by: Literal["manifest", "nothing"]
    mass_median: float
    coverage: tuple[Coverage, ...]
    abstained: int
    confusion: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, rankings: Rankings) -> Certainty:
        """The measures of all rows."""
        rated = rankings.probabilities
        return cls(
            options=rankings.options,
            accuracy=rated.accuracy,
            calibration_error=calibration_error(rated),
            error_by_chance=error_by_chance(rated),
            temperatures=rankings.temperatures,
            calibrated_by=rankings.calibrated_by,
            mass_median=statistics.median(rankings.masses),
            coverage=tuple(coverage(rated, accuracy) for accuracy in COVERED),
            abstained=rankings.abstained,
            confusion=tuple(tuple(map(int, line)) for line in confusion(rated)),
        )

    def as_json(self) -> dict[str, object]:
        """The measures as JSON's types."""
        return asdict(self)


def options_of(transcript: Transcript) -> tuple[str, ...]:
    """The options of the first answer, sorted; an answer ranks them by their probability."""
    return tuple(sorted(each.text for each in transcript.answers[0].response.details.choices or ()))


def _given(value: float | None) -> float:
    assert value is not None, "an answer with choices has it"
    return value
