"""The lookout: rationed looks into the store, shared by who asks for the same."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

from jumplora_server.errors import Draining, UnknownTask
from jumplora_server.residency.lookout import Lookout
from jumplora_server.residency.status import TaskStatus
from small_server import PATIENCE, SmallServer, wait_until


class Post:
    """A lookout that finds nothing, on a clock that stands still unless moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looked: list[Future[TaskStatus]] = []
        self.lookout = Lookout(self._look, lambda: self.now, pause_seconds=0.2, burst=3)

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


def test_a_reserved_name_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with SmallServer(tmp_path, watch_seconds=0.01, reserved="base") as server:
        server.publish("base")
        server.publish("other")
        server.settle("other")
        with pytest.raises(UnknownTask, match="bare backbone"):
            server.settle("base")
        assert [status.task_id for status in server.residency.statuses()] == ["other"]
        wait_until(lambda: "'base' of the store is skipped" in caplog.text)
    assert caplog.text.count("is skipped") == 1
