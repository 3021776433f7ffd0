"""`list`, `inspect`, `overlap` and `status`: of a server, or of a store, by flag or variable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fakes import LIMITS
from jumplora_adapters.manifest import Canary, PromptSpec
from jumplora_server.cli.main import command_line
from jumplora_server.client import Client
from ports import deaf_address
from serving import ADMIN_KEY, Site, listening, make_site, wait_for

CANARIES = (Canary(prompt="one", expected="right"), Canary(prompt="two", expected="wrong"))


pytestmark = pytest.mark.usefixtures("plain_shell")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    """Task alpha in two versions, beta, gamma whose canaries are half right."""
    site = make_site(tmp_path_factory.mktemp("site"))
    site.engine.say = lambda prompt, versions: "right"
    with listening(site) as address:
        site.publish("alpha")
        site.publish("alpha", prompt=PromptSpec(template="{text}", options=("yes", "no")))
        site.publish("beta")
        site.publish("gamma", canaries=CANARIES)
        with Client(address) as client:
            wait_for(lambda: all_are_compared(client))
        yield site, address


def all_are_compared(client: Client) -> bool:
    found = client.overview().overlap
    if found is None or len(found.tasks) < 3:
        return False
    return sum(each is None for row in found.jaccard for each in row) == 3  # the diagonal


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(command_line(), [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def run_json(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_list_shows_the_tasks_of_a_server(served: tuple[Site, str]) -> None:
    site, address = served
    version = site.parts.services.residency.status("alpha").version
    found = run_json("list", "--server", address)
    assert found["server"] == address
    assert [each["task_id"] for each in found["adapters"]] == ["alpha", "beta", "gamma"]
    assert found["adapters"][0]["version"] == version
    text = run("list", "--server", address).stdout
    assert f"alpha  {str(version)[:12]}  READY" in text


def test_list_shows_a_tasks_versions_as_the_store_does(served: tuple[Site, str]) -> None:
    site, address = served
    there = run_json("list", "alpha", "--server", address)["history"]
    here = run_json("list", "alpha", "--store", site.parts.services.store.root)["history"]
    assert [each["version"] for each in there] == [each["version"] for each in here]
    assert [each["state"] for each in there] == ["stored", "current, answers"]
    assert [each["event"] for each in there] == ["publish", "publish"]
    text = run("list", "alpha", "--server", address).stdout
    lines = [line for line in text.splitlines() if " publish " in line]
    assert [line.endswith("current, answers") for line in lines] == [True, False]


def test_an_unknown_version_is_looked_up_in_the_tasks_versions(served: tuple[Site, str]) -> None:
    _, address = served
    said = run("generate", "alpha@nosuch", "x", "--server", address, code=1).stderr
    assert f"`jumplora list TASK --server {address}` shows a task's versions" in said


def test_list_says_which_version_is_staged(served: tuple[Site, str]) -> None:
    site, address = served
    store = site.parts.services.store
    version = store.history("alpha")[0].digest
    store.stage("alpha", version, 0.25)
    wait_for(lambda: site.parts.services.residency.status("alpha").staged is not None)
    for where in (("--server", address), ("--store", store.root)):
        last = run_json("list", "alpha", *where)["history"][-1]
        assert (last["event"], last["version"], last["state"]) == ("stage", version, "staged")
    store.unstage("alpha")
    assert run_json("list", "alpha", "--store", store.root)["history"][-1]["state"] == "stored"


def test_inspect_is_the_same_of_a_server_and_of_its_store(served: tuple[Site, str]) -> None:
    site, address = served
    there = run_json("inspect", "alpha", "--server", address)
    here = run_json("inspect", "alpha", "--store", site.parts.services.store.root)
    del here["path"]
    assert there.pop("server") == address
    assert there == here
    version = there["version"]
    text = run("inspect", f"alpha@{version[:8]}", "--server", address, "--modules").stdout
    assert version in text
    assert any(line.split()[:2] == ["server", address] for line in text.splitlines())


def test_a_server_describes_the_version_that_answers(served: tuple[Site, str]) -> None:
    site, address = served
    older = run_json("list", "alpha", "--server", address)["history"][0]["version"]
    told = run("inspect", f"alpha@{older[:8]}", "--server", address, code=1).stderr
    assert f"for {older[:8]} give --store FOLDER" in told
    unknown = run("inspect", "alhpa", "--server", address, code=1).stderr
    assert "closest: alpha" in unknown
    assert "`jumplora list --server" in unknown
    file = site.adapter("delta")
    assert run_json("inspect", file, "--server", address)["task_id"] == "delta"


def test_overlap_is_what_the_server_compared(served: tuple[Site, str], tmp_path: Path) -> None:
    _, address = served
    with Client(address) as client:
        expected = client.overview().overlap
    assert expected is not None
    found = run_json("overlap", "--server", address)
    assert (found["server"], found["scope"]) == (address, "own")
    pairs = {(pair["first"], pair["second"]): pair for pair in found["pairs"]}
    assert len(pairs) == 3
    for (first, second), pair in pairs.items():
        row, column = expected.tasks.index(first), expected.tasks.index(second)
        assert pair["jaccard"] == expected.jaccard[row][column]
        assert pair["times_chance"] == pytest.approx(pair["jaccard"] / pair["chance"])
    plot = tmp_path / "plot.png"
    run("overlap", "--server", address, "--plot", plot)
    assert plot.read_bytes().startswith(b"\x89PNG")
    two = run("overlap", "alpha", "beta", "--server", address).stdout
    assert "alpha" in two
    assert "gamma" not in two


def test_overlap_says_what_a_server_does_not_compare(served: tuple[Site, str]) -> None:
    _, address = served
    for words in (("--modules",), ("--scope", "lineage"), ("alpha@12345678", "beta")):
        told = run("overlap", *words, "--server", address, code=2).stderr
        assert "need --store FOLDER and --backbone" in " ".join(told.replace("│", "").split())
    missing = run("overlap", "alpha", "delta", "--server", address, code=1).stderr
    assert f"{address} has not compared delta, but alpha, beta, gamma" in missing
    told = run("overlap", "--store", "x", code=2).stderr
    assert "give --backbone (or set JUMPLORA_BACKBONE)" in told


def test_a_server_that_compares_nothing(tmp_path: Path) -> None:
    site = make_site(tmp_path, max_overlap_tasks=0)
    with listening(site) as address:
        told = run("overlap", "--server", address, code=1).stderr
    assert "JUMPLORA_MAX_OVERLAP_TASKS" in told


def test_a_flag_wins_and_two_variables_are_said(
    served: tuple[Site, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, address = served
    store = site.parts.services.store.root
    monkeypatch.setenv("JUMPLORA_STORE", str(store))
    assert run_json("list")["store"] == str(store)
    monkeypatch.setenv("JUMPLORA_SERVER", address)
    both = run("list", "--json")
    assert json.loads(both.stdout)["server"] == address
    assert f"this is about the server {address}; for the folder give --store" in both.stderr
    by_flag = run("list", "--store", store, "--json")
    assert json.loads(by_flag.stdout)["store"] == str(store)
    assert by_flag.stderr == ""
    monkeypatch.delenv("JUMPLORA_SERVER")
    monkeypatch.delenv("JUMPLORA_STORE")
    assert "give --server URL or --store FOLDER" in run("list", code=1).stderr


def test_status_is_the_server_on_one_screen(served: tuple[Site, str]) -> None:
    _, address = served
    with Client(address) as client:
        client.generate("alpha", "a")
    found = run_json("status", "--server", address)
    assert found["server"]["ready"] is True
    assert [each["task_id"] for each in found["tasks"]] == ["alpha", "beta", "gamma"]
    text = run("status", "--server", address).stdout
    strip = {line.split()[0]: line for line in text.splitlines()[:8]}
    assert f"{address}, version" in strip["server"]
    assert "toy, float32 on cpu" in strip["backbone"]
    assert strip["ready"].split() == ["ready", "yes"]
    assert f"0 of {LIMITS.max_rows} in use, 0 prompts wait" in strip["rows"]
    assert "an admin key" in strip["changes"]
    line = next(line for line in text.splitlines() if line.strip().startswith("gamma"))
    assert "50 %" in line
    admin = run("status", "--server", address, "--key", ADMIN_KEY).stdout
    assert "this key may change adapters" in admin
    assert ": infer, read, metrics, admin" in admin
    assert "none given" in strip["key"]
    wrong = run("status", "--server", address, "--key", "sk-nothing").stdout
    assert "not known to this server" in wrong


def test_status_shows_some_of_many_tasks(served: tuple[Site, str]) -> None:
    _, address = served
    some = run("status", "--server", address, "--lines", 1)
    assert "note: 2 more tasks: --search TEXT or --lines N shows them" in some.stderr
    found = run("status", "--server", address, "--search", "et")
    assert "1 of 3 have this in their id" in found.stdout
    assert "gamma" not in found.stdout


def test_status_says_why_a_task_is_degraded(tmp_path: Path) -> None:
    site = make_site(tmp_path, canary_floor=1.0)
    site.engine.say = lambda prompt, versions: "right"
    with listening(site) as address:
        good = site.publish("alpha")
        services = site.parts.services
        file = site.adapter("alpha", canaries=CANARIES)
        services.store.publish(file, site.backbone)
        wait_for(lambda: services.residency.status("alpha").failure is not None)
        told = run("status", "--server", address)
        assert "note: alpha: " in told.stderr
        assert "canaries" in told.stderr
        one = run("status", "alpha", "--server", address).stdout
    facts = {line[:15].strip(): line[15:].strip() for line in one.splitlines()}
    assert facts["fault"].startswith("canary: ")
    assert facts["answers"] == good
    assert "published last" in one


def test_status_of_a_task(served: tuple[Site, str]) -> None:
    site, address = served
    text = run("status", "gamma", "--server", address).stdout
    assert "gamma on http" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["one", "right", "right", "right"] in rows
    assert ["two", "wrong", "right", "wrong"] in rows
    alpha = run("status", "alpha", "--server", address).stdout
    assert "options  yes | no" in alpha
    events = [line for line in alpha.splitlines() if " publish " in line]
    assert [line.endswith("answers") for line in events] == [True, False]  # newest first
    detail = run_json("status", "alpha", "--server", address)
    assert detail["version"] == site.parts.services.residency.status("alpha").version


def test_status_of_a_staged_version(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.engine.say = lambda prompt, versions: "right"
    with listening(site) as address:
        site.publish("alpha")
        current = site.publish("alpha", canaries=CANARIES)
        site.publish("beta")
        assert "staged" not in run("status", "--server", address).stdout
        with Client(address, key=ADMIN_KEY) as client:
            staged, _ = client.adapter("alpha").history
            client.stage("alpha", staged, 0.125, 5400)
            client.alias("alpha", "night", staged)
            for _ in range(8):  # one of which is drawn for the staged version
                client.generate("alpha", "a")
            wait_for(lambda: figures_of(client) == (1, 0, 7))
        told = run("status", "--server", address).stdout.splitlines()
        head = next(line for line in told if line.split()[:1] == ["task"])
        lines = {
            line.split()[0]: line for line in told if line.split()[:1] in (["alpha"], ["beta"])
        }
        end = head.index("staged") + len("staged")
        assert lines["alpha"][:end].endswith("12.5 %")
        assert lines["beta"][end - 6 : end].strip() == ""
        one = run("status", "alpha", "--server", address).stdout.splitlines()
    facts: dict[str, str] = {}
    for name, *rest in (line.split(maxsplit=1) for line in one if line):
        facts.setdefault(name, "".join(rest))
    assert facts["staged"] == staged
    assert facts["share"].startswith("12.5 % of the requests, staged 20")
    assert (
        "; promoted by itself 90 min after that; too few have ended to judge it" in facts["share"]
    )
    assert facts["aliases"] == f"night {staged[:12]}"
    rows = [line.split() for line in one]
    (of_staged,) = [row for row in rows if row[:2] == ["staged", staged[:12]]]
    assert of_staged[2:4] == ["1", "0"]
    assert of_staged[-1] == "ms"
    (of_current,) = [row for row in rows if row[:2] == ["current", current[:12]]]
    assert of_current[2:4] == ["7", "0"]
    assert of_current[-2:] == ["50", "%"]


def figures_of(client: Client) -> tuple[int, int, int]:
    """(requests, failed) of the staged version of alpha, and requests of the current one."""
    found = client.adapter("alpha").comparison
    assert found is not None
    return found.staged.requests, found.staged.failed, found.current.requests


def test_status_without_a_server_names_the_command_that_starts_one() -> None:
    with deaf_address() as address:
        told = run("status", "--server", address, code=1).stderr
    assert "start a server with `jumplora serve`" in told


def test_a_task_or_store_that_is_missing_is_told_with_the_command_that_helps(
    served: tuple[Site, str], tmp_path: Path
) -> None:
    store = served[0].parts.services.store.root
    unknown = run("inspect", "alhpa", "--store", store, code=1).stderr
    assert "closest: alpha; `jumplora list` shows the tasks" in unknown
    version = run("inspect", "alpha@00000000", "--store", store, code=1).stderr
    assert "`jumplora list TASK` shows the versions" in version
    missing = run("list", "--store", tmp_path / "none", code=1).stderr
    assert (
        "give another by --store (or JUMPLORA_STORE), or make one with `jumplora publish`"
        in missing
    )
    backbone = run("verify", "--store", store, "--backbone", "no/such/t5", code=1).stderr
    assert "--backbone (or JUMPLORA_BACKBONE) is to name a T5" in backbone


def test_a_key_that_may_not_read_is_said(tmp_path: Path) -> None:
    site = make_site(tmp_path, api_keys="a-key-for-reading")
    with listening(site) as address:
        told = run("list", "--server", address, code=1).stderr
        assert "by --key (JUMPLORA_KEY is sent only to JUMPLORA_SERVER)" in told
        assert run_json("list", "--server", address, "--key", "a-key-for-reading")["adapters"] == []
