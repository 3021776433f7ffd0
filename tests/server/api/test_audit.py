"""The audit log: a line for each change, however it ends, and for each refused key."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from adapter_requests import ADMIN, put
from jumplora_adapters.manifest import Canary
from jumplora_adapters.store import Step, Store
from jumplora_server import logs
from jumplora_server.access.needs import READING, needed_access
from jumplora_server.api import audit
from jumplora_server.api.audit import AUDIT_LOG
from jumplora_server.publishing import Publishing
from raw_http import RawClient
from serving import ADMIN_KEY, Site, connected, make_site, wait_for

API_KEY = "api-key-of-tests"
API = {"authorization": f"Bearer {API_KEY}"}
ADMIN_ID, API_ID = (hashlib.sha256(key.encode()).hexdigest()[:12] for key in (ADMIN_KEY, API_KEY))
Line = dict[str, Any]


class Lines(logging.Handler):
    """What the audit log said, without what differs each time."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Line] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append({"message": record.getMessage(), **vars(record)["fields"]})

    def take(self, count: int = 1) -> list[Line]:
        """The lines since the last look; there are so many."""
        wait_for(lambda: len(self.all) >= count)
        found, self.all = self.all, []
        assert len(found) == count, found
        return found


@contextmanager
def collected() -> Iterator[Lines]:
    logger, lines = logging.getLogger(AUDIT_LOG), Lines()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(lines)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)
        logger.setLevel(before)


@dataclass(frozen=True)
class Started:
    site: Site
    http: httpx.Client
    lines: Lines
    folder: Path

    def publish(self, task: str) -> str:
        return self.site.publish(task)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.http.request(method, path, **options)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("files")
    site = make_site(tmp_path_factory.mktemp("site"), api_keys=API_KEY, load_folder=folder)
    with pytest.MonkeyPatch.context() as patch, connected(site) as http, collected() as lines:
        patch.setattr(audit, "REFUSED_LINES", 1_000_000)
        yield Started(site, http, lines, folder)


@pytest.fixture
def server(started: Started) -> Started:
    started.lines.all = []
    return started


@dataclass(frozen=True)
class Done:
    """A change that was made: its answer, and the digests before and after it."""

    answer: httpx.Response
    before: str
    version: str
    changed: str = "yes"


def _publish(server: Started) -> Done:
    before = server.publish("alpha")
    content = server.site.adapter("alpha").read_bytes()
    answer = put(server.http, "alpha", content, **ADMIN)
    return Done(answer, before, hashlib.sha256(content).hexdigest())


def _remove(server: Started) -> Done:
    before = server.publish("alpha")
    return Done(server.ask("DELETE", "/v1/adapters/alpha", headers=ADMIN), before, "-")


def _roll_back(server: Started) -> Done:
    version, before = server.publish("alpha"), server.publish("alpha")
    answer = server.ask("POST", "/v1/adapters/alpha/rollback", headers=ADMIN)
    return Done(answer, before, version)


def _stage(server: Started) -> Done:
    version, before = server.publish("alpha"), server.publish("alpha")
    body = {"version": version, "share": 0.1}
    answer = server.ask("POST", "/v1/adapters/alpha/stage", headers=ADMIN, json=body)
    return Done(answer, before, version)


def _end_stage(server: Started, how: str) -> Done:
    done = _stage(server)
    server.lines.take()
    answer = server.ask("POST", f"/v1/adapters/alpha/{how}", headers=ADMIN)
    return Done(answer, done.before, done.version)


def _alias(server: Started) -> Done:
    version, before = server.publish("alpha"), server.publish("alpha")
    body = {"name": "best", "version": version}
    answer = server.ask("POST", "/v1/adapters/alpha/alias", headers=ADMIN, json=body)
    return Done(answer, before, version)


def _load(server: Started) -> Done:
    version = server.publish("alpha")
    answer = server.ask("POST", "/v1/adapters/alpha/load", headers=ADMIN)
    return Done(answer, version, version, "no")


def _pin(server: Started) -> Done:
    version = server.publish("alpha")
    answer = server.ask(
        "POST", "/v1/adapters/alpha/pin", headers=ADMIN, json={"pinned": "unpinned"}
    )
    return Done(answer, version, version, "no")


def _load_lora(server: Started) -> Done:
    before = server.publish("alpha")
    content = server.site.adapter("alpha").read_bytes()
    (server.folder / "new.safetensors").write_bytes(content)
    body = {"lora_name": "alpha", "lora_path": "new.safetensors", "load_inplace": True}
    answer = server.ask("POST", "/v1/load_lora_adapter", headers=ADMIN, json=body)
    return Done(answer, before, hashlib.sha256(content).hexdigest())


def _unload_lora(server: Started) -> Done:
    before = server.publish("alpha")
    body = {"lora_name": "alpha"}
    answer = server.ask("POST", "/v1/unload_lora_adapter", headers=ADMIN, json=body)
    return Done(answer, before, "-")


CHANGES: dict[str, Callable[[Started], Done]] = {
    "publish_adapter": _publish,
    "remove_adapter": _remove,
    "roll_back_adapter": _roll_back,
    "stage_adapter": _stage,
    "promote_adapter": lambda server: _end_stage(server, "promote"),
    "unstage_adapter": lambda server: _end_stage(server, "unstage"),
    "alias_adapter": _alias,
    "load_adapter": _load,
    "pin_adapter": _pin,
    "load_lora_adapter": _load_lora,
    "unload_lora_adapter": _unload_lora,
}


def change_routes(site: Site) -> dict[str, tuple[str, str]]:
    """All routes that change something: method and path, by name."""
    return {
        str(route.name): (method, str(route.path).replace("{task_id:path}", "alpha"))
        for route in iter_route_contexts(site.app.routes)
        for method in (route.methods or set()) - READING
        if needed_access(method, str(route.path)) == "admin"
    }


def test_every_route_that_changes_something_is_tested_here(server: Started) -> None:
    assert set(change_routes(server.site)) == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_is_done(server: Started, name: str) -> None:
    done = CHANGES[name](server)
    assert done.answer.status_code < 300, done.answer.text
    assert server.lines.take() == [
        {
            "message": "change",
            "request_id": done.answer.headers["x-request-id"],
            "client": "127.0.0.1",
            "key": ADMIN_ID,
            "action": name,
            "task": "alpha",
            "version": done.version,
            "before": done.before,
            "changed": done.changed,
            "outcome": "done",
            "error": "-",
        }
    ]


@pytest.mark.parametrize(
    ("headers", "key", "code"),
    [({}, "-", "unauthorized"), ({"authorization": "Bearer nonsense"}, "-", "unauthorized"),
     (API, API_ID, "forbidden")],
    ids=["no key", "unknown key", "a key without the right"],
)  # fmt: skip
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_without_the_right(
    server: Started, name: str, headers: dict[str, str], key: str, code: str
) -> None:
    method, path = change_routes(server.site)[name]
    assert server.ask(method, path, headers=headers).status_code in (401, 403)
    (line,) = server.lines.take()
    told = (line["key"], line["action"], line["outcome"], line["error"], line["changed"])
    assert told == (key, name, "refused", code, "no")
    assert line["task"] == ("alpha" if "alpha" in path else "-")


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_is_wrong(server: Started, name: str) -> None:
    method, path = change_routes(server.site)[name]
    answer = server.ask(method, path.replace("alpha", "no/task"), headers=ADMIN, content=b"{")
    assert 400 <= answer.status_code < 500
    (line,) = server.lines.take()
    assert (line["action"], line["key"], line["outcome"]) == (name, ADMIN_ID, "refused")
    assert line["error"] in ("validation", "adapter_refused")


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_whose_client_hangs_up(server: Started, name: str) -> None:
    method, path = change_routes(server.site)[name]
    if name in ("remove_adapter", "load_adapter"):
        pytest.skip("it has no body: it is done, and its line says so")
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN_KEY}\r\n"
        "content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    with RawClient(server.http.base_url.port or 0, head.encode()):
        pass
    (line,) = server.lines.take()
    assert (line["action"], line["outcome"], line["error"]) == (name, "failed", "client_gone")


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_fails_here(
    server: Started, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    for method in ("publish", "roll_back", "remove", "change", "settled"):
        monkeypatch.setattr(Publishing, method, broken)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(server.site.parts.services.residency), "pin", broken)
        answer = CHANGES[name](server).answer
    assert answer.status_code == 500
    (line,) = server.lines.take()
    assert (line["action"], line["outcome"], line["error"]) == (name, "failed", "internal")
    assert line["changed"] == "no"


def test_a_version_that_is_taken_back(server: Started) -> None:
    before = server.publish("alpha")
    wrong = server.site.adapter("alpha", canaries=[Canary(prompt="x", expected="never")])
    answer = put(server.http, "alpha", wrong.read_bytes(), **ADMIN)
    assert (answer.status_code, answer.json()["reason"]) == (422, "canary")
    (line,) = server.lines.take()
    told = (line["version"], line["before"], line["changed"], line["outcome"], line["error"])
    version = hashlib.sha256(wrong.read_bytes()).hexdigest()
    assert told == (version, before, "no", "refused", "adapter_refused")


def test_a_publish_of_what_is_current_moves_nothing(server: Started) -> None:
    file = server.site.adapter("same").read_bytes()
    for changed in ("yes", "no"):
        put(server.http, "same", file, **ADMIN)
        (line,) = server.lines.take()
        assert (line["outcome"], line["changed"]) == ("done", changed)


def test_a_change_that_ends_after_its_answer(tmp_path: Path) -> None:
    site, answers = make_site(tmp_path, watch_seconds=60.0), threading.Event()

    def hang(step: Step) -> None:
        if step == "renamed":
            assert answers.wait(30)

    services = site.parts.services
    publishing = Publishing(
        Store(services.store.root, on_step=hang),
        services.backbone,
        services.residency,
        load_seconds=20,
        wait_seconds=0.5,
        disk_seconds=0.5,
    )
    object.__setattr__(services, "publishing", publishing)
    with connected(site) as http, collected() as lines:
        content = site.adapter("new").read_bytes()
        try:
            assert put(http, "new", content, **ADMIN).status_code == 503
            (first,) = lines.take()
        finally:
            answers.set()
        (second,) = lines.take()
    assert (first["outcome"], first["error"], first["changed"]) == ("failed", "store_busy", "no")
    assert second == first | {"outcome": "done", "error": "-", "changed": "yes", "late": "yes"}
    assert second["version"] == hashlib.sha256(content).hexdigest()


def test_refused_keys_of_other_routes_have_lines_too(server: Started) -> None:
    task = "\u202e" + "x" * 500
    server.ask("POST", "/generate")
    (line,) = server.lines.take()
    assert line.pop("request_id")
    assert line == {
        "message": "refused",
        "client": "127.0.0.1",
        "key": "-",
        "action": "generate",
        "task": "-",
        "outcome": "refused",
        "error": "unauthorized",
    }
    server.ask("GET", "/nowhere")
    assert server.lines.take()[0]["action"] == "<unmatched>"
    server.ask("POST", f"/v1/adapters/{quote(task)}/pin")
    assert server.lines.take()[0]["task"] == task[:100]


def test_reading_and_generating_have_no_lines(server: Started) -> None:
    server.publish("alpha")
    for path in ("/v1/adapters", "/v1/adapters/alpha", "/v1/adapters/unknown", "/nowhere"):
        server.http.get(path, headers=API)
    server.http.post("/generate", headers=API, json={"task_id": "alpha", "inputs": "x"})
    server.http.post("/generate", headers=API, json={"task_id": "unknown", "inputs": "x"})
    _load(server)
    assert [line["action"] for line in server.lines.take()] == ["load_adapter"]


def test_a_flood_of_refused_keys_is_counted(
    server: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "REFUSED_LINES", 3)
    for _ in range(50):
        assert server.ask("POST", "/generate").status_code == 401

    def counted() -> int:
        return sum(int(line.get("count", 1)) for line in server.lines.all)

    wait_for(lambda: counted() == 50)
    assert any("count" in line for line in server.lines.all)
    server.lines.all = []
    for _ in range(20):  # what an admin does has its line
        server.ask("POST", "/v1/adapters/nothing/load", headers=ADMIN)
    assert {line["action"] for line in server.lines.take(20)} == {"load_adapter"}


def test_a_line_as_text_and_as_json(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    for form in ("text", "json"):
        stream = io.StringIO()
        logs.configure("text" if form == "text" else "json", "info", stream)
        with connected(site) as http:
            http.put(f"/v1/adapters/{quote(chr(0x202E))}")
        text = next(line for line in stream.getvalue().splitlines() if AUDIT_LOG in line)
        assert "\u202e" not in text
        if form == "json":
            assert json.loads(text)["action"] == "publish_adapter"
        site = make_site(tmp_path / "again")
