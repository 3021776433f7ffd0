"""The lookout: rationed looks into the store, shared by who asks for the same."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from jumplora_server.core import Lease
from jumplora_server.errors import Draining, UnknownTask, UnknownVersion
from jumplora_server.residency.lookout import Lookout, Ration
from jumplora_server.residency.status import TaskStatus
from small_server import PATIENCE, SmallServer, wait_until


class Post:
    """A lookout that finds nothing, on a clock that stands still unless moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looked: list[Future[TaskStatus]] = []
        ration = Ration(lambda: self.now, pause_seconds=0.2, burst=3)
        self.lookout = Lookout(self._look, ration)

    def _look(self, task: str, done: Future[TaskStatus]) -> None:
        del task
        self.looked.append(done)

    def looks(self, *tasks: str) -> int:
        """How many of the tasks were looked for."""
        before = len(self.looked)
        for task in tasks:
            self.lookout.look_for(task)
        return len(self.looked) - before


def test_looks_are_rationed() -> None:
    post = Post()
    assert post.looks(*"abcdef") == 3, "a burst"
    post.now = 0.2
    assert post.looks(*"ghi") == 1
    post.now = 100.0
    assert post.looks(*"jklmn") == 3, "rest is not saved up"


def test_a_look_that_would_be_refused_is_known_before() -> None:
    post = Post()
    assert post.lookout.may_look_for("a")
    assert post.looks(*"abc") == 3
    assert post.lookout.may_look_for("a"), "it joins"
    assert not post.lookout.may_look_for("d")
    post.looked[0].set_exception(UnknownTask("no"))
    assert not post.lookout.may_look_for("a")
    post.now = 0.2
    assert post.lookout.may_look_for("a")
    assert len(post.looked) == 3, "asking looks for nothing"


def test_a_look_is_shared_until_it_ends() -> None:
    post = Post()
    first = post.lookout.look_for("a")
    assert post.lookout.look_for("a") is first
    assert len(post.looked) == 1
    post.looked[0].set_exception(UnknownTask("no"))
    assert post.lookout.look_for("a") is not first


def test_a_task_that_the_watcher_did_not_notice_yet(tmp_path: Path) -> None:
    with SmallServer(tmp_path, watch_seconds=60.0) as server:
        digest = server.publish("new")
        with pytest.raises(UnknownTask):
            server.residency.acquire("new")
        found = server.residency.look_for("new")
        assert found is not None
        assert found.result(PATIENCE).version == digest
        assert server.generate("new") == f"{digest[:8]}:hi"
        missing = server.residency.look_for("other")
        assert missing is not None
        assert isinstance(missing.exception(PATIENCE), UnknownTask)
    late = server.residency.look_for("new")
    assert late is not None
    assert isinstance(late.exception(PATIENCE), Draining)


class StoppableClock:
    """Seconds since it was made, until it is stopped."""

    def __init__(self) -> None:
        self._made = time.monotonic()
        self.stopped_at: float | None = None

    def __call__(self) -> float:
        return time.monotonic() - self._made if self.stopped_at is None else self.stopped_at


def test_unknown_versions_are_looked_for_on_a_ration(tmp_path: Path) -> None:
    clock = StoppableClock()
    with SmallServer(tmp_path, watch_seconds=60.0, clock=clock) as server:
        server.publish("a")
        server.settle("a")

        looks = 0

        def ask(spec: str) -> Lease:
            """As requests do: a look into the store is for a thread, and only where allowed."""
            nonlocal looks
            try:
                lease = server.residency.table.acquire(spec)
            except UnknownVersion:
                if not server.residency.may_refresh:
                    raise
            else:
                assert isinstance(lease, Lease)
                return lease
            looks += 1
            return server.residency.acquire(spec)

        stopped = clock()
        for later, expected in ((0.0, 16), (0.25, 17)):
            clock.stopped_at = stopped + later
            for number in range(100):
                with pytest.raises(UnknownVersion):
                    ask(f"a@{number:08d}")
            assert looks == expected


def test_a_reserved_name_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with SmallServer(tmp_path, watch_seconds=0.01, reserved={"base", "t5"}) as server:
        for task in ("base", "other", "t5"):
            server.publish(task)
        server.settle("other")
        for task in ("base", "t5"):
            with pytest.raises(UnknownTask, match="bare backbone"):
                server.settle(task)
        assert [status.task_id for status in server.residency.each_status()] == ["other"]
        wait_until(lambda: caplog.text.count("of the store is skipped") == 2)
    assert [caplog.text.count(f"{task!r} of the store is skipped") for task in ("base", "t5")] == [
        1,
        1,
    ]
