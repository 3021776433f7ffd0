"""GET /v1/overview: the strip, the table and its order, keys, and what a key of some tasks sees."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from adapter_requests import ADMIN, Started
from jumplora_adapters.manifest import Canary
from jumplora_server.access.caller import ADMIN_SCOPES, ANYBODY, API_SCOPES, Caller, TaskPatterns
from jumplora_server.api.ask import SCOPE_KEY, new_record
from jumplora_server.api.overview import by_rank, get_overview
from jumplora_server.api.overview_schemas import MAX_EVENTS, Overview, OverviewQuery, StagedMark
from jumplora_server.core import Batch
from jumplora_server.version import VERSION
from serving import Site, connected, make_site, wait_for

ADMINS = Caller("0" * 12, ADMIN_SCOPES)


@pytest.fixture
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), watch_seconds=60.0)
    with connected(site, headers=ADMIN) as http:
        yield site, http


def look(http: httpx.Client, **query: Any) -> Overview:
    answer = http.get("/v1/overview", params=query)
    assert answer.status_code == 200, answer.text
    return Overview.model_validate(answer.json())


def seen_by(site: Site, caller: Caller, **query: Any) -> Overview:
    """What the route answers a caller, whatever its key."""
    record = new_record(None)
    record.caller = caller
    request = Request({"type": "http", "app": site.app, "headers": [], SCOPE_KEY: record})
    answer = asyncio.run(get_overview(request, site.parts.services, OverviewQuery(**query)))
    return Overview.model_validate(json.loads(bytes(answer.body)))


def tasks_of(seen: Overview) -> list[str]:
    return [line.task_id for line in seen.tasks]


def test_the_strip(started: Started) -> None:
    site, http = started
    site.publish("alpha")
    strip = look(http).server
    settings, services = site.parts.services.settings, site.parts.services
    assert (strip.backbone, strip.dtype, strip.device) == ("toy", "float32", "cpu")
    assert (strip.kernels, strip.backbone_memory) == ("fake", site.engine.weight_bytes)
    assert (strip.ready, strip.faults) == (True, {})
    assert (strip.rows_in_use, strip.waiting, strip.rows_total) == (0, 0, 4)
    assert strip.memory_used == 100 == services.residency.used_bytes
    assert strip.memory_budget == settings.adapter_budget_bytes
    assert (strip.may_change, strip.why_not) == (True, None)
    assert (strip.base, strip.default_task) == (None, None)
    assert (strip.max_input_tokens, strip.max_new_tokens) == (64, 256)
    assert look(http).server.uptime_seconds > strip.uptime_seconds > 0


def test_rows_and_what_waits(started: Started) -> None:
    site, http = started
    site.publish("alpha")
    loop = site.parts.services.loop
    is_reached, may_end = threading.Event(), threading.Event()

    def hold(batch: Batch) -> None:
        del batch
        if sum(loop.load) == 6:
            is_reached.set()
            may_end.wait(20)

    site.engine.fail_step = hold
    site.engine.step_seconds = 0.01  # all six are there before the first one ends
    body = {"task_id": "alpha", "inputs": ["x"] * 6}
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(http.post, "/generate", json=body)
        assert is_reached.wait(20)
        seen = look(http)
        may_end.set()
        assert asked.result(timeout=20).status_code == 200
    rows = 4 - site.parts.services.settings.spare_rows
    assert (seen.server.rows_in_use, seen.server.waiting) == (rows, 6 - rows)
    assert seen.tasks[0].in_flight == 6
    wait_for(lambda: loop.load == (0, 0))


def test_a_line(started: Started) -> None:
    site, http = started
    canaries = (Canary(prompt="who won", expected="Sports"), Canary(prompt="p", expected="no"))
    site.engine.say = lambda prompt, versions: "Sports"
    version = site.publish("alpha", canaries=canaries, noted={"scores": {"dev_exact_match": 0.75}})
    http.post("/v1/adapters/alpha/pin")
    for _ in range(3):
        http.post("/generate", json={"task_id": "alpha", "inputs": "x"}).raise_for_status()
    wait_for(lambda: site.outcomes("alpha") == {"ok": 3})
    (line,) = look(http).tasks
    assert (line.task_id, line.version, line.desired) == ("alpha", version, version)
    assert (line.state, line.degraded, line.kind, line.pinned) == ("READY", None, "masked", True)
    assert (line.density, line.memory, line.ancestors, line.in_flight) == (0.25, 100, 0, 0)
    assert line.accuracy is not None
    assert (line.accuracy.score, line.accuracy.share) == ("dev_exact_match", 0.75)
    assert (line.canaries, line.canaries_asked) == (0.5, 2)
    assert len(line.requests_per_second) == len(line.p95_seconds) == 30
    assert 0.3 <= sum(line.requests_per_second) <= 0.6, "3 in ten seconds, or in the first five"
    assert line.requests == 3
    known = [seconds for seconds in line.p95_seconds if seconds is not None]
    assert 1 <= len(known) <= 2
    assert line.p95 is not None
    assert 0 < line.p95 < 10
    assert line.failed == 0


def test_a_staged_version_is_marked_to_those_who_see_its_task(started: Started) -> None:
    site, http = started
    other = site.publish("alpha")
    site.publish("alpha")
    site.publish("beta")
    assert [line.staged for line in look(http).tasks] == [None, None]
    body = {"version": other, "share": 0.1}
    http.post("/v1/adapters/alpha/stage", json=body).raise_for_status()
    alpha, beta = look(http).tasks
    mark = StagedMark(version=other, share=0.1, is_open=True, failure=None)
    assert (alpha.staged, beta.staged) == (mark, None)
    narrow = Caller("k", API_SCOPES, TaskPatterns.of(["beta"]))
    assert other not in seen_by(site, narrow).model_dump_json()
    http.post("/v1/adapters/alpha/unstage").raise_for_status()
    assert look(http).tasks[0].staged is None


def test_a_degraded_task_says_why(started: Started) -> None:
    site, http = started
    good = site.publish("alpha")
    broken = site.adapter("alpha")
    site.engine.fail_pack = lambda version: None if version == good else MemoryError("no memory")
    services = site.parts.services
    bad = services.store.publish(broken, site.backbone).digest
    services.residency.sync("alpha").result(timeout=10)
    (line,) = look(http).tasks
    assert (line.version, line.desired, line.state) == (good, bad, "READY")
    assert line.degraded is not None
    assert line.degraded == "there was not enough memory to load it"
    assert look(http).events[0].kind == "failed"


def test_a_task_without_requests_has_no_trend(started: Started) -> None:
    site, http = started
    site.publish("alpha")
    (line,) = look(http).tasks
    assert (line.requests_per_second, line.p95_seconds, line.p95) == ([], [], None)
    assert line.requests == 0


# The table


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Tasks a0 to a3 and B4, with 0 to 3 requests and scores that fall; B4 has neither."""
    site = make_site(tmp_path_factory.mktemp("site"), watch_seconds=60.0)
    with connected(site, headers=ADMIN) as http:
        for number in range(4):
            site.publish(f"a{number}", noted={"scores": {"test_exact_match": 1 - number / 10}})
            for _ in range(number):
                http.post("/generate", json={"task_id": f"a{number}", "inputs": "x"})
        site.publish("B4")
        wait_for(lambda: site.outcomes("a3") == {"ok": 3})
        yield site, http


@pytest.mark.parametrize(
    ("query", "tasks"),
    [
        ({}, "B4 a0 a1 a2 a3"),
        ({"order": "descending"}, "a3 a2 a1 a0 B4"),
        ({"sort": "requests", "order": "descending"}, "a3 a2 a1 B4 a0"),
        ({"sort": "requests"}, "B4 a0 a1 a2 a3"),
        ({"sort": "accuracy"}, "a3 a2 a1 a0 B4"),
        ({"sort": "accuracy", "order": "descending"}, "a0 a1 a2 a3 B4"),
        ({"sort": "failed"}, "B4 a0 a1 a2 a3"),
        ({"sort": "memory", "order": "descending"}, "B4 a0 a1 a2 a3"),
        ({"sort": "canaries"}, "B4 a0 a1 a2 a3"),
        ({"sort": "density"}, "B4 a0 a1 a2 a3"),
        ({"sort": "state"}, "B4 a0 a1 a2 a3"),
        ({"offset": 1, "limit": 2}, "a0 a1"),
        ({"offset": 4}, "a3"),
        ({"offset": 5}, ""),
        ({"limit": 0}, ""),
        ({"search": "b4"}, "B4"),
        ({"search": "A", "sort": "accuracy", "limit": 1}, "a3"),
        ({"search": "nothing"}, ""),
    ],
)
def test_which_tasks_and_in_which_order(many: Started, query: Any, tasks: str) -> None:
    seen = look(many[1], **query)
    assert tasks_of(seen) == tasks.split()
    sought = query.get("search", "").lower()
    assert seen.total == 5
    assert seen.found == sum(sought in task.lower() for task in ("B4", "a0", "a1", "a2", "a3"))
    assert seen.offset == query.get("offset", 0)


def test_tasks_without_a_p95_come_last_either_way(many: Started) -> None:
    for order in ("ascending", "descending"):
        seen = look(many[1], sort="p95", order=order)
        assert tasks_of(seen)[3:] == ["B4", "a0"]
        known = [line.p95 for line in seen.tasks if line.p95 is not None]
        assert known == sorted(known, reverse=order == "descending")


@given(
    ranks=st.lists(st.none() | st.integers(0, 3), max_size=20),
    descending=st.booleans(),
)
def test_the_order_of_ranks(ranks: list[int | None], descending: bool) -> None:
    named = [(rank, f"{number:02}") for number, rank in enumerate(ranks)]
    sign = -1 if descending else 1

    def place(each: tuple[int | None, str]) -> tuple[bool, int, str]:
        rank, name = each
        return rank is None, sign * (rank or 0), name

    found = by_rank(named, descending=descending)
    assert found == [name for _, name in sorted(named, key=place)]


def test_what_needs_a_look_comes_first(started: Started) -> None:
    site, http = started
    site.publish("well")
    services = site.parts.services
    site.publish("behind")
    site.engine.fail_pack = lambda version: MemoryError("no memory")
    services.store.publish(site.adapter("behind"), site.backbone)
    services.residency.sync("behind").result(timeout=10)
    site.publish("z-failed")
    assert tasks_of(look(http, sort="state")) == ["z-failed", "behind", "well"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"sort": "name"}, "query.sort: must be 'task_id'"),
        ({"order": "up"}, "query.order: must be 'ascending' or 'descending' (given: \"up\")"),
        ({"limit": 101}, "query.limit: must be at most 100"),
        ({"offset": -1}, "query.offset: must be at least 0"),
        ({"search": "x" * 65}, "query.search: must have at most 64 characters"),
        ({"filter": "x"}, "query.filter: is not known here"),
    ],
)
def test_what_is_refused(many: Started, query: dict[str, str], message: str) -> None:
    answer = many[1].get("/v1/overview", params=query)
    told = answer.json()
    assert (answer.status_code, told["error_type"]) == (422, "validation")
    assert told["error"].startswith(message)


def test_head(many: Started) -> None:
    answer = many[1].head("/v1/overview")
    assert (answer.status_code, answer.content) == (200, b"")


def test_the_last_events_are_shown_newest_first(started: Started) -> None:
    site, http = started
    for number in range(MAX_EVENTS + 2):
        site.parts.services.events.add("pinned", "It stays.", task=f"t{number}", version="1" * 64)
    events = look(http).events
    assert [event.task_id for event in events] == [
        f"t{number}" for number in range(MAX_EVENTS + 1, 1, -1)
    ]
    assert {(event.kind, event.text, event.version) for event in events} == {
        ("pinned", "It stays.", "1" * 64)
    }
    times = [datetime.fromisoformat(event.at) for event in events]
    assert times == sorted(times, reverse=True)
    assert times[0].utcoffset() == timedelta(0)


# Who sees what


def test_a_key_of_some_tasks_sees_nothing_of_the_others(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("site")
    site = make_site(folder, watch_seconds=60.0, default_task="theirs")
    order = ["theirs", "mine", "mine-too"]
    with connected(site, headers=ADMIN) as http:
        for task in order:
            position = order.index(task) + 1
            note = {
                "run": "r",
                "order": order,
                "position": position,
                "accuracy": dict.fromkeys(order[:position], 0.5),
            }
            site.publish(task, noted={"training": {"continual": note}})
        http.post("/v1/adapters/theirs/pin")
        wait_for(lambda: len(site.parts.services.residency.compared) == 3)
        mine = Caller("1" * 12, API_SCOPES, TaskPatterns.of({"mine", "mine-too"}))
        seen = seen_by(site, mine)
        everything = seen_by(site, ADMINS)
    assert "theirs" not in seen.model_dump_json()
    assert (seen.total, seen.found, tasks_of(seen)) == (2, 2, ["mine", "mine-too"])
    assert seen.overlap is not None
    assert seen.overlap.tasks == ["mine", "mine-too"]
    assert [run.tasks for run in seen.runs] == [["mine", "mine-too"]]
    assert {event.task_id for event in seen.events} == {"mine", "mine-too"}
    assert {None, "theirs"} < {event.task_id for event in everything.events}
    assert tasks_of(seen_by(site, mine, search="theirs")) == []
    assert everything.total == 3
    assert everything.server.default_task == "theirs"
    assert [run.tasks for run in everything.runs] == [order]


def test_faults_name_no_other_task_to_a_key_of_some(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    site = make_site(tmp_path_factory.mktemp("site"), watch_seconds=60.0)
    site.engine.fail_pack = lambda version: MemoryError("no memory")
    with connected(site, headers=ADMIN):
        site.publish("theirs")
        mine = Caller("1" * 12, API_SCOPES, TaskPatterns.of({"mine"}))
        wait_for(lambda: not site.parts.services.residency.is_starting)
        fault = "[Errno 13] Permission denied: '/srv/theirs'"
        site.parts.services.events.add("server", f"The store cannot be read: {fault}")
        everything, other = seen_by(site, ADMINS), seen_by(site, mine)
    strip = everything.server
    assert fault in everything.events[0].text
    assert not strip.ready
    assert "theirs: there was not enough memory" in strip.faults["adapters"]
    assert not other.server.ready
    assert other.server.faults.keys() == strip.faults.keys()
    assert "theirs" not in other.model_dump_json()


@pytest.mark.parametrize(
    ("admin_keys", "caller", "why_not"),
    [
        ("", ANYBODY, "JUMPLORA_ADMIN_KEYS"),
        ("an-admin-key", ANYBODY, "takes an admin key"),
        ("an-admin-key", Caller("1" * 12, API_SCOPES), "takes an admin key"),
        ("an-admin-key", ADMINS, None),
    ],
)
def test_who_may_change_adapters(
    tmp_path_factory: pytest.TempPathFactory, admin_keys: str, caller: Caller, why_not: str | None
) -> None:
    site = make_site(tmp_path_factory.mktemp("site"), admin_keys=admin_keys)
    strip = seen_by(site, caller).server
    assert strip.may_change == (why_not is None)
    assert (strip.why_not is None) if why_not is None else (why_not in str(strip.why_not))


@pytest.mark.parametrize(
    ("kinds", "given", "key"),
    [
        ("", None, "none"),
        ("", "sk-nothing", "unknown"),
        ("admin", None, "none"),
        ("admin", "sk-nothing", "unknown"),
        ("admin", "admin-key-of-tests", "admin"),
        ("api admin", "admin-key-of-tests", "admin"),
        ("api admin", "api-key-of-tests", "api"),
        ("api", "api-key-of-tests", "api"),
    ],
)
def test_what_became_of_the_key(
    tmp_path_factory: pytest.TempPathFactory, kinds: str, given: str | None, key: str
) -> None:
    settings: dict[str, Any] = {f"{kind}_keys": f"{kind}-key-of-tests" for kind in kinds.split()}
    site = make_site(tmp_path_factory.mktemp("site"), **{"admin_keys": "", **settings})
    with connected(site) as http:
        headers = {} if given is None else {"authorization": f"Bearer {given}"}
        strip = Overview.model_validate(http.get("/v1/overview", headers=headers).json()).server
    assert strip.keys == kinds.split()
    assert strip.key == key
    scopes = {"admin": ADMIN_SCOPES, "api": API_SCOPES}.get(key, frozenset())
    assert set(strip.key_scopes) == scopes
    assert (strip.key_id is None) == (not scopes)
    assert strip.key_tasks is None


@pytest.mark.parametrize("api_keys", ["", "api-key-of-tests"])
def test_keys(tmp_path_factory: pytest.TempPathFactory, api_keys: str) -> None:
    site = make_site(tmp_path_factory.mktemp("site"), api_keys=api_keys)
    with connected(site) as http:

        def ask(key: str | None) -> int | bool:
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            answer = http.get("/v1/overview", headers=headers)
            if answer.status_code != 200:
                return answer.status_code
            return Overview.model_validate(answer.json()).server.may_change

        without = 401 if api_keys else False
        assert ask(None) == without
        assert ask("sk-nothing") == without, "an open server ignores keys that it does not know"
        assert ask("admin-key-of-tests") is True
        if api_keys:
            assert ask(api_keys) is False


def test_a_server_that_shuts_down_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    site = make_site(tmp_path_factory.mktemp("site"))
    with connected(site, headers=ADMIN) as http:
        site.publish("alpha")
        services = site.parts.services
        services.lifecycle.drain()
        services.lifecycle.drain()
        seen = look(http)
    assert not seen.server.ready
    assert seen.server.faults == {"lifecycle": "draining"}
    texts = [event.text for event in seen.events if event.kind == "server"]
    assert texts == [
        "The server is shutting down: it finishes the requests that it has.",
        f"The server, version {VERSION}, has started.",
    ]
