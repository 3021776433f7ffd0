"""What is counted by version: only of tasks that have or just had a staged one."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from jumplora_server.core import Timing
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.metrics.versions import KEPT_SECONDS, MOST_TASKS, MOST_VERSIONS, NOTHING

OLD, NEW = "a" * 64, "b" * 64
TIMING = Timing(queue=0.0, encode=0.0, decode=0.1, total=0.1, first_token=0.1)


class Page:
    """Metrics of a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, clock=lambda: self.now)
        self.metrics.register("a")

    def series(self) -> list[tuple[str, ...]]:
        return [
            (s.labels["task_id"], s.labels["version"], s.labels["role"], s.labels["outcome"])
            for family in self.registry.collect()
            for s in family.samples
            if s.name == "jumplora_version_requests_total"
        ]

    def share(self, version: str) -> float | None:
        labels = {"task_id": "a", "version": version}
        return self.registry.get_sample_value("jumplora_adapter_staged_share", labels)


@pytest.fixture
def page() -> Page:
    return Page()


def test_nothing_is_counted_without_a_staged_version(page: Page) -> None:
    page.metrics.version_finished("a", OLD, "current", "ok", TIMING, is_judged=True)
    assert page.series() == []
    assert page.metrics.counts_of("a", OLD) == NOTHING


def test_both_versions_are_counted(page: Page) -> None:
    page.metrics.staged("a", NEW, 0.1)
    page.metrics.version_finished("a", OLD, "current", "ok", TIMING, is_judged=True)
    page.metrics.version_finished("a", NEW, "staged", "error", TIMING, is_judged=True)
    page.metrics.version_finished("a", NEW, "staged", "timeout", TIMING, is_judged=True)
    page.metrics.version_finished("a", NEW, "staged", "client_disconnect", TIMING, is_judged=True)
    assert ("a", OLD, "current", "ok") in page.series()
    assert ("a", NEW, "staged", "client_disconnect") in page.series()
    assert page.metrics.counts_of("a", NEW)[:2] == (2, 2), "a hang-up says nothing of a version"
    assert sum(page.metrics.counts_of("a", OLD).durations) == 1
    assert page.share(NEW) == 0.1


def test_series_begin_with_zeros(page: Page) -> None:
    """Else a rate never sees the first failure, and none at all looks like nothing staged."""
    page.metrics.staged("a", NEW, 0.1)
    outcomes = [("a", NEW, "staged", outcome) for outcome in ("ok", "error", "timeout")]
    assert page.series() == outcomes
    page.metrics.version_finished("a", NEW, "staged", "error", TIMING, is_judged=True)
    assert page.series() == outcomes


def test_what_chance_did_not_deal_out_is_not_judged(page: Page) -> None:
    page.metrics.staged("a", NEW, 0.1)
    page.metrics.version_finished("a", NEW, "staged", "error", TIMING, is_judged=False)
    assert ("a", NEW, "staged", "error") in page.series()
    assert page.metrics.counts_of("a", NEW) == NOTHING


def test_a_new_stage_is_counted_from_its_beginning(page: Page) -> None:
    page.metrics.staged("a", NEW, 0.1)
    page.metrics.version_finished("a", NEW, "staged", "error", TIMING, is_judged=True)
    page.metrics.staged("a", NEW, 0.5)
    assert page.metrics.counts_of("a", NEW).failed == 1, "only the share is another"
    page.metrics.staged("a", None, 0.0)
    assert page.share(NEW) is None
    page.metrics.staged("a", NEW, 0.1)
    assert page.metrics.counts_of("a", NEW) == NOTHING


def test_the_series_are_kept_for_a_while_and_then_dropped(page: Page) -> None:
    page.metrics.staged("a", NEW, 0.1)
    page.metrics.version_finished("a", NEW, "staged", "ok", TIMING, is_judged=True)
    page.metrics.staged("a", None, 0.0)
    page.metrics.version_finished("a", NEW, "staged", "error", TIMING, is_judged=True)
    assert ("a", NEW, "staged", "error") in page.series(), "what ended after it counts"
    page.now = KEPT_SECONDS
    page.metrics.staged("other", NEW, 0.1)
    assert page.series() == []


def test_a_removed_task_leaves_nothing(page: Page) -> None:
    page.metrics.staged("a", NEW, 0.1)
    page.metrics.version_finished("a", NEW, "staged", "ok", TIMING, is_judged=True)
    page.metrics.stage_ended("a", "aborted", "errors")
    page.metrics.task_removed("a")
    assert b'task_id="a"' not in page.metrics.render()[0]


def test_the_series_are_bounded(page: Page) -> None:
    for number in range(2 * MOST_TASKS):
        page.metrics.register(f"t{number}")
        page.metrics.staged(f"t{number}", NEW, 0.1)
        for version in range(2 * MOST_VERSIONS):
            page.metrics.version_finished(
                f"t{number}", f"{version:064}", "staged", "ok", TIMING, is_judged=True
            )
    assert len({task for task, *_ in page.series()}) == MOST_TASKS
    assert len(page.series()) == MOST_TASKS * MOST_VERSIONS * len(("ok", "error", "timeout"))
    assert page.metrics.counts_of("t63", f"{0:064}").requests == 1, "all are judged"
