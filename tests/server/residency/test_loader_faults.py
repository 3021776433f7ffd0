"""An exception at every step of the loader: that job ends, the thread lives, all heals.

The steps are found, not listed: every public method of what the loader calls raises once on the
loader's thread, in a server of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes import FakeEngine
from jumplora_server.core import FinishReason
from jumplora_server.errors import AdapterUnavailable
from jumplora_server.residency.installer import Installer
from jumplora_server.residency.overlaps import Overlaps
from jumplora_server.residency.reader import StoreReader
from jumplora_server.residency.report import Report
from jumplora_server.residency.setback import Setbacks, Waits
from jumplora_server.residency.shared import Shared
from jumplora_server.residency.table import Table
from jumplora_server.residency.trials import TrialRun
from jumplora_server.residency.versions import Versions
from small_server import PATIENCE, SmallServer, wait_until

SOON = Waits(first=0.02, longest=0.05)
CLASSES: tuple[type[Any], ...] = (
    Table, Versions, Setbacks, Shared, StoreReader, FakeEngine, Report, Installer, Overlaps,
    TrialRun,
)  # fmt: skip


def steps() -> list[tuple[type[Any], str]]:
    return [
        (owner, name)
        for owner in CLASSES
        for name, member in vars(owner).items()
        if callable(member) and not name.startswith("_")
    ]


class Fuse:
    """Makes one method raise when it is called by the loader for the nth time, once."""

    def __init__(self, owner: type[Any], name: str, after: int) -> None:
        self.hits = 0
        self.is_blown = False
        self._call: Callable[..., Any] = getattr(owner, name)
        self._after = after
        self._name = name

    def __get__(self, instance: Any, owner: type[Any]) -> Callable[..., Any]:
        def call(*args: Any, **fields: Any) -> Any:
            if threading.current_thread().name == "loader":
                self.hits += 1
                if self.hits == self._after:
                    self.is_blown = True
                    raise RuntimeError(f"{self._name} is broken")
            return self._call(instance, *args, **fields)

        return call


# An engine that installs an adapter and raises then has lost it: nobody knows the slot.
UNKNOWABLE = (FakeEngine, "install", "after")


@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [
        pytest.param(owner, name, when, id=f"{owner.__name__}.{name} {when}")
        for owner, name in steps()
        for when in ("before", "after")
        if (owner, name, when) != UNKNOWABLE
    ],
)
def test_a_step_that_raises_ends_its_job_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type[Any], name: str, when: str
) -> None:
    """A chain of two is loaded, an update of its child with a longer trunk follows; a step of the
    update raises, before it did anything or after it did all."""
    with SmallServer(tmp_path, waits=SOON, budget_bytes=100_000) as server:
        parent = server.publish("parent")
        child = server.publish("child", lineage=[parent])
        other = server.publish("other", seed=3)
        for task in ("parent", "child", "other"):
            server.settle(task)
        fuse = Fuse(owner, name, after=1)
        if when == "after":
            fuse = AfterFuse(owner, name, after=1)
        monkeypatch.setattr(owner, name, fuse)
        newer = server.publish("child", seed=1, lineage=[parent, other])
        texts = [f"{parent[:8]}+{child[:8]}:hi", f"{parent[:8]}+{other[:8]}+{newer[:8]}:hi"]
        error = server.residency.sync("child").exception(PATIENCE)
        assert error is None or isinstance(error, AdapterUnavailable)
        answer = server.submit("child")[1].finish()
        if answer.reason is not FinishReason.ERROR:
            assert answer.text in texts
        assert server.generate("other") == f"{other[:8]}:hi"
        assert server.has_threads
        wait_until(lambda: server.residency.status("child").version == newer)
        wait_until(lambda: server.residency.status("child").failure is None)
        assert server.generate("child") == texts[1]
        assert server.generate("parent") == f"{parent[:8]}:hi"
        monkeypatch.undo()  # what did not blow by now must not at the end
        if fuse.is_blown:
            leftover = server.engine.resident_bytes - 100 * 6  # two trunks among them
            assert leftover <= 0, "nothing of the failed attempt is left"


class AfterFuse(Fuse):
    """As a fuse, once the step was done."""

    def __get__(self, instance: Any, owner: type[Any]) -> Callable[..., Any]:
        def call(*args: Any, **fields: Any) -> Any:
            result = self._call(instance, *args, **fields)
            if threading.current_thread().name == "loader":
                self.hits += 1
                if self.hits == self._after:
                    self.is_blown = True
                    raise RuntimeError(f"{self._name} is broken")
            return result

        return call


def test_the_steps_are_those_of_a_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of what is broken above is on a load's way: else the test above shows nothing."""
    with SmallServer(tmp_path) as server:
        first = server.publish("a")
        server.settle("a")
        fuses = {}
        for owner, name in steps():
            fuses[owner, name] = Fuse(owner, name, after=0)
            monkeypatch.setattr(owner, name, fuses[owner, name])
        server.publish("a", seed=1, lineage=[first])
        server.settle("a")
        met = {f"{owner.__name__}.{name}" for (owner, name), fuse in fuses.items() if fuse.hits}
    assert {
        "Table.observe", "Table.candidates", "Table.revive", "Table.begin", "Table.measure",
        "Table.commit", "Table.flip", "Versions.take_freed", "Versions.install", "Versions.begin",
        "Versions.ready", "Versions.serve", "StoreReader.desired", "StoreReader.known",
        "StoreReader.lineage", "StoreReader.adapter", "StoreReader.stamps", "FakeEngine.pack",
        "FakeEngine.fold", "FakeEngine.trunk_bytes", "FakeEngine.install", "Report.state",
        "Report.loaded", "Report.flipped",
    } <= met  # fmt: skip
