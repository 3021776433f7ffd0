"""What an evaluation found: scores, versions, times and what was cut, from a transcript. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jumplora_adapters.training.scores import all_scores, exact_match
from jumplora_server.evaluation.interview import Answer, Transcript

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class LabelScore:
    """Of the rows with one label, how many were answered with it."""

    label: str
    rows: int
    correct: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class VersionShare:
    """How many rows a version answered; None is the bare backbone."""

    version: str | None
    rows: int


@dataclass(frozen=True, slots=True)
class Report:
    """Scores between 0 and 1; latencies of requests in seconds, by percentile.

    `texts_cut` lost the end of their text inside the template, as in training; `prompts_cut` their
    own end; `answers_cut` were stopped by the limit of new tokens.
    """

    rows: int
    scores: dict[str, float]
    versions: tuple[VersionShare, ...]
    labels: tuple[LabelScore, ...]
    requests: int
    latency: dict[str, float]
    seconds: float
    rows_per_second: float
    retries: int
    texts_cut: int
    prompts_cut: int
    answers_cut: int

    def as_json(self) -> dict[str, object]:
        """The report as JSON's types."""
        return asdict(self)


def report_of(transcript: Transcript, *, is_labelled: bool) -> Report:
    """Score a transcript; `is_labelled` adds a line for each label."""
    answers = transcript.answers
    given = [answer.response.generated_text for answer in answers]
    expected = [answer.question.expected for answer in answers]
    versions = Counter(answer.response.details.adapter_version for answer in answers)
    cuts = Counter(answer.question.cut for answer in answers)
    ends = Counter(answer.response.details.finish_reason for answer in answers)
    return Report(
        rows=len(answers),
        scores=all_scores(given, expected),
        versions=tuple(VersionShare(version, rows) for version, rows in versions.items()),
        labels=_label_scores(answers) if is_labelled else (),
        requests=len(transcript.latencies),
        latency={f"p{p}": percentile(transcript.latencies, p) for p in PERCENTILES},
        seconds=transcript.seconds,
        rows_per_second=len(answers) / max(transcript.seconds, 1e-9),
        retries=transcript.retries,
        texts_cut=cuts["text"],
        prompts_cut=cuts["end"],
        answers_cut=ends["length"],
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """The least value that `percent` of all values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def _label_scores(answers: Sequence[Answer]) -> tuple[LabelScore, ...]:
    """In the order of their first rows."""
    rows: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    for answer in answers:
        label = answer.question.expected
        rows[label] += 1
        correct[label] += int(exact_match(answer.response.generated_text, label))
    return tuple(
        LabelScore(label, count, correct[label], correct[label] / count)
        for label, count in rows.items()
    )
