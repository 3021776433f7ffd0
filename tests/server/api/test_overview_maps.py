"""What an overview says of several tasks together, on manifests made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from factories import random_adapter, toy_backbone
from jumplora_adapters.continual_record import ContinualRecord
from jumplora_server.api.overview_maps import (
    MOST_RUN_TASKS,
    MOST_RUNS,
    continual_runs,
    overlap_map,
    record_of_run,
)
from jumplora_server.core import AdapterRef
from jumplora_server.metrics.overlap import OverlapSnapshot
from jumplora_server.residency.entries import Route

MANIFEST, _ = random_adapter(toy_backbone())


def everything(task: str) -> bool:
    del task
    return True


def route(task: str, version: str | None = "1", **training: Any) -> Route:
    """A task that serves a version, or none, whose manifest notes that of its training."""
    if version is None:
        return Route(task, "1", ("1",))
    manifest = MANIFEST.model_copy(update={"task": task, "training": training})
    return Route(task, version, (version,), AdapterRef(task, version, (version,)), manifest)


class TestOverlap:
    def routes(self, **served: str | None) -> Mapping[str, Route]:
        return {task: route(task, version) for task, version in served.items()}

    def test_pairs_become_symmetric_squares(self) -> None:
        found = overlap_map(
            [
                OverlapSnapshot(("a", "c"), ("1", "3"), 0.5, 0.1),
                OverlapSnapshot(("b", "c"), ("2", "3"), 0.25, 0.2),
            ],
            self.routes(c="3", b="2", a="1", d="4"),
            everything,
        )
        assert found is not None
        assert found.tasks == ["a", "b", "c"]
        assert found.jaccard == [[None, None, 0.5], [None, None, 0.25], [0.5, 0.25, None]]
        assert found.chance == [[None, None, 0.1], [None, None, 0.2], [0.1, 0.2, None]]

    @pytest.mark.parametrize(
        ("served", "hidden"),
        [
            pytest.param({"a": "1", "b": "9"}, "", id="another version"),
            pytest.param({"a": "1", "b": None}, "", id="none is served"),
            pytest.param({"a": "1"}, "", id="the task is gone"),
            pytest.param({"a": "1", "b": "2"}, "b", id="of another key"),
        ],
    )
    def test_what_is_no_pair_any_more(self, served: dict[str, str | None], hidden: str) -> None:
        pair = OverlapSnapshot(("a", "b"), ("1", "2"), 0.5, 0.1)
        assert overlap_map([pair], self.routes(a="1", b="2"), everything) is not None
        assert overlap_map([pair], self.routes(**served), lambda task: task != hidden) is None


def noted(order: Sequence[str], task: str, **fields: Any) -> dict[str, Any]:
    """What a run notes in `task`'s manifest: once it was learned, on all tasks so far."""
    position = order.index(task) + 1
    learned = order[:position]
    return {
        "run": "run-1",
        "order": list(order),
        "position": position,
        "method": "jumplora",
        "gate": "mask",
        "split": "test",
        "accuracy": {each: (position * 10 + order.index(each)) / 100 for each in learned},
        "accuracy_when_learned": {},
        "backward_transfer": None if position == 1 else -position / 100,
        **fields,
    }


def records(order: Sequence[str], *tasks: str, **fields: Any) -> dict[str, ContinualRecord]:
    found = {
        task: record_of_run(route(task, continual=noted(order, task, **fields))) for task in tasks
    }
    return {task: record for task, record in found.items() if record is not None}


class TestRuns:
    def test_a_row_is_the_state_after_its_task(self) -> None:
        (run,) = continual_runs(records("xyz", "x", "y", "z"), everything)
        assert (run.run, run.method, run.gate, run.split) == ("run-1", "jumplora", "mask", "test")
        assert run.tasks == ["x", "y", "z"]
        assert run.accuracy == [[0.1, None, None], [0.2, 0.21, None], [0.3, 0.31, 0.32]]
        assert run.backward_transfer == -0.03

    def test_a_task_that_is_not_served_has_an_empty_row(self) -> None:
        (run,) = continual_runs(records("xyz", "y"), everything)
        assert run.accuracy == [[None] * 3, [0.2, 0.21, None], [None] * 3]
        assert run.backward_transfer == -0.02

    def test_what_a_key_may_not_see_is_left_out_everywhere(self) -> None:
        (run,) = continual_runs(records("xyz", "x", "z"), lambda task: task != "y")
        assert run.tasks == ["x", "z"]
        assert run.accuracy == [[0.1, None], [0.3, 0.32]]

    def test_runs_are_told_apart_by_name_and_by_how_they_were_made(self) -> None:
        each = {**records("xy", "x"), **records("xy", "y", gate="none")}
        assert len([*continual_runs(each, everything)]) == 2
        again = {**records("xy", "x"), **records("xy", "y")}
        assert len([*continual_runs(again, everything)]) == 1

    def test_there_are_at_most_so_many_runs_the_largest_first(self) -> None:
        each: dict[str, ContinualRecord] = {}
        for number in range(MOST_RUNS + 3):
            order = [f"t{number}-{index}" for index in range(2)]
            tasks = order if number == MOST_RUNS + 2 else order[:1]
            each |= records(order, *tasks, run=f"run-{number}")
        found = [*continual_runs(each, everything)]
        assert len(found) == MOST_RUNS
        assert found[0].run == f"run-{MOST_RUNS + 2}"

    def test_a_run_shows_at_most_so_many_tasks(self) -> None:
        order = [f"t{number}" for number in range(MOST_RUN_TASKS + 6)]
        (run,) = continual_runs(records(order, *order), everything)
        assert run.tasks == order[:MOST_RUN_TASKS]
        assert {len(row) for row in run.accuracy} == {len(run.accuracy)} == {MOST_RUN_TASKS}
        assert run.backward_transfer == -MOST_RUN_TASKS / 100

    @pytest.mark.parametrize(
        "continual",
        [
            pytest.param(None, id="nothing"),
            pytest.param("a text", id="not an object"),
            pytest.param({"order": ["y"]}, id="another task's"),
            pytest.param({"order": "x"}, id="no order"),
        ],
    )
    def test_what_is_no_record(self, continual: object) -> None:
        assert record_of_run(route("x", continual=continual)) is None
        assert record_of_run(route("x")) is None
        assert record_of_run(route("x", None)) is None
