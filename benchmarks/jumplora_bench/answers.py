"""What came back, and the numbers made of it: percentiles, goodput, throughput, the worst task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """One request. Times are seconds after the start of the run; `due` is when it was to be sent.

    `token_times` are the arrivals of its tokens at the client; `error` is set where it failed.
    """

    task: str
    due: float
    sent: float
    token_times: tuple[float, ...]
    ended: float
    error: str | None = None

    @property
    def ttft(self) -> float:
        """Time to first token, from when it was due: a late client hides no wait."""
        return self.token_times[0] - self.due

    @property
    def tpot(self) -> float:
        """Time per output token after the first; 0 for a single one."""
        times = self.token_times
        return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0

    @property
    def total(self) -> float:
        """From when it was due to its end."""
        return self.ended - self.due


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of seconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class Slo:
    """What an answer must keep to count as good, in seconds."""

    ttft: float
    tpot: float

    def is_kept(self, answer: Answer) -> bool:
        """A failed one never keeps it."""
        return answer.error is None and answer.ttft <= self.ttft and answer.tpot <= self.tpot


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of the values do not exceed (nearest rank); of at least one."""
    ordered = sorted(values)
    rank = max(1, -int(-share * len(ordered) // 1))  # the ceiling
    return ordered[min(rank, len(ordered)) - 1]


def percentiles(values: Sequence[float]) -> Percentiles:
    """p50, p90 and p99 of at least one value."""
    return Percentiles(*(percentile(values, share) for share in (0.5, 0.9, 0.99)))


@dataclass(frozen=True, slots=True)
class Summary:
    """A run of open-loop traffic. Rates are requests a second over `seconds` of arrivals.

    The times are None where no request was answered; `lateness` is the client's own worst delay
    between due and sent.
    """

    sent: int
    failed: int
    ttft: Percentiles | None
    tpot: Percentiles | None
    total: Percentiles | None
    good_share: float
    good_rate: float
    worst_task: str
    worst_p90: float
    lateness: float


def summarize(answers: Sequence[Answer], slo: Slo, seconds: float) -> Summary:
    """Of all answers to questions that were due within `seconds`; of at least one."""
    well = [answer for answer in answers if answer.error is None]
    good = sum(slo.is_kept(answer) for answer in answers)
    worst_task, worst_p90 = worst(well)
    return Summary(
        sent=len(answers),
        failed=len(answers) - len(well),
        ttft=percentiles([answer.ttft for answer in well]) if well else None,
        tpot=percentiles([answer.tpot for answer in well]) if well else None,
        total=percentiles([answer.total for answer in well]) if well else None,
        good_share=good / len(answers),
        good_rate=good / seconds,
        worst_task=worst_task,
        worst_p90=worst_p90,
        lateness=max(answer.sent - answer.due for answer in answers),
    )


def worst(answers: Sequence[Answer]) -> tuple[str, float]:
    """The task whose p90 of the total time is highest, and that; ("", 0.0) without answers."""
    totals: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        totals[answer.task].append(answer.total)
    p90s = {task: percentile(values, 0.9) for task, values in totals.items()}
    return max(p90s.items(), key=lambda item: item[1], default=("", 0.0))


def tokens_per_second(answers: Sequence[Answer], begin: float, end: float) -> float:
    """Tokens that reached the clients in [begin, end), a second: neither ramp nor tail."""
    count = sum(begin <= at < end for answer in answers for at in answer.token_times)
    return count / (end - begin)
