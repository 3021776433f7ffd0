"""What a continual run noted in a manifest, and that anything may stand there."""

from __future__ import annotations

from typing import Any

import pytest

from jumplora_adapters.continual_record import ContinualRecord, continual_record

NOTED: dict[str, Any] = {
    "run": "0123456789ab",
    "order": ["dbpedia", "amazon", "yahoo"],
    "position": 2,
    "method": "inclora",
    "gate": "jumprelu",
    "split": "test",
    "accuracy": {"dbpedia": 0.81, "amazon": 0.45},
    "accuracy_when_learned": {"dbpedia": 0.89, "amazon": 0.45},
    "backward_transfer": -0.08,
}


def read(**changes: Any) -> ContinualRecord:
    record = continual_record({"continual": {**NOTED, **changes}})
    assert record is not None
    return record


def test_a_whole_record() -> None:
    record = read()
    assert (record.run, record.order, record.position) == (
        "0123456789ab",
        ("dbpedia", "amazon", "yahoo"),
        2,
    )
    assert (record.method, record.gate, record.split) == ("inclora", "jumprelu", "test")
    assert record.accuracy == {"dbpedia": 0.81, "amazon": 0.45}
    assert record.accuracy_when_learned == {"dbpedia": 0.89, "amazon": 0.45}
    assert record.backward_transfer == -0.08


@pytest.mark.parametrize(
    "training",
    [{}, {"continual": None}, {"continual": []}, {"continual": "yes"}, {"steps": 3}],
    ids=str,
)
def test_no_record(training: dict[str, object]) -> None:
    assert continual_record(training) is None


def test_an_empty_record_says_nothing() -> None:
    record = continual_record({"continual": {}})
    assert record == ContinualRecord("", (), None, "", "", "", {}, {}, None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (-1, -1.0),
        (0, 0.0),
        (1.0, 1.0),
        (None, None),
        (True, None),
        ("-0.08", None),
        (-8.0, None),
        (10**400, None),
        ([0.1], None),
    ],
    ids=str,
)
def test_backward_transfer(given: object, expected: float | None) -> None:
    assert read(backward_transfer=given).backward_transfer == expected


@pytest.mark.parametrize("given", [0, 4, -1, 1.0, True, "2", None], ids=repr)
def test_a_place_that_is_none(given: object) -> None:
    assert read(position=given).position is None


def test_odd_parts_are_left_out() -> None:
    record = read(
        run=7,
        order=["dbpedia", 3, "../x", None],
        accuracy={"dbpedia": 89.0, "amazon": 0.5, "a b": 0.5, "yahoo": False},
        accuracy_when_learned=[0.5],
        gate=None,
    )
    assert (record.run, record.order, record.gate) == ("", ("dbpedia",), "")
    assert record.accuracy == {"amazon": 0.5}
    assert record.accuracy_when_learned == {}
