"""`publish`, `rollback` and `remove` in a store folder and on a server, by flag or variable."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from factories import tiny_t5, write_random_adapter
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.store import Store
from jumplora_server.cli.main import command_line
from ports import deaf_address
from serving import ADMIN_KEY, Site, listening, make_site

pytestmark = pytest.mark.usefixtures("plain_shell")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return read_backbone(tiny_t5(tmp_path_factory.mktemp("backbone") / "tiny"))


@pytest.fixture
def store(backbone: Backbone, tmp_path: Path) -> Store:
    """Task `one` in two versions, `two` on top of its first."""
    store = Store(tmp_path / "store")
    files = tmp_path / "files"
    first, _ = (
        store.publish(write_random_adapter(files, backbone, task="one", seed=seed), backbone).digest
        for seed in (1, 2)
    )
    store.publish(
        write_random_adapter(files, backbone, task="two", seed=3, lineage=[first]), backbone
    )
    return store


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    site = make_site(tmp_path_factory.mktemp("site"))
    with listening(site) as address:
        yield site, address


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(command_line(), [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def run_json(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_rollback_to_the_version_before_and_to_a_named_one(store: Store) -> None:
    first, second = (entry.digest for entry in store.history("one"))
    answer = run_json("rollback", "one", "--store", store.root)
    assert answer == {"task_id": "one", "version": first, "previous": second}
    assert store.current("one") == first
    text = run("rollback", "one", "--to", second[:8], "--store", store.root).stdout
    assert text == f"one: {first[:12]} -> {second[:12]}\n"
    assert store.current("one") == second
    nothing_before = run("rollback", "two", "--store", store.root, code=1)
    assert "error (unknown_version)" in nothing_before.stderr


def test_remove_one_version_then_the_task(store: Store) -> None:
    first, second = (entry.digest for entry in store.history("one"))
    refused = run("remove", "one", "--store", store.root, code=1)
    assert refused.stderr.startswith("error (has_descendants): ")
    assert refused.stdout == ""
    assert "removed" in run("remove", "two", "--store", store.root).stdout
    answer = run_json("remove", "one", "--version", first[:8], "--store", store.root)
    assert answer == {"task_id": "one", "removed": [first]}
    assert store.versions("one") == (second,)
    run("remove", "one", "--store", store.root)
    assert store.tasks() == []


@pytest.mark.parametrize(
    ("options", "typed", "is_left"),
    [((), b"n\n", True), ((), b"y\n", False), (("--yes",), b"", False)],
    ids=["no", "yes", "not asked"],
)
def test_a_terminal_is_asked_before_a_task_is_removed(
    options: tuple[str, ...], typed: bytes, is_left: bool, store: Store
) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, typed)
        command = (sys.executable, "-m", "jumplora_server", "remove", "two", *options)
        done = subprocess.run(
            [*command, "--store", str(store.root)],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    version = "" if not is_left else store.current("two")[:12]
    assert (done.returncode == 1, "two" in store.tasks()) == (is_left, is_left), done.stderr
    assert f"Remove two ({version}" in done.stderr or options
    assert ("for good?" in done.stderr) == (not options)


def test_stage_promote_and_names_in_a_store(store: Store) -> None:
    first, second = (entry.digest for entry in store.history("one"))
    there = ("--store", store.root)
    text = run("stage", "one", first[:8], "--share", 0.1, "--promote-after", 60, *there).stdout
    assert text == f"one: {first[:12]} is staged with a share of 0.1\n"
    staged = store.routing("one").staged
    assert staged is not None
    assert (staged.share, staged.promote_after) == (0.1, 60)
    wrong = run("promote", "one", "--version", second, *there, code=1).stderr
    assert "error (version_conflict)" in wrong
    assert run_json("promote", "one", *there) == {"task_id": "one", "version": first}
    assert store.current("one") == first
    run("stage", "one", second, "--share", 0, *there)
    run("unstage", "one", "--note", "too slow", *there)
    assert store.changes("one")[-1].note == "too slow"
    assert "error (version_conflict)" in run("unstage", "one", *there, code=1).stderr
    assert run("alias", "one", "best", second[:8], *there).stdout == f"one@best is {second[:12]}\n"
    assert store.resolve("one@best") == ("one", second)
    assert run("alias", "one", "best", "--off", *there).stdout.startswith("one@best means nothing")
    assert "give a version, or --off" in run("alias", "one", "best", *there, code=2).output


def test_stage_promote_and_names_on_a_server(served: tuple[Site, str]) -> None:
    site, address = served
    first, second = site.publish("gamma"), site.publish("gamma")
    admin = ("--server", address, "--key", ADMIN_KEY)
    run("stage", "gamma", first[:8], "--share", 0.5, *admin)
    shown = run("status", "gamma", *admin).stdout
    assert f"staged   {first}" in shown
    assert "share    50 % of the requests" in shown
    assert run_json("promote", "gamma", *admin) == {"task_id": "gamma", "version": first}
    file = site.adapter("gamma")
    assert "gamma: staged " in run("publish", file, "--stage", 0.1, *admin).stdout
    run("unstage", "gamma", "--note", "no need", *admin)
    assert "no need" in run("status", "gamma", *admin).stdout
    run("alias", "gamma", "best", second, *admin)
    assert f"best {second[:12]}" in run("status", "gamma", *admin).stdout
    run("alias", "gamma", "best", "--off", *admin)


def test_rollback_and_remove_on_a_server(served: tuple[Site, str]) -> None:
    site, address = served
    first, second = site.publish("alpha"), site.publish("alpha")
    admin = ("--server", address, "--key", ADMIN_KEY)
    assert "error (unauthorized)" in run("rollback", "alpha", *admin[:2], code=1).stderr
    answer = run_json("rollback", "alpha", *admin)
    assert answer == {"task_id": "alpha", "version": first, "previous": second}
    assert (
        "--version needs --store"
        in run("remove", "alpha", "--version", first, *admin, code=2).output
    )
    assert set(run_json("remove", "alpha", *admin)["removed"]) == {first, second}
    assert "error (unknown_task)" in run("remove", "alpha", *admin, code=1).stderr


def test_the_place_may_come_from_the_environment(
    store: Store, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_random_adapter(tmp_path, backbone, task="three")
    monkeypatch.setenv("JUMPLORA_STORE", str(store.root))
    monkeypatch.setenv("JUMPLORA_BACKBONE", str(backbone.path))
    assert run("publish", file).stdout.startswith("three: created ")
    with deaf_address() as address:
        elsewhere = run("publish", file, "--server", address, code=1)
        assert "gave no answer" in elsewhere.stderr, "a flag wins over the environment"
        monkeypatch.setenv("JUMPLORA_SERVER", address)
        assert "gave no answer" in run("publish", file, code=1).stderr
    assert run("publish", file, "--store", store.root).stdout.startswith("three: unchanged ")
    newer = write_random_adapter(tmp_path, backbone, task="three", seed=1)
    run("publish", newer, "--store", store.root)
    back = run("publish", file, "--store", store.root).stdout
    assert back == f"three: current again {store.current('three')[:12]}\n"


def test_a_task_whose_pointer_is_damaged_is_mended(backbone: Backbone, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    paths = [write_random_adapter(tmp_path, backbone, task="one", seed=seed) for seed in (0, 1)]
    older, newer = (store.publish(path, backbone).digest for path in paths)
    pointer = store.root / "one" / "current"
    pointer.write_text("rubbish")
    done = CliRunner().invoke(command_line(), ["rollback", "one", "--store", str(store.root)])
    assert (done.exit_code, done.stdout) == (0, f"one: damaged -> {newer[:12]}\n")
    pointer.unlink()
    pointer.mkdir()
    told = CliRunner().invoke(
        command_line(), ["rollback", "one", "--to", older, "--store", str(store.root)]
    )
    assert (told.exit_code, store.current("one")) == (0, older)
    pointer.write_text("")
    assert (
        CliRunner().invoke(command_line(), ["remove", "one", "--store", str(store.root)]).exit_code
        == 0
    )
    assert store.survey() == {}


def test_load_and_pin_on_a_server(served: tuple[Site, str]) -> None:
    site, address = served
    version = site.publish("held")
    there = ("--server", address, "--key", ADMIN_KEY)
    assert run("pin", "held", *there).stdout == f"held: {version[:12]} is READY, pinned\n"
    assert site.parts.services.residency.status("held").pinned
    loaded = run_json("load", "held", *there)
    assert loaded == {"task_id": "held", "version": version, "state": "READY", "pinned": True}
    assert run_json("pin", "held", "--off", *there)["pinned"] is False
    assert not site.parts.services.residency.status("held").pinned
    keyless = run("pin", "held", "--server", address, code=1).stderr
    assert "give a key that may do this by --key (JUMPLORA_KEY" in keyless
    unknown = run("load", "hled", *there, code=1).stderr
    assert "closest: held" in unknown
    assert f"`jumplora list --server {address}` shows its tasks" in unknown


def test_a_pin_that_finds_no_room_says_so(tmp_path: Path) -> None:
    site = make_site(tmp_path, admin_keys=ADMIN_KEY, adapter_budget_bytes=2000)
    site.engine.nbytes = lambda adapter: 900
    with listening(site) as address:
        there = ("--server", address, "--key", ADMIN_KEY)
        for task in ("a", "b", "c"):
            site.publish(task)
        for task in ("a", "b"):
            told = run("pin", task, *there)
            assert "is READY, pinned" in told.stdout  # an adapter that was evicted is back
            assert told.stderr == ""
        told = run("pin", "c", *there)
        assert "is FAILED, pinned" in told.stdout
        assert "c is pinned, but it is not in memory: 1800 bytes have to stay" in told.stderr
        assert "jumplora pin c --off" in told.stderr
        found = httpx.post(
            f"{address}/v1/adapters/c/pin", headers={"authorization": f"Bearer {ADMIN_KEY}"}
        ).json()
        assert (found["state"], found["pinned"]) == ("FAILED", True)
        assert found["failure"]["code"] == "memory_budget"
        assert run("pin", "c", "--off", *there).stderr == ""


def test_both_variables_are_said_and_the_server_is_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deaf_address() as address:
        monkeypatch.setenv("JUMPLORA_SERVER", address)
        monkeypatch.setenv("JUMPLORA_STORE", str(store.root))
        told = run("rollback", "one", code=1).stderr
    assert (
        f"note: JUMPLORA_SERVER and JUMPLORA_STORE are set: this is about the server {address}"
        in told
    )
    assert "gave no answer" in told
