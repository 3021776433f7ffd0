"""The log line of a request: what it tells, and what it never does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from jumplora_server.api.audit import Audit
from jumplora_server.api.client_address import Proxies
from jumplora_server.api.health import PROBES
from jumplora_server.api.middleware import ACCESS_LOG, AccessLog
from raw_http import RawClient
from serving import ADMIN_KEY, Site, connected, make_site, wait_for

Started = tuple[Site, httpx.Client]
SECRET = "my secret prompt"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"))
    with connected(site) as http:
        site.publish("alpha")
        yield site, http


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    caplog.set_level(logging.INFO)
    found: list[dict[str, Any]] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(getattr(record, "fields", {}))

    handler = Collect()
    logging.getLogger(ACCESS_LOG).addHandler(handler)
    yield found
    logging.getLogger(ACCESS_LOG).removeHandler(handler)
    for record in caplog.records:
        for secret in (SECRET, ADMIN_KEY):
            assert secret not in record.getMessage()
            assert secret not in str(getattr(record, "fields", ""))


@pytest.mark.parametrize(
    "target",
    [
        "POST /generate",
        "POST /generate_stream",
        "POST /v1/adapters/alpha/rollback",
        "POST /v1/adapters/alpha/pin",
        "PUT /v1/adapters/alpha",
    ],
)
@pytest.mark.parametrize("body", ["", "{"], ids=["no body", "half a body"])
def test_a_client_that_hangs_up_before_its_body_is_complete(
    started: Started, lines: list[dict[str, Any]], target: str, body: str
) -> None:
    site, http = started
    before = site.outcomes("alpha")
    head = (
        f"{target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN_KEY}\r\n"
        "content-type: application/json\r\ncontent-length: 100\r\n\r\n"
    )
    with RawClient(http.base_url.port or 0, (head + body).encode()):
        pass
    wait_for(lambda: len(lines) == 1)
    assert lines[0]["status"] == 499
    assert site.outcomes("alpha") == before


@pytest.mark.parametrize("route", ["/", "/generate"])
def test_a_line_a_request(started: Started, lines: list[dict[str, Any]], route: str) -> None:
    body = {"task_id": "alpha", "inputs": SECRET, "parameters": {"api_token": ADMIN_KEY}}
    answer = started[1].post(route, json=body, headers={"x-request-id": "id-1"})
    wait_for(lambda: len(lines) == 1)
    (line,) = lines
    assert line.pop("ms") > 0
    assert line == {
        "request_id": "id-1",
        "client": "127.0.0.1",
        "key": "-",
        "method": "POST",
        "route": route,
        "task": "alpha",
        "version": answer.headers["x-adapter-version"][:12],
        "status": 200,
        "prompt_tokens": len(SECRET) + 1,
        "generated_tokens": int(answer.headers["x-generated-tokens"]),
    }


def test_a_stream_counts_its_tokens(started: Started, lines: list[dict[str, Any]]) -> None:
    started[1].post("/generate_stream", json={"task_id": "alpha", "inputs": "hi"})
    wait_for(lambda: len(lines) == 1)
    assert lines[0]["generated_tokens"] == len("01234567:hi") + 1


@pytest.mark.parametrize("path", sorted(PROBES))
def test_probes_are_logged_where_they_say_something_new(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [200, 200, 503, 503, 200, 401, 401, 200, 404, 500, 503, 401, 503]
    # 503 and the first answer after it are news; another refusal is always shown.
    shown = [503, 200, 401, 401, 404, 500, 503, 401, 503]
    assert logged(path, answers, caplog) == (shown, len(answers) - len(shown))


@pytest.mark.parametrize("path", ["/generate", "/v1/models", "/metricsx", "/"])
def test_all_other_requests_are_logged(path: str, caplog: pytest.LogCaptureFixture) -> None:
    answers = [200, 200, 503, 503, 401]
    assert logged(path, answers, caplog) == (answers, 0)


def logged(
    path: str, answers: list[int], caplog: pytest.LogCaptureFixture
) -> tuple[list[int], int]:
    """The statuses of the lines of level info, and how many lines are of level debug."""
    caplog.set_level(logging.DEBUG, ACCESS_LOG)
    statuses = iter(answers)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=next(statuses))(scope, receive, send)

    async def ask_all() -> None:
        transport = httpx.ASGITransport(AccessLog(app, audit=Audit(), proxies=Proxies()))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            assert [(await client.get(path)).status_code for _ in answers] == answers

    asyncio.run(ask_all())
    of_level: dict[int, list[int]] = {logging.INFO: [], logging.DEBUG: []}
    for record in caplog.records:
        if record.name == ACCESS_LOG:
            of_level[record.levelno].append(vars(record)["fields"]["status"])
    return of_level[logging.INFO], len(of_level[logging.DEBUG])


def test_paths_and_keys_are_not_logged(started: Started, lines: list[dict[str, Any]]) -> None:
    http = started[1]
    http.post("/generate", json={"task_id": "unheard-of", "inputs": SECRET})
    http.get(f"/{SECRET}")
    http.put("/v1/adapters/alpha", headers={"authorization": f"Bearer x{ADMIN_KEY}"})
    http.patch("/generate")
    wait_for(lambda: len(lines) == 4)
    assert [line["status"] for line in lines] == [404, 404, 401, 405]
    assert [line["task"] for line in lines] == ["unheard-of", "-", "-", "-"]
    assert [line["route"] for line in lines] == [
        "/generate", "<unmatched>", "/v1/adapters/{task_id:path}", "/generate"
    ]  # fmt: skip
    codes = ["unknown_task", "not_found", "unauthorized", "method_not_allowed"]
    assert [line["error"] for line in lines] == codes
