"""A process that dies at any step of a change leaves the old or the new state, and can go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import crashing
from crashing import BACKBONE, CRASHED, change_store, fixed_clock
from factories import write_random_adapter
from jumplora_adapters.format import read_adapter
from jumplora_adapters.store import Store

View = dict[str, object]


@dataclass(frozen=True)
class Case:
    """A change to the store of `prepared`, by the method's name, and where the process dies."""

    change: str
    arguments: tuple[str, ...]
    step: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.change} {self.arguments[0]} after {self.step}"


PUBLISH_STEPS = ["copied", "folder", "renamed", "kept", "logged", "written"]
CASES = [
    Case("publish", (name,), step, "old" if step != "pointed" else "new")
    for name in ("agnews-2", "agnews-0", "other-0")
    for step in [*PUBLISH_STEPS, "pointed"]
] + [
    Case("rollback", ("agnews",), "logged", "old"),
    Case("rollback", ("agnews",), "written", "old"),
    Case("rollback", ("agnews",), "pointed", "new"),
    Case("remove", ("agnews",), "detached", "new"),
    Case("remove_version", ("agnews", "agnews-0"), "logged", "new"),
    Case("stage", ("agnews", "agnews-0", "0.5"), "logged", "old"),
    Case("stage", ("agnews", "agnews-0", "0.5"), "routed", "new"),
    Case("stage_file", ("agnews-2",), "kept", "old"),
    Case("stage_file", ("agnews-2",), "logged", "old"),
    Case("stage_file", ("agnews-2",), "routed", "new"),
    Case("promote", ("waiting",), "logged", "old"),
    Case("promote", ("waiting",), "moved", "new"),
    Case("promote", ("waiting",), "pointed", "new"),
    Case("unstage", ("waiting",), "logged", "old"),
    Case("unstage", ("waiting",), "routed", "new"),
    Case("alias", ("agnews", "best", "agnews-0"), "logged", "old"),
    Case("alias", ("agnews", "best", "agnews-0"), "routed", "new"),
]


@dataclass(frozen=True)
class Prepared:
    """A store of two versions of task agnews, a task with a staged one, and files to publish."""

    folder: Path
    files: dict[str, Path]
    digests: dict[str, str]

    def arguments(self, case: Case) -> list[str]:
        """The method's arguments, with names replaced by files or digests."""
        if case.change in ("publish", "stage_file"):
            return [str(self.files[case.arguments[0]])]
        return [self.digests.get(argument, argument) for argument in case.arguments]

    def copy(self, name: str) -> Path:
        """A copy of the store."""
        root = self.folder / name
        shutil.copytree(self.folder / "base", root)
        return root


def view(store: Store) -> View:
    """Everything a reader can see of the tasks; each version it sees must be whole."""
    seen: View = {}
    for task in store.tasks():
        history = store.history(task)
        trail = store.trail(task)
        for digest in {store.current(task), *trail, *(entry.digest for entry in history)}:
            read_adapter(store.path_of(digest), BACKBONE, expect_digest=digest)
        seen[task] = (store.current(task), trail, history, store.routing(task), store.changes(task))
    return seen


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The store before the change."""
    folder = tmp_path_factory.mktemp("crash")
    base = Store(folder / "base", clock=fixed_clock)
    files = {
        f"{task}-{seed}": write_random_adapter(folder / "files", BACKBONE, task=task, seed=seed)
        for task, seed in [
            ("agnews", 0), ("agnews", 1), ("agnews", 2),
            ("other", 0), ("waiting", 0), ("waiting", 1),
        ]
    }  # fmt: skip
    digests = {name: base.publish(files[name], BACKBONE).digest for name in list(files)[:2]}
    base.publish(files["waiting-0"], BACKBONE)
    base.publish(files["waiting-1"], BACKBONE, stage=0.5)
    base.alias("waiting", "best", base.current("waiting"))
    return Prepared(folder, files, digests)


@pytest.fixture(scope="module")
def crashed(prepared: Prepared) -> dict[Case, Path]:
    """For each case a store in which a process died."""
    roots = {case: prepared.copy(f"case-{index}") for index, case in enumerate(CASES)}
    cases = [
        {
            "root": str(root),
            "change": case.change,
            "arguments": prepared.arguments(case),
            "step": case.step,
        }
        for case, root in roots.items()
    ]
    (prepared.folder / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [sys.executable, crashing.__file__, str(prepared.folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    assert json.loads(done.stdout) == [CRASHED] * len(CASES)
    return roots


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_crash_leaves_old_or_new(
    prepared: Prepared, crashed: dict[Case, Path], case: Case, tmp_path: Path
) -> None:
    undisturbed = Store(shutil.copytree(prepared.folder / "base", tmp_path / "undisturbed"),
                        clock=fixed_clock)  # fmt: skip
    old = view(undisturbed)
    change_store(undisturbed, case.change, prepared.arguments(case))
    new = view(undisturbed)
    assert old != new

    store = Store(crashed[case], clock=fixed_clock)
    assert view(store) == {"old": old, "new": new}[case.outcome]
    store.sweep()
    assert view(store) == {"old": old, "new": new}[case.outcome]
    assert not [path for path in store.root.rglob("*") if path.name.startswith((".tmp", ".rem"))]
    if case.outcome == "old":
        change_store(store, case.change, prepared.arguments(case))
        assert view(store) == new
    store.publish(prepared.files["agnews-2"], BACKBONE)
    store.publish(prepared.files["agnews-1"], BACKBONE)
    if case.change == "promote" and case.outcome == "new":
        store.rollback("waiting")
        assert store.routing("waiting").staged is None, "what was promoted is not staged any more"
        assert set(store.routing("waiting").aliases) == {"best"}
    assert store.rollback("agnews") == store.publish(prepared.files["agnews-2"], BACKBONE).digest
