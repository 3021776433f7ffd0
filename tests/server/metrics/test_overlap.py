"""Pairs on the page: only of tasks with labels of their own, and of what they serve now."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.overlap import OverlapSnapshot

VERSIONS = {task: task * 64 for task in "abc"}


def pair(first: str, second: str) -> OverlapSnapshot:
    return OverlapSnapshot((first, second), (VERSIONS[first], VERSIONS[second]), 0.2, 0.1)


def serve(metrics: Metrics, task: str, version: str | None) -> None:
    metrics.adapter_state(
        task, version, "READY", bytes_by_tier={}, nonzeros=1, density=0.5, degraded=False
    )


def pairs(metrics: Metrics) -> set[tuple[str, str]]:
    return {
        (sample.labels["task_id"], sample.labels["other_task_id"])
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "jumplora_adapter_overlap_jaccard"
    }


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics(CollectorRegistry())
    for task, version in VERSIONS.items():
        serve(metrics, task, version)
    metrics.adapter_overlaps([pair("a", "b"), pair("a", "c"), pair("b", "c")])
    return metrics


def test_both_numbers(metrics: Metrics) -> None:
    labels = {"task_id": "a", "other_task_id": "b"}
    value = metrics.registry.get_sample_value
    assert value("jumplora_adapter_overlap_jaccard", labels) == 0.2
    assert value("jumplora_adapter_overlap_chance", labels) == 0.1


@pytest.mark.parametrize("version", ["f" * 64, None], ids=["another version", "no version"])
def test_a_version_that_went_takes_its_pairs(metrics: Metrics, version: str | None) -> None:
    serve(metrics, "b", version)
    assert pairs(metrics) == {("a", "c")}


def test_a_task_that_went_takes_its_pairs(metrics: Metrics) -> None:
    metrics.task_removed("c")
    assert pairs(metrics) == {("a", "b")}
    assert b'other_task_id="c"' not in metrics.render()[0]


def test_a_newer_list_replaces_all(metrics: Metrics) -> None:
    metrics.adapter_overlaps([pair("b", "c")])
    assert pairs(metrics) == {("b", "c")}


def test_tasks_without_a_label_have_no_pair() -> None:
    metrics = Metrics(CollectorRegistry(), max_task_labels=2)
    for task, version in VERSIONS.items():
        serve(metrics, task, version)
    metrics.adapter_overlaps([pair("a", "b"), pair("a", "c"), pair("b", "c")])
    assert pairs(metrics) == {("a", "b")}
