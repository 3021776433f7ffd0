"""What is told of a served version's quality: scores of its manifest, its canaries, its run."""

from __future__ import annotations

from typing import Any

import pytest

from factories import random_adapter
from jumplora_server.metrics.state import AdapterQuality
from jumplora_server.residency.entries import State
from jumplora_server.residency.quality import quality_of
from jumplora_server.residency.status import TaskStatus
from small_server import BACKBONE


def status(canary_accuracy: float | None = None, **fields: Any) -> TaskStatus:
    manifest, _ = random_adapter(BACKBONE)
    return TaskStatus(
        task_id="a",
        version="0" * 64,
        desired="0" * 64,
        state=State.READY,
        degraded=False,
        failure=None,
        retry_in=None,
        pinned=False,
        in_flight=0,
        bytes_disk=1,
        bytes_host=1,
        bytes_device=0,
        nonzeros=1,
        density=0.5,
        canary_accuracy=canary_accuracy,
        folded_depth=0,
        trunk_bytes=0,
        manifest=manifest.model_copy(update=fields),
        history=(),
    )


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param({}, (None, None), id="none"),
        pytest.param({"dev_exact_match": 0.5}, ("dev_exact_match", 0.5), id="dev"),
        pytest.param(
            {"dev_exact_match": 0.5, "test_exact_match": 0.4}, ("test_exact_match", 0.4), id="test"
        ),
        pytest.param(
            {"dev_exact_match": 0.5, "test_exact_match": 89.4},
            ("dev_exact_match", 0.5),
            id="a percentage",
        ),
        pytest.param({"dev_f1": 0.5}, (None, None), id="another score"),
        pytest.param({"test_exact_match": 0.0}, ("test_exact_match", 0.0), id="zero"),
    ],
)
def test_accuracy(scores: dict[str, float], expected: tuple[str | None, float | None]) -> None:
    quality = quality_of(status(scores=scores))
    assert (quality.score, quality.accuracy) == expected


def test_canaries_and_the_run() -> None:
    training = {"continual": {"backward_transfer": -0.08}}
    quality = quality_of(status(canary_accuracy=0.75, training=training))
    assert (quality.canary_accuracy, quality.backward_transfer) == (0.75, -0.08)


def test_a_task_without_a_version() -> None:
    assert quality_of(status(training={"continual": {"backward_transfer": None}})) == (
        AdapterQuality()
    )
