"""What a run with choices is worth, and the calibration that comes out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from factories import random_adapter, toy_backbone
from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import PromptSpec, options_digest
from jumplora_adapters.rows import Row, RowFile
from jumplora_server.api.adapter_schemas import AdapterDetail
from jumplora_server.api.schemas import Details, GenerateResponse, Info
from jumplora_server.evaluation import fitting
from jumplora_server.evaluation.certainty import Certainty, Rankings, options_of
from jumplora_server.evaluation.interview import Answer, Transcript
from jumplora_server.evaluation.questions import Question, check_labels, make_sheet

PROMPT = PromptSpec(template="{text}", options=("no", "yes"))
MINE, OTHER = "ab" * 32, "cd" * 32


def answer(
    expected: str,
    logprobs: Mapping[str, float | None],
    *,
    mass: float = 0.5,
    line: int = 1,
    version: str = MINE,
    abstained: bool = False,
    by: str = "nothing",
) -> Answer:
    """As a server answers at temperature 2: the options ranked, the likeliest first."""
    weights = {o: 0.0 if x is None else math.exp(x / 2) for o, x in logprobs.items()}
    ranked = sorted(weights, key=lambda option: -weights[option])
    details = {
        "finish_reason": "abstained" if abstained else "eos_token",
        "prompt_tokens": 1,
        "generated_tokens": 1,
        "seed": None,
        "task_id": "t",
        "adapter_version": version,
        "choices": [
            {
                "text": option,
                "probability": weights[option] / sum(weights.values()),
                "logprob": logprobs[option],
            }
            for option in ranked
        ],
        "mass": mass,
        "temperature": 2.0,
        "calibrated_by": by,
    }
    text = "" if abstained else ranked[0]
    response = GenerateResponse(generated_text=text, details=Details.model_validate(details))
    return Answer(Question(line, "p", expected), response)


def transcript(*answers: Answer) -> Transcript:
    return Transcript(answers, (0.1,), 1.0, 0)


RUN = transcript(
    answer("yes", {"yes": -0.1, "no": -2.1}, mass=0.9),
    answer("yes", {"yes": -0.1, "no": -2.1}, mass=0.2, abstained=True),
    answer("no", {"yes": -0.2, "no": -2.2}, mass=0.7),
    answer("no", {"yes": None, "no": -0.1}, mass=0.6),
)


def test_answers_are_put_into_one_order_of_the_options() -> None:
    rankings = Rankings.of(RUN, ("no", "yes"))
    assert rankings.logprobs.values.tolist() == [
        [-2.1, -0.1],
        [-2.1, -0.1],
        [-2.2, -0.2],
        [-0.1, -math.inf],
    ]
    assert rankings.logprobs.right.tolist() == [1, 1, 0, 0]
    served = rankings.probabilities.values
    assert served == pytest.approx(rankings.logprobs.at(2.0).values)
    assert rankings.temperatures == (2.0,)
    assert options_of(RUN) == ("no", "yes")


def test_the_measures_of_a_run() -> None:
    found = Certainty.of(Rankings.of(RUN, ("no", "yes")))
    assert (found.accuracy, found.abstained, found.calibrated_by) == (0.75, 1, "nothing")
    assert found.confusion == ((1, 1), (0, 2))
    assert found.mass_median == pytest.approx(0.65)
    likely = 1 / (1 + math.exp(-1))
    assert found.calibration_error == pytest.approx((3 * likely - 2) / 4)
    assert [(each.accuracy, each.share) for each in found.coverage] == [(0.9, 0.25), (0.95, 0.25)]
    assert [*map(asdict, found.coverage)] == [
        {"accuracy": 0.9, "share": 0.25, "min_probability": 1.0},
        {"accuracy": 0.95, "share": 0.25, "min_probability": 1.0},
    ]


def test_calibrated_where_all_answers_are() -> None:
    ours = answer("yes", {"yes": -0.1, "no": -1.0}, by="manifest")
    both = ("no", "yes")
    assert Rankings.of(transcript(ours, ours), both).calibrated_by == "manifest"
    mixed = transcript(ours, answer("yes", {"yes": -0.1, "no": -1.0}))
    assert Rankings.of(mixed, both).calibrated_by == "nothing"


def test_answers_with_other_options_are_refused() -> None:
    changed = transcript(RUN.answers[0], answer("yes", {"yes": -0.1, "maybe": -1.0}, line=7))
    with pytest.raises(DataError, match=r"line 7 was answered with the options yes \| maybe, not"):
        Rankings.of(changed, ("no", "yes"))


def test_labels_that_are_no_options_are_named() -> None:
    rows = [Row(n, "x", "yes" if n == 1 else f"label{n}", True) for n in range(1, 9)]
    sheet = make_sheet(RowFile(Path("a.jsonl"), "", tuple(rows)))
    with pytest.raises(DataError) as caught:
        check_labels(sheet, PROMPT.options)
    told = str(caught.value)
    assert told.startswith('a.jsonl: labels "label2" (line 2), "label3" (line 3), ')
    assert told.endswith('"label6" (line 6) and 2 more are none of the options no | yes')
    check_labels(make_sheet(sheet.file, rows=1), PROMPT.options)
    for count, lines in ((3, "lines 1, 2, 3"), (4, "4 rows: lines 1, 2, 3, ...")):
        same = [Row(n, "x", "maybe", True) for n in range(1, count + 1)]
        with pytest.raises(DataError) as once:
            check_labels(make_sheet(RowFile(Path("a.jsonl"), "", tuple(same))), PROMPT.options)
        assert str(once.value) == (
            f'a.jsonl: label "maybe" ({lines}) is none of the options no | yes'
        )


def info(dtype: str) -> Info:
    fields: dict[str, Any] = {"model_dtype": dtype}
    return Info.model_construct(**fields)


def test_a_calibration_in_closed_form() -> None:
    """Three of four are right by a distance of 2 each, so e^(2/T) is 3; each seems 3/4 sure."""
    right, wrong = ({"yes": -0.1, "no": -2.1}, {"yes": -2.5, "no": -0.5})
    run = transcript(*(answer("yes", each) for each in (right, right, right, wrong)))
    made = fitting.fit(Rankings.of(run, PROMPT.options), PROMPT, info("int8"), folded=True)
    assert (made.dtype, made.is_folded, made.rows) == ("int8", True, 4)
    assert made.options == options_digest(PROMPT)
    assert made.temperature == pytest.approx(2 / math.log(3), abs=1e-6)
    assert made.error == pytest.approx(0, abs=1e-6)
    assert made.error_before == pytest.approx(1 / (1 + math.exp(-2)) - 0.75, abs=1e-6)


def test_rows_that_are_all_right_make_no_calibration() -> None:
    run = transcript(*[answer("yes", {"yes": -0.1, "no": -2.1})] * 3)
    with pytest.raises(DataError, match=r"all 3 rows are answered right.* least one, 0\.05"):
        fitting.fit(Rankings.of(run, PROMPT.options), PROMPT, info("int8"), folded=False)


def test_what_a_calibration_needs() -> None:
    fitting.check_enough(50, 50)
    with pytest.raises(DataError, match="49 rows given; a temperature needs at least 50"):
        fitting.check_enough(49, 50)
    manifest = random_adapter(toy_backbone())[0]
    for prompt, told in (
        (None, "no options"),
        (PromptSpec(template="{text}"), "no options"),
        (PromptSpec(template="{text}", options=("a",)), "one option"),
    ):
        with pytest.raises(DataError, match=f"alpha has {told} in its manifest"):
            fitting.prompt_with_options(manifest.model_copy(update={"prompt": prompt}), "alpha")
    fitting.check_dtype(info("bfloat16"))
    with pytest.raises(DataError, match="computes with float16; a calibration is for float32, "):
        fitting.check_dtype(info("float16"))


def test_only_the_versions_own_answers_count() -> None:
    fitting.check_version(RUN, MINE)
    moved = transcript(*RUN.answers, answer("yes", {"yes": -0.1, "no": -2.1}, version=OTHER))
    with pytest.raises(DataError, match=f"line 1 was answered by version {OTHER}"):
        fitting.check_version(moved, MINE)


def status(version: str | None, folded_depth: int | None) -> AdapterDetail:
    fields: dict[str, Any] = {
        "task_id": "alpha",
        "version": version,
        "folded_depth": folded_depth,
    }
    return AdapterDetail.model_construct(**fields)


def test_the_form_is_what_the_server_says_of_the_version() -> None:
    alone = random_adapter(toy_backbone())[0]
    child = random_adapter(toy_backbone(), lineage=[OTHER])[0]
    assert fitting.is_folded(status(OTHER, 3), MINE, alone) is False, "it has no ancestors"
    assert fitting.is_folded(status(MINE, 1), MINE, child) is True
    assert fitting.is_folded(status(MINE, 0), MINE, child) is False
    for other in (status(OTHER, 1), status(None, None), status(MINE, None)):
        with pytest.raises(DataError, match="does not say whether it folds the ancestors of abab"):
            fitting.is_folded(other, MINE, child)
