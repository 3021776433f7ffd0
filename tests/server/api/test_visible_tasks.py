"""To a caller of some tasks the others are not there, on any route.

No key has tasks yet, so a middleware behind the check of keys gives them to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from adapter_requests import ADMIN
from jumplora_server.access.caller import TaskPatterns
from jumplora_server.access.needs import needed_access
from jumplora_server.api.ask import record_of
from serving import connected, make_site

TASKS = "x-tasks-of-this-key"
MINE = {TASKS: "mine mine-too ming"}  # of which the last one is not published
HIDDEN, UNKNOWN = "mint", "ming"  # each as close to "mine" as the other
VERSION = "0" * 64
MESSAGES = [{"role": "user", "content": "x"}]
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x"]}


class OfSomeTasks:
    """Callers have the tasks that a header names; all tasks without it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tasks = Headers(scope=scope).get(TASKS) if scope["type"] == "http" else None
        if tasks is not None:
            record = record_of(scope)
            record.caller = replace(record.caller, tasks=TaskPatterns.of(tasks.split()))
        await self._app(scope, receive, send)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("loaded")
    for name in (HIDDEN, UNKNOWN, "mind", "other"):
        (folder / name).write_bytes(b"x" * 1000)
    site = make_site(tmp_path_factory.mktemp("site"), load_folder=folder, watch_seconds=60.0)
    site.app.user_middleware.append(Middleware(OfSomeTasks))  # the innermost
    with connected(site, headers=ADMIN) as http:
        for task in ("mine", "mine-too", HIDDEN, "mints"):
            site.publish(task)
        yield http


# Each route that takes a task: its template, what is sent where the task is in the body.
NAMED = [
    ("GET", "/v1/adapters/{}", None),
    ("PUT", "/v1/adapters/{}", None),
    ("DELETE", "/v1/adapters/{}", None),
    ("POST", "/v1/adapters/{}/rollback", None),
    ("POST", "/v1/adapters/{}/stage", {"version": "12345678", "share": 0.1}),
    ("POST", "/v1/adapters/{}/promote", None),
    ("POST", "/v1/adapters/{}/unstage", None),
    ("POST", "/v1/adapters/{}/alias", {"name": "best", "version": "12345678"}),
    ("POST", "/v1/adapters/{}/load", None),
    ("POST", "/v1/adapters/{}/pin", None),
    ("GET", "/v1/models/{}", None),
    ("GET", "/v2/models/{}", None),
    ("GET", "/v2/models/{}/ready", None),
    ("POST", "/v2/models/{}/infer", {"inputs": [TENSOR]}),
    ("GET", f"/v2/models/{{}}/versions/{VERSION}", None),
    ("GET", f"/v2/models/{{}}/versions/{VERSION}/ready", None),
    ("POST", f"/v2/models/{{}}/versions/{VERSION}/infer", {"inputs": [TENSOR]}),
    ("POST", "/", {"task_id": "{}", "inputs": "x"}),
    ("POST", "/generate", {"task_id": "{}", "inputs": "x"}),
    ("POST", "/generate_stream", {"task_id": "{}", "inputs": "x"}),
    ("POST", "/v1/completions", {"model": "{}", "prompt": "x"}),
    ("POST", "/v1/completions", {"model": "{}", "prompt": "x", "stream": True}),
    ("POST", "/v1/tasks/{}/generate", {"inputs": "x"}),
    ("POST", "/v1/tasks/{}/generate_stream", {"inputs": "x"}),
    ("POST", "/v1/chat/completions", {"model": "{}", "messages": MESSAGES}),
    ("POST", "/tokenize", {"model": "{}", "prompt": "x"}),
    ("POST", "/detokenize", {"model": "{}", "tokens": [2]}),
    ("POST", "/v1/unload_lora_adapter", {"lora_name": "{}"}),
]  # fmt: skip


def asked(
    http: httpx.Client, method: str, path: str, body: dict[str, object] | None, task: str
) -> tuple[int, str]:
    """The answer's status and text, with TASK for the task."""
    sent = body and {k: task if v == "{}" else v for k, v in body.items()}
    answer = http.request(method, path.format(task), json=sent, headers=MINE)
    return answer.status_code, answer.text.replace(task, "TASK")


@pytest.mark.parametrize(("method", "path", "body"), NAMED, ids=str)
def test_a_hidden_task_is_as_one_that_is_not_there(
    http: httpx.Client, method: str, path: str, body: dict[str, object] | None
) -> None:
    status, text = asked(http, method, path, body, HIDDEN)
    if needed_access(method, path) == "admin":
        assert status == 403
        assert "of its own tasks only, and 'TASK' is none of them" in text
        assert asked(http, method, path, body, "mind") == (status, text)
        assert http.get(f"/v1/adapters/{HIDDEN}").json()["pinned"] is False, "nothing was changed"
        return
    assert status == 404
    assert "closest: mine, mine-too" in text
    assert "mints" not in text
    assert asked(http, method, path, body, UNKNOWN) == (status, text)


def test_the_table_has_every_route_with_a_task_in_its_path(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()["paths"]
    names = ("task_id", "model", "model_name", "model_version")
    found = {
        (method.upper(), path.format(**dict.fromkeys(names, "*")))
        for path, methods in document.items()
        for method in methods
        if "{task_id}" in path or "{model" in path
    }
    covered = {(m, p.replace(VERSION, "{}").replace("{}", "*")) for m, p, _ in NAMED if "{}" in p}
    assert found == covered


def test_loading_by_path_makes_no_task_of_others(http: httpx.Client) -> None:
    def load(task: str, path: str = "") -> httpx.Response:
        body = {"lora_name": task, "lora_path": path or task, "load_inplace": True}
        return http.post("/v1/load_lora_adapter", json=body, headers=MINE)

    assert load(HIDDEN).status_code == 403
    assert load(HIDDEN).text.replace(HIDDEN, "mind") == load("mind").text
    assert load(UNKNOWN).status_code == 400, "one of its tasks may be new: the file is looked at"
    for path in ("other", "nothing", ".", f"{UNKNOWN}/../other"):
        refused = load(UNKNOWN, path)
        assert refused.status_code == 404, "what is not called as one of its tasks is not there"
        assert "nothing is there" in refused.text


def test_lists_have_its_tasks_alone(http: httpx.Client) -> None:
    listed = http.get("/v1/adapters", headers=MINE).json()["adapters"]
    assert [each["task_id"] for each in listed] == ["mine", "mine-too"]
    models = http.get("/v1/models", headers=MINE).json()["data"]
    assert [each["id"] for each in models] == ["mine", "mine-too", "toy"]
    assert len(http.get("/v1/adapters").json()["adapters"]) == 4


def test_its_own_tasks_answer(http: httpx.Client) -> None:
    assert http.get("/v1/adapters/mine", headers=MINE).status_code == 200
    body = {"task_id": "mine", "inputs": "x"}
    assert http.post("/generate", json=body, headers=MINE).status_code == 200


def test_a_caller_of_all_tasks_reads_all_names(http: httpx.Client) -> None:
    told = http.get(f"/v1/adapters/{UNKNOWN}").json()["error"]
    assert told.endswith("closest: mine, mint, mints")
