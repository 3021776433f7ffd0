"""What happens to adapters, as an operator reads it."""

from __future__ import annotations

import shutil
from pathlib import Path

from fakes import FakeEngine
from small_server import SmallServer, wait_until


def told(server: SmallServer, task: str | None = "a") -> list[tuple[str, str]]:
    """Kind and text of the events of a task, oldest first."""
    events = reversed(server.events.newest())
    return [(event.kind, event.text) for event in events if event.task == task]


def test_a_task_from_its_first_version_to_its_end(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        first = server.publish("a", 1)
        server.settle("a")
        kind, text = told(server)[0]
        assert kind == "loaded"
        assert text.startswith(f"Version {first[:12]} was loaded in 0.")
        second = server.publish("a", 2)
        server.settle("a")
        assert told(server)[-1] == ("switched", f"Version {second[:12]} now answers.")
        server.store.rollback("a")
        server.settle("a")
        assert told(server)[-1] == ("rolled_back", f"The task went back to version {first[:12]}.")
        server.store.remove("a")
        server.residency.forget("a")
        wait_until(lambda: told(server)[-1][0] == "removed")
        kinds = [kind for kind, _ in told(server)]
        assert kinds == ["loaded", "loaded", "switched", "loaded", "rolled_back", "removed"]
        versions = [event.version for event in reversed(server.events.newest())]
        assert versions == [first, second, second, first, first, None]


def test_a_version_that_makes_room(tmp_path: Path) -> None:
    with SmallServer(tmp_path, budget_bytes=150) as server:
        evicted = server.publish("a")
        server.settle("a")
        server.publish("b")
        server.settle("b")
        text = f"Version {evicted[:12]} left memory to make room for another."
        assert told(server)[-1] == ("evicted", text)
        assert [kind for kind, _ in told(server, "b")] == ["loaded"]


def test_a_failure_is_told_once_and_without_whole_digests(tmp_path: Path) -> None:
    engine = FakeEngine()
    with SmallServer(tmp_path, engine=engine) as server:
        engine.fail_pack = lambda digest: MemoryError(f"no memory for {digest}")
        failed = server.publish("a")
        for _ in range(3):
            server.settle("a")
        (found,) = told(server)
        assert found[0] == "failed"
        assert found[1].startswith(f"Version {failed[:12]} does not load: ")
        assert failed not in found[1]


def test_a_pointer_at_fault(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        server.publish("a")
        server.settle("a")
        (server.store.root / "a" / "current").write_text("nothing like a digest")
        server.residency.notify()
        wait_until(lambda: told(server)[-1][0] == "failed")
        assert told(server)[-1][1].startswith("The store does not say what to serve: ")


def test_pins_are_told_where_they_change_something(tmp_path: Path) -> None:
    with SmallServer(tmp_path) as server:
        server.publish("a")
        server.settle("a")
        for pinned in ("pinned", "pinned", "unpinned", "unpinned"):
            server.residency.pin("a", pinned)
        assert told(server)[1:] == [
            ("pinned", "The task stays in memory until the server restarts."),
            ("unpinned", "The task may leave memory again."),
        ]


def test_a_store_that_goes_and_comes_back(tmp_path: Path) -> None:
    with SmallServer(tmp_path, watch_seconds=0.01) as server:
        server.publish("a")
        server.settle("a")
        away = tmp_path / "away"
        shutil.move(server.store.root, away)
        wait_until(lambda: bool(told(server, None)))
        shutil.move(away, server.store.root)
        wait_until(lambda: len(told(server, None)) > 1)
        (gone_kind, gone), (back_kind, back) = told(server, None)
        assert (gone_kind, back_kind) == ("server", "server")
        assert gone.startswith("The store cannot be read: ")
        assert back == "The store can be read again."
        assert "removed" not in [kind for kind, _ in told(server)]
