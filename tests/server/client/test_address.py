"""Which server and which key a client takes, and that a wrong one is said without the key."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

import jumplora_server.client
from jumplora_server.client import AsyncClient, Client, RequestFailed
from jumplora_server.client.address import Address


@pytest.mark.parametrize(
    ("url", "key", "environment", "expected"),
    [
        (None, None, {}, ("http://127.0.0.1:8000", None)),
        (None, None, {"JUMPLORA_SERVER": "", "JUMPLORA_KEY": ""}, ("http://127.0.0.1:8000", None)),
        (None, None, {"JUMPLORA_SERVER": "https://a/", "JUMPLORA_KEY": "k"}, ("https://a", "k")),
        (None, "own", {"JUMPLORA_KEY": "k"}, ("http://127.0.0.1:8000", "own")),
        ("http://b:1/sub/", None, {"JUMPLORA_SERVER": "http://a", "JUMPLORA_KEY": "k"},
         ("http://b:1/sub", None)),
        ("http://a/", None, {"JUMPLORA_SERVER": "http://a", "JUMPLORA_KEY": "k"},
         ("http://a", "k")),
        ("http://127.0.0.1:8000", None, {"JUMPLORA_KEY": "k"}, ("http://127.0.0.1:8000", "k")),
        ("http://127.0.0.1:8000", None, {"JUMPLORA_SERVER": "http://a", "JUMPLORA_KEY": "k"},
         ("http://127.0.0.1:8000", None)),
        ("http://[::1]:80", "x", {}, ("http://[::1]:80", "x")),
    ],
)  # fmt: skip
def test_address(
    url: str | None, key: str | None, environment: dict[str, str], expected: tuple[str, str | None]
) -> None:
    found = Address.of(url, key, environment)
    assert (found.url, found.key) == expected
    assert found.headers == ({} if found.key is None else {"authorization": f"Bearer {found.key}"})


def test_a_client_without_arguments_takes_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUMPLORA_SERVER", "http://elsewhere:1")
    with Client() as client:
        assert repr(client) == "Client('http://elsewhere:1')"
    assert repr(AsyncClient()) == "AsyncClient('http://elsewhere:1')"


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://a", "http://", "http://[", "http://a:x", "http://a?b=1",
            "http://a:70000", "http://a:0"],
)  # fmt: skip
def test_what_is_not_an_address(url: str) -> None:
    with pytest.raises(RequestFailed, match="such as http://127") as caught:
        Client(url)
    assert (caught.value.code, caught.value.status) == ("address", 0)


@pytest.mark.parametrize(
    "url",
    ["http://me:secret@a", "http://secret@a:1", "me:secret@a:80", "http://me:secret@a:x",
     "http://me:secret@[", "http://me:secret@@a", "http://me:se/secret@a", "http://me:secret@a?b=1",
     "ftp://me:s?secret@a"],
)  # fmt: skip
def test_a_password_in_an_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(RequestFailed, match="key=") as caught:
        Client(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["secret\n", "se cret", "sécret", "secret\x00", " secret"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(RequestFailed, match=r"strip\(\)") as caught:
        AsyncClient(key=key)
    assert caught.value.code == "key"
    assert "cret" not in str(caught.value)


HEAVY = ("torch", "numpy", "fastapi", "starlette", "uvicorn", "tokenizers", "safetensors")


def test_a_program_that_only_asks_loads_nothing_heavy() -> None:
    code = (
        "import sys, jumplora_server.client as client\n"
        "client.Client('http://a').close()\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == ""


def test_both_clients_take_the_same_arguments() -> None:
    def parameters(client: type[Any], name: str) -> list[tuple[Any, ...]]:
        found = inspect.signature(getattr(client, name)).parameters.values()
        return [(each.name, each.kind, each.default) for each in found if each.name != "sleep"]

    public = [name for name in vars(Client) if not name.startswith("_")]
    for name in ["__init__", *public]:
        assert parameters(Client, name) == parameters(AsyncClient, name), name


def test_all_that_is_public_is_there() -> None:
    for name in jumplora_server.client.__all__:
        assert getattr(jumplora_server.client, name).__doc__
    for client in (Client, AsyncClient):
        public = [name for name in vars(client) if not name.startswith("_")]
        assert all(getattr(client, name).__doc__ for name in public)
        assert public == [name for name in vars(Client) if not name.startswith("_")]
