from __future__ import annotations

import pytest

from jumplora_server.api.schemas import Details, GenerateResponse
from jumplora_server.evaluation.interview import Answer, Transcript
from jumplora_server.evaluation.questions import Cut, Question
from jumplora_server.evaluation.report import LabelScore, VersionShare, percentile, report_of


def answer(
    given: str, expected: str, version: str | None = "a", *, cut: Cut = "whole", limit: bool = False
) -> Answer:
    details = Details(
        finish_reason="length" if limit else "eos_token",
        prompt_tokens=1,
        generated_tokens=1,
        seed=None,
        task_id="t",
        adapter_version=version,
    )
    response = GenerateResponse(generated_text=given, details=details)
    return Answer(Question(1, "p", expected, cut), response)


def test_scores_are_those_of_training_label_by_label() -> None:
    answers = (
        answer(" World ", "world"),
        answer("sports", "world"),
        answer("good sports", "sports", limit=True),
    )
    report = report_of(Transcript(answers, (0.5, 0.1), 2.0, 1), is_labelled=True)
    assert report.scores["exact_match"] == pytest.approx(1 / 3)
    assert report.scores["f1"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert report.labels == (LabelScore("world", 2, 1, 0.5), LabelScore("sports", 1, 0, 0.0))
    assert (report.rows_per_second, report.requests, report.answers_cut) == (1.5, 2, 1)
    assert report.latency == {"p50": 0.1, "p95": 0.5, "p99": 0.5}


def test_versions_and_cuts_are_counted() -> None:
    answers = (
        answer("x", "x", "a"),
        answer("x", "x", "b", cut="text"),
        answer("x", "x", None, cut="end"),
        answer("x", "x", "a"),
    )
    report = report_of(Transcript(answers, (1.0,), 1.0, 0), is_labelled=False)
    assert report.versions == (VersionShare("a", 2), VersionShare("b", 1), VersionShare(None, 1))
    assert (report.texts_cut, report.prompts_cut, report.labels) == (1, 1, ())
    assert report.as_json()["rows"] == 4


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, p) for p in (50, 95, 99, 100)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([3.0], 50) == percentile([3.0], 99) == 3.0
