"""Any sequence of changes against a model of a few lists."""

from __future__ import annotations

import atexit
import itertools
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from factories import toy_backbone, write_random_adapter
from jumplora_adapters.errors import (
    HasDescendants,
    MissingAncestor,
    UnknownTask,
    UnknownVersion,
    VersionConflict,
)
from jumplora_adapters.routing import NO_ROUTING, Routing
from jumplora_adapters.store import Store

BACKBONE = toy_backbone()
TASKS = ("a", "b", "child")


@dataclass
class TaskModel:
    """What is stored of a task and the way back from its current version, which is last."""

    trail: list[str]
    stored: set[str] = field(default_factory=set)
    staged: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)

    def move(self) -> None:
        """After a change of the pointer."""
        if self.staged == self.trail[-1]:
            self.staged = None


@cache
def version_files() -> dict[str, tuple[str, str, Path]]:
    """digest -> (task, its parent's digest or "", file); `child` needs a version of task `a`."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    scratch = Store(folder / "scratch")
    found: dict[str, tuple[str, str, Path]] = {}
    content: list[tuple[str, int, list[str]]] = [
        (task, seed, []) for task in ("a", "b") for seed in range(3)
    ]
    for task, seed, lineage in content:
        path = write_random_adapter(folder, BACKBONE, task=task, seed=seed, lineage=lineage)
        found[scratch.publish(path, BACKBONE).digest] = (task, "", path)
    parents = [digest for digest, (task, _, _) in found.items() if task == "a"][:2]
    for seed, parent in enumerate(parents):
        path = write_random_adapter(folder, BACKBONE, task="child", seed=seed, lineage=[parent])
        found[scratch.publish(path, BACKBONE).digest] = ("child", parent, path)
    return found


class StoreMachine(RuleBasedStateMachine):
    """The store and its model, changed by the same rules."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(self.folder)
        self.store.prepare()
        self.model: dict[str, TaskModel] = {}
        self.files = version_files()

    def teardown(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def needed_by_others(self, digest: str, *, own_task: str = "") -> bool:
        """Whether a stored version other than of `own_task` has `digest` as its parent."""
        return any(
            self.files[other][1] == digest
            for task, state in self.model.items()
            if task != own_task
            for other in state.stored
        )

    @rule(index=st.integers(0, 7))
    def publish(self, index: int) -> None:
        """Publish one of the files."""
        digest = list(self.files)[index]
        task, parent, path = self.files[digest]
        if parent and not any(parent in state.stored for state in self.model.values()):
            with pytest.raises(MissingAncestor):
                self.store.publish(path, BACKBONE)
            return
        state = self.model.get(task)
        expected = "created"
        if state is not None and digest in state.stored:
            expected = "unchanged" if state.trail[-1] == digest else "repointed"
        assert self.store.publish(path, BACKBONE).outcome == expected
        state = self.model.setdefault(task, TaskModel([]))
        state.stored.add(digest)
        if expected != "unchanged":
            state.trail.append(digest)
        state.move()

    @rule(task=st.sampled_from(TASKS))
    def rollback(self, task: str) -> None:
        """Go one step back."""
        state = self.model.get(task)
        if state is None or len(state.trail) == 1:
            with pytest.raises(UnknownTask if state is None else UnknownVersion):
                self.store.rollback(task)
            return
        state.trail.pop()
        assert self.store.rollback(task) == state.trail[-1]
        state.move()

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 7))
    def rollback_to(self, index: int) -> None:
        """Go to any version."""
        digest = list(self.files)[index]
        task = self.files[digest][0]
        state = self.model.get(task)
        if state is None or digest not in state.stored:
            with pytest.raises(UnknownTask if state is None else UnknownVersion):
                self.store.rollback(task, to=digest)
            return
        assert self.store.rollback(task, to=digest) == digest
        while state.trail and digest in state.trail and state.trail[-1] != digest:
            state.trail.pop()
        if digest not in state.trail:
            state.trail.append(digest)
        state.move()

    @rule(index=st.integers(0, 7), share=st.sampled_from([0.0, 0.25, 1.0]))
    def stage(self, index: int, share: float) -> None:
        """Stage any version."""
        digest = list(self.files)[index]
        task = self.files[digest][0]
        state = self.model.get(task)
        if state is None:
            with pytest.raises(UnknownTask):
                self.store.stage(task, digest, share)
        elif digest not in state.stored:
            with pytest.raises(UnknownVersion):
                self.store.stage(task, digest, share)
        elif digest == state.trail[-1]:
            with pytest.raises(VersionConflict):
                self.store.stage(task, digest, share)
        else:
            assert self.store.stage(task, digest, share).share == share
            state.staged = digest

    @rule(index=st.integers(0, 7))
    def publish_staged(self, index: int) -> None:
        """Publish one of the files beside the current version of its task."""
        digest = list(self.files)[index]
        task, parent, path = self.files[digest]
        state = self.model.get(task)
        if state is None or digest == state.trail[-1]:
            with pytest.raises(VersionConflict):
                self.store.publish(path, BACKBONE, stage=0.5)
        elif parent and not any(parent in state.stored for state in self.model.values()):
            with pytest.raises(MissingAncestor):
                self.store.publish(path, BACKBONE, stage=0.5)
        else:
            assert self.store.publish(path, BACKBONE, stage=0.5).outcome == "staged"
            state.stored.add(digest)
            state.staged = digest

    @rule(task=st.sampled_from(TASKS), is_right=st.booleans())
    def promote(self, task: str, is_right: bool) -> None:
        """Make the staged version current, or another that is not staged."""
        state = self.model.get(task)
        if state is None or state.staged is None or not is_right:
            with pytest.raises(UnknownTask if state is None else VersionConflict):
                self.store.promote(task, None if is_right else "0" * 64)
            return
        assert self.store.promote(task, state.staged) == state.staged
        state.trail.append(state.staged)
        state.move()

    @rule(task=st.sampled_from(TASKS))
    def unstage(self, task: str) -> None:
        """Take the staged version back."""
        state = self.model.get(task)
        if state is None or state.staged is None:
            with pytest.raises(UnknownTask if state is None else VersionConflict):
                self.store.unstage(task)
            return
        assert self.store.unstage(task, note="it was slow") == state.staged
        assert self.store.changes(task)[-1].note == "it was slow"
        state.staged = None

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 7), name=st.sampled_from(["best", "last"]), is_off=st.booleans())
    def alias(self, index: int, name: str, is_off: bool) -> None:
        """Name any version, or take a name away."""
        digest = list(self.files)[index]
        task = self.files[digest][0]
        state = self.model.get(task)
        if state is None or (digest not in state.stored and not is_off):
            with pytest.raises(UnknownTask if state is None else UnknownVersion):
                self.store.alias(task, name, None if is_off else digest)
            return
        self.store.alias(task, name, None if is_off else digest)
        state.aliases.pop(name, None)
        if not is_off:
            state.aliases[name] = digest

    @precondition(lambda self: self.model)
    @rule(index=st.integers(0, 7))
    def remove_version(self, index: int) -> None:
        """Remove any version."""
        digest = list(self.files)[index]
        task = self.files[digest][0]
        state = self.model.get(task)
        if state is None:
            error: type[Exception] | None = UnknownTask
        elif digest not in state.stored:
            error = UnknownVersion
        elif state.trail[-1] == digest:
            error = VersionConflict
        elif self.needed_by_others(digest):
            error = HasDescendants
        else:
            has_name = digest == state.staged or digest in state.aliases.values()
            error = VersionConflict if has_name else None
        if error is not None:
            with pytest.raises(error):
                self.store.remove_version(task, digest)
            return
        assert state is not None
        self.store.remove_version(task, digest)
        state.stored.remove(digest)
        left = [step for step in state.trail if step != digest]
        state.trail = [step for step, _ in itertools.groupby(left)]

    @rule(index=st.integers(0, 7))
    def withdraw(self, index: int) -> None:
        """Take any version back."""
        digest = list(self.files)[index]
        task = self.files[digest][0]
        state = self.model.get(task)
        left = self.store.withdraw(task, digest)
        if state is None:
            assert left == "nothing"
            return
        if state.trail[-1] == digest:
            if state.stored == {digest} and not self.needed_by_others(digest):
                assert left == "nothing"
                del self.model[task]
                return
            if len(state.trail) == 1:
                assert left == "kept"
                return
            state.trail.pop()
            state.move()
        elif state.staged == digest:
            state.staged = None
        assert left == "older"
        if not self.needed_by_others(digest) and digest not in state.aliases.values():
            state.stored.discard(digest)
            state.trail = [step for step in state.trail if step != digest]
            state.trail = [step for step, _ in itertools.groupby(state.trail)]

    @rule(task=st.sampled_from(TASKS))
    def remove(self, task: str) -> None:
        """Remove a whole task."""
        state = self.model.get(task)
        if state is None:
            with pytest.raises(UnknownTask):
                self.store.remove(task)
        elif any(self.needed_by_others(digest, own_task=task) for digest in state.stored):
            with pytest.raises(HasDescendants):
                self.store.remove(task)
        else:
            self.store.remove(task)
            del self.model[task]

    @rule()
    def restart(self) -> None:
        """Open the folder anew, as another process would."""
        self.store = Store(self.folder)
        self.store.sweep()

    @invariant()
    def store_is_as_the_model(self) -> None:
        """Everything that can be read is what the model says."""
        assert self.store.pointers() == {t: state.trail[-1] for t, state in self.model.items()}
        for task, state in self.model.items():
            assert set(self.store.versions(task)) == state.stored
            assert list(self.store.trail(task)) == state.trail
            assert self.store.history(task)[-1].digest == state.trail[-1]
            for digest in state.stored:
                assert self.store.resolve(f"{task}@{digest[:16]}") == (task, digest)
            routing = self.store.routing(task)
            assert (routing.staged and routing.staged.version) == state.staged
            assert routing.aliases == state.aliases
            for name, digest in state.aliases.items():
                assert self.store.resolve(f"{task}@{name}") == (task, digest)
            found = self.store.routings().get(task, NO_ROUTING)
            assert isinstance(found, Routing)
            assert found.aliases == state.aliases


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
