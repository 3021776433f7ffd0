"""What stands in a task's routing.json, and what may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import toy_backbone, write_random_adapter
from jumplora_adapters.errors import AliasInvalid, StoreError, UnknownVersion, VersionConflict
from jumplora_adapters.routing import (
    MAX_ALIASES,
    MAX_ROUTING_BYTES,
    NO_ROUTING,
    ROUTING,
    Routing,
    Staged,
    is_alias,
    read_routing,
    routing_text,
)
from jumplora_adapters.store import Store

A, B = "a" * 64, "b" * 64
BACKBONE = toy_backbone()
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,31}", fullmatch=True).filter(is_alias)


@given(
    staged=st.none() | st.builds(Staged, digests, st.floats(0, 1), st.text(max_size=40)),
    aliases=st.dictionaries(names, digests, max_size=5),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, staged: Staged | None, aliases: dict[str, str]
) -> None:
    routing = Routing(staged)
    for name, version in aliases.items():
        routing = routing.naming(name, version)
    folder = tmp_path_factory.mktemp("task")
    (folder / ROUTING).write_bytes(routing_text(routing))
    assert read_routing(folder) == routing
    assert bool(routing) == bool(staged or aliases)


def test_no_file_is_no_routing(tmp_path: Path) -> None:
    assert read_routing(tmp_path) == NO_ROUTING
    assert not NO_ROUTING


GOOD = {"at": "2026-01-01T00:00:00.000+00:00", "share": 0.1, "version": A}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"staged": null, "staged": null}',
        '{"more": 1}',
        '{"aliases": []}',
        '{"aliases": {"best": "abc"}}',
        json.dumps({"aliases": {"staged": A}}),
        json.dumps({"aliases": {"deadbeef": A}}),
        json.dumps({"aliases": {f"n{i}": A for i in range(MAX_ALIASES + 1)}}),
        json.dumps({"staged": GOOD | {"share": 1.5}}),
        json.dumps({"staged": GOOD | {"share": -0.1}}),
        json.dumps({"staged": GOOD | {"share": True}}),
        json.dumps({"staged": GOOD | {"share": "0.1"}}),
        '{"staged": {"at": "now", "share": NaN, "version": "' + A + '"}}',
        json.dumps({"staged": GOOD | {"version": A[:12]}}),
        json.dumps({"staged": GOOD | {"at": 5}}),
        json.dumps({"staged": GOOD | {"note": "x"}}),
        json.dumps({"staged": A}),
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        "{}" + " " * MAX_ROUTING_BYTES,
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_named_and_counts_as_none(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path / "store")
    current = store.publish(write_random_adapter(tmp_path, BACKBONE, task="a"), BACKBONE).digest
    path = store.root / "a" / ROUTING
    path.write_text(content)
    with pytest.raises(StoreError, match=r"routing\.json"):
        store.routing("a")
    assert isinstance(store.routings()["a"], StoreError)
    assert store.current("a") == current
    assert store.survey() == {"a": current}
    other = store.publish(
        write_random_adapter(tmp_path, BACKBONE, task="a", seed=1), BACKBONE, stage=0.5
    ).digest
    routing = store.routing("a")  # a change replaces it
    assert routing.staged is not None
    assert routing.staged.version == other


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("task")
    (folder / ROUTING).write_bytes(content)
    try:
        routing: Any = read_routing(folder)
    except StoreError as error:
        routing = error
    assert isinstance(routing, Routing | StoreError)


def test_a_link_a_pipe_and_a_folder_are_not_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for number, task in enumerate("abc"):
        file = write_random_adapter(tmp_path, BACKBONE, task=task, seed=number)
        store.publish(file, BACKBONE)
    (tmp_path / "target").write_bytes(routing_text(NO_ROUTING))
    (store.root / "a" / ROUTING).symlink_to(tmp_path / "target")
    (store.root / "b" / ROUTING).mkdir()
    found = store.routings()
    assert set(found) == {"a", "b"}
    for task in "ab":
        assert isinstance(found[task], StoreError)
        with pytest.raises(StoreError):
            store.routing(task)
        store.alias(task, "best", store.current(task))
        assert store.routing(task).names_of(store.current(task)) == ("best",)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    store, reader = Store(tmp_path / "store"), Store(tmp_path / "store")
    versions = [
        store.publish(write_random_adapter(tmp_path, BACKBONE, task="a", seed=n), BACKBONE).digest
        for n in range(2)
    ]
    assert reader.routings() == {}
    for share in (0.1, 0.2, 0.3):
        store.stage("a", versions[0], share)
        found = reader.routings()["a"]
        assert isinstance(found, Routing)
        assert found == store.routing("a") == reader.routing("a")
        assert found.staged is not None
        assert found.staged.share == share
    store.promote("a")
    assert reader.routing("a") == NO_ROUTING


def test_a_staged_version_that_is_current_counts_as_none(tmp_path: Path) -> None:
    """As a crash within a promotion leaves it, or a publish of the staged file."""
    store = Store(tmp_path / "store")
    current = store.publish(write_random_adapter(tmp_path, BACKBONE, task="a"), BACKBONE).digest
    path = store.root / "a" / ROUTING
    path.write_bytes(routing_text(Routing(Staged(current, 0.5, "now")).naming("best", current)))
    assert store.routing("a") == NO_ROUTING.naming("best", current)
    with pytest.raises(VersionConflict, match="no staged version"):
        store.promote("a")
    with pytest.raises(VersionConflict, match="no staged version"):
        store.unstage("a")


def test_staging_again_with_the_same_share_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first, _ = (
        store.publish(write_random_adapter(tmp_path, BACKBONE, task="a", seed=n), BACKBONE).digest
        for n in range(2)
    )
    staged = store.stage("a", first, 0.25)
    log = store.changes("a")
    assert store.stage("a", first, 0.25) == staged
    assert store.changes("a") == log
    assert (log[-1].event, log[-1].note) == ("stage", "share 0.25")


@pytest.mark.parametrize("way", ["rollback", "publish", "repoint"])
def test_what_was_promoted_is_not_staged_again_once_another_is_current(
    tmp_path: Path, way: str
) -> None:
    """The promotion ended between the pointer and the routing."""
    store = Store(tmp_path / "store")
    files = [write_random_adapter(tmp_path, BACKBONE, task="a", seed=n) for n in range(3)]
    store.publish(files[0], BACKBONE)
    staged = store.publish(files[1], BACKBONE, stage=0.5).digest
    half = (store.root / "a" / ROUTING).read_bytes()
    store.promote("a")
    (store.root / "a" / ROUTING).write_bytes(half)
    assert store.routing("a").staged is None
    if way == "rollback":
        store.rollback("a")
    else:
        store.publish(files[2 if way == "publish" else 0], BACKBONE)
    assert store.current("a") != staged
    assert store.routing("a").staged is None


def test_a_staged_version_whose_file_is_gone_can_only_be_taken_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first, second = (
        store.publish(write_random_adapter(tmp_path, BACKBONE, task="a", seed=n), BACKBONE).digest
        for n in range(2)
    )
    store.stage("a", first, 0.5)
    store.path_of(first).unlink()
    with pytest.raises(UnknownVersion, match="has no version"):
        store.promote("a")
    assert store.current("a") == second
    assert store.unstage("a", first) == first
    assert store.routing("a").staged is None


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), True])
def test_a_share_is_from_0_to_1(tmp_path: Path, share: float) -> None:
    store = Store(tmp_path / "store")
    file = write_random_adapter(tmp_path, BACKBONE, task="a")
    store.publish(file, BACKBONE)
    for change in (
        lambda: store.stage("a", A, share),
        lambda: store.publish(file, BACKBONE, stage=share),
    ):
        with pytest.raises(ValueError, match="from 0 to 1"):
            change()


@pytest.mark.parametrize(
    "name", ["", "staged", "current", "deadbeef", "0best", "a" * 33, "a b", "a/b", "é", "a\n"]
)
def test_a_name_that_is_not_allowed(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    store.publish(write_random_adapter(tmp_path, BACKBONE, task="a"), BACKBONE)
    with pytest.raises(AliasInvalid, match="is not allowed"):
        store.alias("a", name, store.current("a"))


def test_a_staged_version_whose_file_is_gone_is_meant_by_its_whole_digest(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first, _ = (
        store.publish(write_random_adapter(tmp_path, BACKBONE, task="a", seed=n), BACKBONE).digest
        for n in range(2)
    )
    store.stage("a", first, 0.5)
    assert store.meant("a", first[:8]) == store.meant("a", "staged") == first
    store.path_of(first).unlink()
    with pytest.raises(UnknownVersion):
        store.meant("a", first[:8])
    assert store.unstage("a", store.meant("a", first)) == first
    assert store.meant("a", None) is None


def test_names_are_resolved_and_unknown_ones_explained(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first, second = (
        store.publish(write_random_adapter(tmp_path, BACKBONE, task="a", seed=n), BACKBONE).digest
        for n in range(2)
    )
    with pytest.raises(UnknownVersion, match="has no staged version"):
        store.resolve("a@staged")
    with pytest.raises(UnknownVersion, match="is called 'best'; it has no alias"):
        store.resolve("a@best")
    store.alias("a", "champion", first)
    store.stage("a", first, 0)
    assert store.resolve("a@current") == store.resolve("a") == ("a", second)
    assert store.resolve("a@staged") == store.resolve("a@champion") == ("a", first)
    with pytest.raises(UnknownVersion, match="its aliases are champion"):
        store.resolve("a@best")
