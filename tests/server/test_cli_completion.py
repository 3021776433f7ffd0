"""Task ids for the shell, as its completion script asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jumplora_server.cli.main import command_line
from ports import deaf_address
from serving import Site, listening, make_site
from small_http import Asked, Said, http_server

pytestmark = pytest.mark.usefixtures("plain_shell")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    site = make_site(tmp_path_factory.mktemp("site"), api_keys="a-key-for-reading")
    with listening(site) as address:
        for task in ("alpha", "alto", "beta"):
            site.publish(task)
        yield site, address


def complete(*words: str, **environment: str) -> list[str]:
    """What bash would offer for the last word."""
    result = CliRunner().invoke(
        command_line(),
        [],
        prog_name="jumplora",
        env={
            "_JUMPLORA_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["jumplora", *words]),
            "COMP_CWORD": str(len(words)),
            **environment,
        },
    )
    return result.stdout.split()


def test_commands() -> None:
    assert {"status", "serve"} <= {*complete("s")}


def test_values_of_a_setting() -> None:
    assert complete("serve", "--dtype", "") == ["float32", "bfloat16", "int8"]
    assert complete("serve", "--dtype", "i") == ["int8"]
    assert complete("serve", "--max-rows", "") == []


@pytest.mark.parametrize(
    "words",
    [
        ("generate",),
        ("status",),
        ("list",),
        ("inspect",),
        ("overlap",),
        ("rollback",),
        ("remove",),
        ("load",),
        ("pin",),
        ("calibrate",),
        ("evaluate", "--task"),
        ("batch", "rows.jsonl", "--task"),
    ],
    ids=lambda words: str(words[0]),
)
def test_tasks_of_a_server(served: tuple[Site, str], words: tuple[str, ...]) -> None:
    _, address = served
    environment = {"JUMPLORA_SERVER": address, "JUMPLORA_KEY": "a-key-for-reading"}
    assert complete(*words, "al", **environment) == ["alpha", "alto"]


@pytest.mark.parametrize("command", ["inspect", "list", "verify", "canary", "flatten"])
def test_tasks_of_a_store(served: tuple[Site, str], command: str) -> None:
    store = str(served[0].parts.services.store.root)
    assert complete(command, "b", JUMPLORA_STORE=store) == ["beta"]
    assert complete(command, "--store", store, "al") == ["alpha", "alto"]


def test_a_key_goes_to_its_own_server_only(served: tuple[Site, str]) -> None:
    _, address = served
    key = "a-key-for-reading"
    keyless = {"JUMPLORA_SERVER": "http://127.0.0.1:1", "JUMPLORA_KEY": key}
    assert complete("status", "--server", address, "al", **keyless) == []
    assert complete("status", "--server", address, "--key", key, "al") == ["alpha", "alto"]


def test_no_redirect_is_followed() -> None:
    asked: list[Asked] = []

    def answer(request: Asked) -> Said:
        asked.append(request)
        return Said.of({}, 302, location=f"{url}/elsewhere")

    with http_server(answer) as url:
        found = complete("status", "", JUMPLORA_SERVER=url, JUMPLORA_KEY="a-key")
    assert found == []
    assert [(each.path, each.headers["authorization"]) for each in asked] == [
        ("/v1/adapters", "Bearer a-key")
    ]


def test_nothing_is_said_where_there_is_nothing(tmp_path: Path, served: tuple[Site, str]) -> None:
    with deaf_address() as address:
        assert complete("status", "", JUMPLORA_SERVER=address) == []
    assert complete("status", "", JUMPLORA_SERVER="no address") == []
    assert complete("status", "", JUMPLORA_SERVER=served[1]) == []  # without its key
    assert complete("list", "", JUMPLORA_STORE=str(tmp_path / "none")) == []
