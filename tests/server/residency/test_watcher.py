"""The watcher: what it tells of, and that it neither polls nor gives up."""

from __future__ import annotations

import queue
from collections.abc import Mapping

import pytest

from jumplora_adapters.errors import StoreError
from jumplora_server.residency.watcher import Watcher


@pytest.mark.parametrize(
    ("pointers", "noticed", "told"),
    [
        pytest.param({"a": "1"}, {"a": "1"}, [], id="same"),
        pytest.param({"a": "2"}, {"a": "1"}, ["a"], id="changed"),
        pytest.param({"a": "1", "b": "1"}, {"a": "1"}, ["b"], id="new"),
        pytest.param({}, {"a": "1"}, ["a"], id="removed"),
        pytest.param({"b": "1", "a": "2"}, {"a": "1", "c": "1"}, ["a", "b", "c"], id="all, sorted"),
    ],
)
def test_compares(pointers: dict[str, str], noticed: dict[str, str], told: list[str]) -> None:
    changed: list[str] = []
    watcher = Watcher(lambda: pointers, lambda: noticed, changed.append, 60.0)
    watcher.compare()
    assert changed == [task for task in told if task in pointers], "gone: not yet"
    changed.clear()
    watcher.compare()
    assert changed == told


def test_a_task_that_is_back_at_the_next_look_was_not_removed() -> None:
    looks = iter([{}, {"a": "1"}, {}, {"a": "1"}])
    watcher = Watcher(lambda: next(looks), lambda: {"a": "1"}, pytest.fail, 60.0)
    for _ in range(4):
        watcher.compare()


def test_a_store_that_goes_task_by_task_removes_nothing() -> None:
    left = iter([{"a": "1"}])

    def survey() -> Mapping[str, str]:
        for pointers in left:
            return pointers
        raise StoreError("the mount is gone")

    watcher = Watcher(survey, lambda: {"a": "1", "b": "1"}, pytest.fail, 60.0)
    for _ in range(4):
        watcher.compare()
    assert watcher.fault == "the mount is gone"


def test_an_unreadable_store_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def pointers() -> Mapping[str, str]:
        raise StoreError("the mount is gone")

    watcher = Watcher(pointers, lambda: {"a": "1"}, lambda task: pytest.fail(task), 60.0)
    watcher.compare()
    watcher.compare()
    assert caplog.text.count("the mount is gone") == 1


def test_what_nobody_expected_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    told: queue.Queue[str] = queue.Queue()
    errors = [RuntimeError("odd"), RuntimeError("odd")]

    def pointers() -> Mapping[str, str]:
        if errors:
            raise errors.pop()
        return {"a": "1"}

    watcher = Watcher(pointers, dict, told.put, 0.01)
    watcher.start()
    assert told.get(timeout=10) == "a"
    watcher.stop(10)
    assert caplog.text.count("Traceback") == 1, "said once"


def test_what_appears_in_between_does_not_seem_removed() -> None:
    """The store is read after the routes: a task published then is merely noticed later."""
    order: list[str] = []

    def pointers() -> Mapping[str, str]:
        order.append("store")
        return {}

    def noticed() -> Mapping[str, str]:
        order.append("routes")
        return {}

    Watcher(pointers, noticed, lambda task: None, 60.0).compare()
    assert order == ["routes", "store"]


@pytest.mark.parametrize("how", ["notified", "periodically"])
def test_compares_when(how: str) -> None:
    told: queue.Queue[str] = queue.Queue()
    watcher = Watcher(
        lambda: {"a": "2"}, lambda: {"a": "1"}, told.put, 60.0 if how == "notified" else 0.01
    )
    watcher.start()
    if how == "notified":
        watcher.notify()
    assert told.get(timeout=10) == "a"
    assert watcher.pulse.glance.state == "running"
    watcher.stop(10)
    assert {watcher.pulse.glance.state} == {"ended"}
