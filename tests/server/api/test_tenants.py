"""Tenants do not see each other: every route, asked by every kind of caller.

What is asked of each route stands in the table of `asked_routes`. A route that is not in it fails
the first test.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from adapter_requests import ADMIN
from asked_routes import EACH, FILE, FOREIGN, ODD_PATHS, TABLE, TENSOR, VERSION, Body, Row
from jumplora_server.access.caller import ADMIN_SCOPES, Scope
from jumplora_server.api.route import VERSION_HEADER
from serving import Site, connected, slow_down, wait_for
from tenants import (
    ANY,
    BASE,
    BLAMED,
    BROKEN,
    CHILD,
    HIDDEN,
    LISTED,
    NARROW,
    NEW,
    NOBODYS,
    ODD,
    OURS,
    SERVER_BASE,
    STRANGER,
    THEIRS,
    WORSE,
    Who,
    fill,
    two_tenants,
    without_asked,
)

_OF_THE_MOMENT = re.compile(rb'"(?:uptime_seconds|memory_used|rows_in_use|waiting)":[0-9.]+')
Tenants = tuple[Site, httpx.Client, dict[str, str]]


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    site = two_tenants(tmp_path_factory.mktemp("tenants"))
    with connected(site, headers=ADMIN) as http:
        made = fill(site, http)
        wait_for(lambda: bool(site.parts.services.residency.compared))
        yield site, http, made


class Walker:
    """Asks, and judges each answer by what its caller may see."""

    def __init__(self, tenants: Tenants) -> None:
        self._site, self._http, made = tenants
        self._files = {task: self._site.adapter(task).read_bytes() for task in (NEW, HIDDEN[0])}
        current = self._site.parts.services.store.path_of(made[BASE])
        self._files[BASE] = current.read_bytes()  # so that it stays as it is
        self.found: dict[str, list[str]] = defaultdict(list)  # what named others, by caller

    def ask(
        self,
        who: Who,
        method: str,
        path: str,
        body: Body,
        task: str,
        version: str | None = None,
    ) -> bytes:
        """Status, headers and body, without what differs each time and what was asked for."""
        url = path.replace("{}", task)
        content = self._content(body, task)
        headers = dict(who.headers)
        if isinstance(body, dict):
            headers["content-type"] = "application/json"
        if version is not None:
            headers[VERSION_HEADER] = version
        answer = self._http.request(method, url, content=content, headers=headers)
        head = {
            name: value
            for name, value in answer.headers.raw
            if name.lower() not in (b"date", b"x-request-id") and not name.startswith(b"x-total")
        }
        if path.startswith("/v1/overview"):
            head.pop(b"content-length", None)
        lines = [str(answer.status_code).encode(), *(k + b": " + v for k, v in head.items())]
        sent = b"" if body in (FILE, FOREIGN) and who is ANY else content or b""
        asked = (url.encode(), sent, (version or "").encode())
        text = without_asked(b"\n".join([*lines, b"", answer.content]), *asked)
        text = _OF_THE_MOMENT.sub(b"", text)
        for mark in who.unseen or (THEIRS,):
            if mark.encode() in text:
                at = text.index(mark.encode())
                around = text[max(0, at - 60) : at + 60].decode(errors="replace")
                self.found[who.name].append(f"{method} {url} {body!r}: {around}")
        return text

    def _content(self, body: Body, task: str) -> bytes | None:
        if isinstance(body, dict):
            return json.dumps(body).replace('"{}', f'"{task}').encode()
        if body is FOREIGN:
            return self._files[HIDDEN[0]]
        return self._files.get(task, b"none") if body is FILE else body


def tasks_for(row: Row, *, hidden: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    """Whom a row is asked of; one is enough where no task is named."""
    named = "{}" in row.path or any("{}" in json.dumps(b) for b in row.bodies if type(b) is dict)
    if not named and not row.changes:
        return (BASE,)
    return (*hidden, NOBODYS, *((BASE, NEW) if row.changes else own))


def walk(walker: Walker, who: Who, *, hidden: tuple[str, ...], own: tuple[str, ...]) -> int:
    """Ask all of the table; how many requests that were. A hidden task's answer has to be that of
    one that is not there."""
    asked = 0
    for method, row in EACH:
        for body in row.bodies:
            told: dict[str, bytes] = {}
            for task in tasks_for(row, hidden=hidden, own=own):
                told[task] = walker.ask(who, method, row.path, body, task, row.version)
                asked += 1
            for task in set(told) & set(hidden):
                if told[task] != told[NOBODYS]:  # one of ours may have been tried again just then
                    for each in (task, NOBODYS):
                        told[each] = walker.ask(who, method, row.path, body, each, row.version)
                assert told[task] == told[NOBODYS], (who.name, method, row.path, body, task)
    return asked


def test_the_table_has_every_route(tenants: Tenants) -> None:
    routes = {
        (method, str(route.path))
        for route in iter_route_contexts(tenants[0].app.routes)
        for method in route.methods or ()
    }
    assert routes == TABLE.keys(), "say in TABLE how a new route is asked"


@pytest.mark.parametrize("who", NARROW, ids=lambda who: who.name)
def test_no_route_names_others(tenants: Tenants, who: Who) -> None:
    walker = Walker(tenants)
    before = state(tenants)
    own = (BASE, CHILD, BROKEN, ODD, WORSE, BLAMED, NEW) if who is LISTED else (BASE, ODD)
    asked = walk(walker, who, hidden=(HIDDEN[0], HIDDEN[3]), own=own)
    assert walker.found[who.name] == []
    assert asked > 300
    assert state(tenants) == before, "nothing of the others was changed"


@pytest.mark.slow
@pytest.mark.parametrize("who", [LISTED, STRANGER], ids=lambda who: who.name)
@pytest.mark.parametrize("scope", [*sorted(ADMIN_SCOPES), None])
def test_no_route_names_others_whatever_the_scope(
    tenants: Tenants, who: Who, scope: Scope | None
) -> None:
    walker = Walker(tenants)
    hidden = HIDDEN if scope == "admin" else HIDDEN[1:3]
    walk(walker, who.of(scope) if scope else who.of(), hidden=hidden, own=(BASE, BROKEN))
    assert walker.found[who.name] == []


@pytest.mark.parametrize("who", [LISTED, STRANGER], ids=lambda who: who.name)
def test_other_methods_and_odd_paths_name_none(tenants: Tenants, who: Who) -> None:
    walker = Walker(tenants)
    paths = {row.path for _, row in EACH} | {*ODD_PATHS}
    for path in sorted(paths):
        for method in ("HEAD", "OPTIONS", "PATCH", "GET", "POST", "DELETE"):
            is_asked = path not in ODD_PATHS and method in ("GET", "POST", "DELETE")
            if is_asked or (method == "DELETE" and path.endswith("{}")):
                continue
            hidden = walker.ask(who, method, path, None, HIDDEN[0])
            if "{}" in path:
                assert hidden == walker.ask(who, method, path, None, NOBODYS), (method, path)
    assert walker.found[who.name] == []


def test_a_caller_of_all_tasks_meets_the_names(tenants: Tenants) -> None:
    """What the others do not read is there to be read."""
    walker = Walker(tenants)
    asked: list[tuple[str, str, Body, str]] = [
        ("GET", "/v1/models", None, BASE),
        ("GET", "/v1/adapters", None, BASE),
        ("GET", "/v1/adapters/{}", None, BASE),
        ("GET", "/v1/adapters/{}", None, BROKEN),
        ("GET", "/v1/adapters/{}", None, ODD),
        ("GET", "/v1/adapters/{}", None, WORSE),
        ("GET", "/v2/models/{}/ready", None, BROKEN),
        ("POST", "/v1/adapters/{}/load", None, BROKEN),
        ("POST", "/generate", {"task_id": "{}", "inputs": "x"}, ODD),
        ("POST", "/generate", {"inputs": "x"}, BASE),
        ("POST", "/v1/load_lora_adapter", {"lora_name": NEW, "lora_path": NEW}, NEW),
        ("GET", "/v1/overview", None, BASE),
        ("DELETE", "/v1/adapters/{}", None, BASE),
        ("POST", "/v1/unload_lora_adapter", {"lora_name": "{}"}, BASE),
        ("PUT", "/v1/adapters/{}", FOREIGN, BASE),
        ("GET", "/metrics", None, BASE),
        ("GET", "/info", None, BASE),
        ("GET", "/v1/adapters/{}", None, "zqtheir"),
    ]
    for method, path, body, task in asked:
        count = len(walker.found["any"])
        told = walker.ask(ANY, method, path, body, task)
        assert len(walker.found["any"]) == count + 1, (method, path, body, task, told)


def test_a_version_of_others_is_asked_for_in_vain(tenants: Tenants) -> None:
    walker, made = Walker(tenants), tenants[2]
    theirs = made[HIDDEN[0]]
    asked: list[tuple[str, Body]] = [
        ("/v1/models/{}@VERSION", None),
        ("/v2/models/{}/versions/VERSION", None),
        ("/v2/models/{}/versions/VERSION/ready", None),
        ("/generate", {"task_id": "{}@VERSION", "inputs": "x"}),
        ("/v1/adapters/{}/rollback", {"version": "VERSION"}),
    ]
    for path, body in asked:
        told = [
            walker.ask(
                LISTED,
                "GET" if body is None else "POST",
                path.replace("VERSION", version),
                json.loads(json.dumps(body).replace("VERSION", version)),
                BASE,
            ).replace(version.encode(), b"VERSION")
            for version in (theirs, VERSION)
        ]
        assert told[0] == told[1]
        assert told[0].startswith((b"404", b"422"))


def test_what_a_hidden_task_was_asked_counts_as_of_one_that_is_not_there(tenants: Tenants) -> None:
    site, http, _ = tenants
    walker = Walker(tenants)
    asked = [
        (method, row, body)
        for (method, _), rows in TABLE.items()
        for row in rows
        for body in row.bodies
        if method != "GET"
    ]
    read = [(counters(http, LISTED), counters(http, ANY))]
    for task in (HIDDEN[0], NOBODYS):
        for method, row, body in asked:
            walker.ask(LISTED, method, row.path, body, task, row.version)
        wait_for(lambda: site.parts.services.loop.load.rows == 0)
        read.append((counters(http, LISTED), counters(http, ANY)))
    seen, everything = zip(*read, strict=True)
    moves = [
        {name: after[name] - before[name] for name in after} for before, after in pairwise(seen)
    ]
    assert moves[0] == moves[1]
    assert (
        moves[0]['jumplora_requests_total{outcome="client_unknown_task",task_id="_unknown"}'] > 10
    )
    theirs = [{k: v for k, v in found.items() if THEIRS in k} for found in everything]
    assert theirs[0]
    assert theirs[0] == theirs[1] == theirs[2], "it counts for none of them"


def counters(http: httpx.Client, who: Who) -> dict[str, float]:
    """The counts of requests and of changes that a caller reads."""
    page = http.get("/metrics", headers=who.headers).text
    pattern = r"^(jumplora_(?:requests|admission|publishes|auth|version)\w*_total\S*) (\S+)$"
    found = re.findall(pattern, page, re.MULTILINE)
    return defaultdict(float, {name: float(value) for name, value in found})


def test_tasks_that_are_in_use_are_named_to_those_that_see_them(tenants: Tenants) -> None:
    site, http, _ = tenants

    def lists(who: Who) -> tuple[str, str]:
        page = http.get("/metrics", headers=who.headers).text
        line = next(x for x in page.splitlines() if x.startswith("vllm:lora_requests_info{"))
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        return labels["running_lora_adapters"], labels["waiting_lora_adapters"]

    asked = [HIDDEN[0], BASE, HIDDEN[0], BASE, HIDDEN[4], CHILD]  # of which four have a row
    with ThreadPoolExecutor(len(asked)) as pool, slow_down(site, 0.1):
        sent = [
            pool.submit(http.post, "/generate", json={"task_id": task, "inputs": "x"})
            for task in asked
        ]
        wait_for(lambda: THEIRS in str(lists(ANY)) and OURS in str(lists(ANY)))
        assert OURS in str(lists(LISTED))
        assert THEIRS not in str(lists(LISTED))
        assert lists(STRANGER) == ("", "")
    assert {each.result().status_code for each in sent} == {200}


def test_the_bare_backbone_is_for_keys_that_list_it(tenants: Tenants) -> None:
    _, http, _ = tenants
    listed = Who("base", (BASE, SERVER_BASE))
    bodies = {
        "/generate": {"task_id": None, "inputs": "x"},
        "/v1/completions": {"model": "toy", "prompt": "x"},
        "/v2/models/toy/infer": {"inputs": [{**TENSOR, "name": "prompt"}]},
    }
    for path, body in bodies.items():
        assert http.post(path, json=body, headers=listed.headers).status_code == 200
        refused = http.post(path, json=body, headers=LISTED.headers)
        assert refused.status_code == 403, path
        assert "bare backbone is not in it" in refused.text
    assert http.get("/info", headers=listed.headers).json()["base"] == SERVER_BASE
    assert http.get("/info", headers=LISTED.headers).json()["base"] is None
    assert http.get("/v2/models/toy/ready", headers=listed.headers).status_code == 200
    assert http.get("/v2/models/toy/ready", headers=LISTED.headers).status_code == 404


def test_counts_are_of_what_is_seen(tenants: Tenants) -> None:
    site, http, _ = tenants
    found = {
        who.name: http.get("/info", headers=who.headers).json()["adapters"]
        for who in (ANY, LISTED, STRANGER)
    }
    assert found["stranger"] == 0
    assert found["listed"] == 6
    assert found["any"] == site.parts.services.residency.tasks > 6
    missing = http.post("/generate", json={"inputs": "x"}, headers=STRANGER.headers).json()
    assert "this server has no task yet" in missing["error"]


def state(tenants: Tenants) -> dict[str, object]:
    """What is known of the hidden tasks, but for what answers and loads change."""
    _, http, _ = tenants
    adapters: list[dict[str, Any]] = []

    def is_settled() -> bool:  # those that failed are tried again by the clock
        adapters[:] = http.get("/v1/adapters").json()["adapters"]
        return all(a["state"] != "LOADING" for a in adapters)

    wait_for(is_settled)
    kept = ("task_id", "version", "desired", "pinned", "state", "aliases")
    return {a["task_id"]: [a[k] for k in kept] for a in adapters if THEIRS in a["task_id"]}
