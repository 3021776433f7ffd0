"""The OpenAPI document, and the page that shows it."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from fastapi import FastAPI

from jumplora_server.access.caller import ADMIN_SCOPES, API_SCOPES, Scope
from jumplora_server.access.keys import hash_of
from jumplora_server.access.keys_file import entry_text
from jumplora_server.api import docs
from jumplora_server.api.docs import SCHEME, SCHEMES, SWAGGER_UI, TAGS
from jumplora_server.settings import Settings
from serving import ADMIN_KEY, connected, make_site

API_KEY = "api-key-of-tests"


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    content: dict[str, Any]


def operations(document: dict[str, Any]) -> list[Operation]:
    return [
        Operation(method.upper(), path, content)
        for path, methods in document["paths"].items()
        for method, content in methods.items()
    ]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with connected(make_site(tmp_path_factory.mktemp("site"), api_keys=API_KEY)) as http:
        yield http


def document_of(http: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = http.get("/openapi.json").json()
    return document


def test_operation_ids_are_readable_and_unique(http: httpx.Client) -> None:
    """Generators of clients name functions by them."""
    ids = [operation.content["operationId"] for operation in operations(document_of(http))]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    # The framework's own end in the path and the method: generate_generate_post.
    assert [n for n in ids if not re.fullmatch(r"[a-z]+(_[a-z]+){0,3}", n)] == []
    assert [n for n in ids if n.endswith(("_get", "_post", "_put", "_delete"))] == []
    assert {"generate", "publish_adapter", "list_adapters", "roll_back_adapter", "readyz"} <= {*ids}


def test_others_are_answered_while_the_document_is_made(tmp_path: Path) -> None:
    """And it is made once, however many ask at that time."""
    is_making, may_go_on, made = threading.Event(), threading.Event(), list[FastAPI]()

    def slow(app: FastAPI, settings: Settings) -> dict[str, Any]:
        made.append(app)
        is_making.set()
        assert may_go_on.wait(20)
        return {"of": settings.backbone}

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as threads:
        patch.setattr(docs, "document_of", slow)
        with connected(make_site(tmp_path)) as http:
            asked = [threads.submit(http.get, "/openapi.json") for _ in range(2)]
            try:
                assert is_making.wait(20)
                assert http.get("/livez").status_code == 200
            finally:
                may_go_on.set()
            assert [each.result().json() for each in asked] == [{"of": "toy"}] * 2
    assert len(made) == 1


def test_what_generates_says_that_it_reads_the_version(http: httpx.Client) -> None:
    read: list[set[str]] = []
    for operation in operations(document_of(http)):
        declared = operation.content.get("parameters", [])
        read.append({each["name"] for each in declared if each["in"] == "header"})
    generating = [names for names in read if "x-task-id" in names]
    assert len(generating) >= 9
    assert all("x-adapter-version" in names for names in generating)


def test_each_tag_has_a_description_and_a_place(http: httpx.Client) -> None:
    document = document_of(http)
    assert [tag["name"] for tag in document["tags"]] == list(TAGS)
    used = [operation.content["tags"] for operation in operations(document)]
    assert {tuple(tags) for tags in used} == {(name,) for name in TAGS}


def opens(operation: Operation, scopes: frozenset[Scope]) -> bool:
    """Whether the document says that a key with these scopes opens the operation."""
    declared = operation.content["security"]
    return not declared or any({*each[SCHEME]} <= scopes for each in declared)


ALL: tuple[Scope, ...] = get_args(Scope)


def keys_file(folder: Path) -> Path:
    """A key for each single scope, which is called as the scope is."""
    file = folder / "keys.toml"
    entries = (entry_text(scope, [hash_of(f"key-{scope}")], [scope]) for scope in ALL)
    file.write_text("\n".join(entries))
    return file


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({}, [None, "api", "admin"]),
        ({"api_keys": API_KEY}, [None, "api", "admin"]),
        ({"api_keys": API_KEY, "open_models": "yes"}, [None, "api", "admin"]),
        ({"api_keys": API_KEY, "open_metrics": "yes"}, [None, "api", "admin"]),
        ({"api_keys": API_KEY, "admin_keys": ""}, [None, "api"]),
        ({"keys_file": True, "admin_keys": ""}, [None, *ALL]),
        ({"keys_file": True, "open_models": "yes"}, [None, "infer"]),
    ],
    ids=str,
)
def test_the_declared_security_is_what_the_server_asks_for(
    settings: dict[str, Any], keys: list[str | None], tmp_path: Path
) -> None:
    """Of keys of the environment, and of keys with one scope each."""
    held: dict[str | None, tuple[str, frozenset[Scope]]] = {
        None: ("", frozenset()),
        **{scope: (f"key-{scope}", frozenset([scope])) for scope in ALL},
    }
    if "keys_file" in settings:
        settings = {**settings, "keys_file": keys_file(tmp_path)}
    else:
        is_known = "api_keys" in settings
        held["api"] = (API_KEY, API_SCOPES if is_known else frozenset())
        held["admin"] = (ADMIN_KEY, ADMIN_SCOPES)
    with connected(make_site(tmp_path, **settings)) as http:
        document = document_of(http)
        assert document["components"]["securitySchemes"] == SCHEMES
        for operation in operations(document):
            path = re.sub(r"\{\w+\}", "nothing", operation.path)
            for name in keys:
                key, scopes = held[name]
                headers = {"authorization": f"Bearer {key}"} if key else {}
                status = http.request(operation.method, path, headers=headers).status_code
                is_open = status not in (401, 403)
                assert is_open == opens(operation, scopes), (operation, name)


def test_which_scopes_open_what(http: httpx.Client) -> None:
    """Written out for some, where the test above compares two things that the server says."""
    declared = {
        (operation.method, operation.path): [each[SCHEME] for each in operation.content["security"]]
        for operation in operations(document_of(http))
    }
    assert declared["POST", "/generate"] == [["infer"]]
    assert declared["GET", "/metrics"] == [["metrics"], ["admin"]]
    assert declared["GET", "/v1/models"] == [["infer"], ["read"], ["admin"]]
    assert declared["GET", "/v1/adapters"] == [["read"], ["admin"]]
    assert declared["PUT", "/v1/adapters/{task_id}"] == [["admin"]]
    assert declared["POST", "/v1/load_lora_adapter"] == [["admin"]]
    assert declared["GET", "/readyz"] == []


def test_the_page_and_all_it_loads_come_from_here_without_a_key(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {f"/docs/{name}" for name in SWAGGER_UI} <= set(named)
    for address in named:
        answer = http.get(address)
        assert address.startswith(("/docs/", "/openapi.json"))
        assert (answer.status_code, answer.content != b"") == (200, True)
    assert "<script>" not in page.text  # what the policy would refuse


@pytest.mark.parametrize("path", ["/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js"])
def test_files_are_sent_once_and_may_do_little(http: httpx.Client, path: str) -> None:
    first = http.get(path)
    assert first.headers["x-content-type-options"] == "nosniff"
    policy = first.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; " in policy
    assert not re.search(r"https?:|\*|unsafe-eval|script-src [^;]*unsafe", policy)
    again = http.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "swagger-ui.js", "..%2fapp.py"])
def test_other_files_are_not_served(http: httpx.Client, name: str) -> None:
    assert http.get(f"/docs/{name}").status_code in (401, 404)
    admin = {"authorization": f"Bearer {ADMIN_KEY}"}
    assert http.get(f"/docs/{name}", headers=admin).status_code == 404
