"""Overlap of served adapters: which pairs, what numbers, and when they leave the metrics page."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from jumplora_adapters.format import read_supports
from jumplora_adapters.overlap import Support, overlap_pair
from jumplora_server.residency.overlaps import Overlaps
from jumplora_server.residency.reader import StoreReader
from small_server import PATIENCE, SmallServer, wait_until

JACCARD, CHANCE = "jumplora_adapter_overlap_jaccard", "jumplora_adapter_overlap_chance"
Pairs = dict[tuple[str, str], float]

FIRST = [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
SECOND = [[0.0, 0.0, 4.0], [5.0, 6.0, 0.0]]
EMPTY = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SmallServer]:
    with SmallServer(tmp_path) as server:
        yield server


def serve(server: SmallServer, *tasks: str) -> None:
    for seed, task in enumerate(tasks):
        server.publish(task, seed)
        server.settle(task)


def remove(server: SmallServer, task: str) -> None:
    server.store.remove(task)
    server.residency.forget(task)


def on_the_page(server: SmallServer, name: str = JACCARD) -> Pairs:
    return {
        (sample.labels["task_id"], sample.labels["other_task_id"]): sample.value
        for family in server.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


class Comparison:
    """Overlaps of a server's own, beside those that its loader has."""

    def __init__(self, server: SmallServer, max_tasks: int) -> None:
        self.server = server
        self.overlaps = Overlaps(StoreReader(server.store, server.backbone), max_tasks)

    def pairs(self) -> set[tuple[str, str]]:
        """Compare everything there is to compare now."""
        found = None
        while (
            more := self.overlaps.compare(list(self.server.residency.each_status()))
        ) is not None:
            found = more
        assert found is not None, "nothing was to do"
        return {overlap.tasks for overlap in found}


class TestChoice:
    def test_each_pair_once(self, server: SmallServer) -> None:
        serve(server, "c", "a", "b")
        comparison = Comparison(server, 12)
        one = comparison.overlaps.compare(list(server.residency.each_status()))
        assert one is not None
        assert [overlap.tasks for overlap in one] == [("a", "b")], "one a call"
        assert comparison.pairs() == {("a", "b"), ("a", "c"), ("b", "c")}

    def test_the_bound_keeps_who_was_there_first(self, server: SmallServer) -> None:
        serve(server, "y", "z", "x")
        comparison = Comparison(server, 3)
        first = {("x", "y"), ("x", "z"), ("y", "z")}
        assert comparison.pairs() == first
        serve(server, "a", "b")
        assert comparison.overlaps.compare(list(server.residency.each_status())) is None
        remove(server, "x")
        assert comparison.pairs() == {("a", "y"), ("a", "z"), ("y", "z")}

    @pytest.mark.parametrize("most", [0, 1])
    def test_no_pairs(self, server: SmallServer, most: int) -> None:
        serve(server, "a", "b")
        overlaps = Comparison(server, most).overlaps
        assert overlaps.compare(list(server.residency.each_status())) is None

    def test_twelve_tasks_are_66_pairs(self, server: SmallServer) -> None:
        serve(server, *(f"t{index}" for index in range(14)))
        assert len(Comparison(server, 12).pairs()) == 66

    @pytest.mark.parametrize("odd", ["low rank", "empty"])
    def test_what_says_nothing_is_no_pair(self, server: SmallServer, odd: str) -> None:
        if odd == "empty":
            server.publish("odd", dense=EMPTY)
        else:
            server.publish("odd", kind="lowrank")
        server.settle("odd")
        serve(server, "a", "b")
        assert Comparison(server, 12).pairs() == {("a", "b")}

    def test_masks_beside_low_rank_parts_are_compared(self, server: SmallServer) -> None:
        server.publish("both", kind="combined")
        server.settle("both")
        serve(server, "a")
        comparison = Comparison(server, 12)
        (overlap,) = comparison.overlaps.compare(list(server.residency.each_status())) or ()
        assert overlap.tasks == ("a", "both")
        paths = [server.store.path_of(server.store.current(task)) for task in overlap.tasks]
        ours, theirs = (read_supports(path, server.backbone) for path in paths)
        assert overlap.jaccard == overlap_pair("a", ours, "both", theirs).jaccard

    def test_what_was_never_loaded_was_never_checked(self, tmp_path: Path) -> None:
        with SmallServer(tmp_path, budget_bytes=150) as writer:
            serve(writer, "a", "b")
        with SmallServer(tmp_path, budget_bytes=150) as server:
            wait_until(lambda: server.residency.settled)
            overlaps = Comparison(server, 12).overlaps
            assert overlaps.compare(list(server.residency.each_status())) is None

    def test_a_file_that_is_gone_costs_its_pairs_only(
        self, server: SmallServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        serve(server, "a", "b", "c")
        wait_until(lambda: len(on_the_page(server)) == 3)
        server.store.path_of(server.store.current("a")).unlink()
        assert Comparison(server, 12).pairs() == {("b", "c")}
        assert caplog.text.count("tasks a and b are not compared") == 1


class TestPage:
    def test_a_pair_beside_its_chance(self, server: SmallServer) -> None:
        for task, dense in (("b", FIRST), ("a", SECOND)):
            server.publish(task, dense=dense)
            server.settle(task)
        wait_until(lambda: bool(on_the_page(server)))
        # One of five entries that either keeps; random halves of six share 1.5 of 4.5.
        assert on_the_page(server) == {("a", "b"): 1 / 5}
        assert on_the_page(server, CHANCE) == {("a", "b"): pytest.approx(1.5 / 4.5)}

    def test_pairs_follow_the_served_versions(self, server: SmallServer) -> None:
        for task, dense in (("a", FIRST), ("b", SECOND)):
            server.publish(task, dense=dense)
            server.settle(task)
        wait_until(lambda: on_the_page(server) == {("a", "b"): 1 / 5})
        server.publish("b", seed=1, dense=FIRST)
        server.settle("b")
        wait_until(lambda: on_the_page(server) == {("a", "b"): 1.0})
        bad = server.publish("b", seed=2)
        server.engine.nonfinite.add(bad)
        server.settle("b")
        assert on_the_page(server) == {("a", "b"): 1.0}
        remove(server, "b")
        wait_until(lambda: on_the_page(server) == {})

    def test_the_setting_switches_it_off(self, tmp_path: Path) -> None:
        with SmallServer(tmp_path, max_overlap_tasks=0) as server:
            serve(server, "a", "b")
            server.settle("a")
            assert on_the_page(server) == {}


class TestLoader:
    def test_a_version_answers_before_it_is_compared(
        self, server: SmallServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        serve(server, "a")
        allowed = threading.Event()

        def supports(self: StoreReader, digest: str) -> dict[str, Support]:
            assert allowed.wait(PATIENCE)
            return {}

        monkeypatch.setattr(StoreReader, "supports", supports)
        digest = server.publish("b")
        try:
            assert server.residency.sync("b").result(PATIENCE).version == digest
            assert server.generate("b") == f"{digest[:8]}:hi"
        finally:
            allowed.set()

    def test_a_bug_costs_figures_only(
        self,
        server: SmallServer,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def compare(self: Overlaps, statuses: object) -> NoReturn:
            raise RuntimeError("odd")

        monkeypatch.setattr(Overlaps, "compare", compare)
        serve(server, "a")
        wait_until(lambda: "could not be compared" in caplog.text)
        assert server.has_threads
        assert server.generate("a").endswith(":hi")
