"""The real app behind the HTTP server's limits."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from jumplora_server.api.health import PROBES
from raw_http import RawClient
from serving import Site, listening, make_site, slow_down, wait_for

CAP = 16
TRICKLE = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(
        tmp_path_factory.mktemp("site"), max_connections=CAP, transfer_timeout=0.5, docs="off"
    )


@pytest.fixture(scope="module")
def port(site: Site) -> Iterator[int]:
    with listening(site) as address:
        site.publish("alpha")
        yield httpx.URL(address).port or 0


def test_probes_are_answered_where_others_hold_all_connections(site: Site, port: int) -> None:
    with ExitStack() as held:
        clients = [held.enter_context(RawClient(port, TRICKLE)) for _ in range(CAP)]
        wait_for(lambda: site.metric("jumplora_http_connections") >= CAP)
        for path in sorted(PROBES):
            get = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
            with RawClient(port, get) as probe:
                assert probe.answer().status == 200, path
        for client in clients:  # they are told in the form of all errors, with a request id
            answer = client.answer()
            assert answer.error[:2] == (408, "request_timeout")
            assert answer.fields["x-request-id"]
            assert answer.fields["connection"] == "close"
    assert site.metric("jumplora_http_refused_total", reason="body_timeout") >= CAP
    wait_for(lambda: site.metric("jumplora_http_connections") == 0)


def test_a_malformed_body_is_told_with_a_request_id(port: int) -> None:
    head = (
        b"POST /generate HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\n"
        b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    )
    with RawClient(port, head) as client:
        answer = client.answer()
    assert answer.error[:2] == (400, "bad_request")
    assert "'zz'" in answer.error[2]
    assert answer.fields["x-request-id"] == "mine"


def test_a_hang_up_ends_the_request_without_a_line_in_the_log(
    site: Site, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"task_id": "alpha", "inputs": "x" * 20}).encode()
    head = (
        "POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    before = site.outcomes("alpha").get("client_disconnect", 0)
    with slow_down(site):
        with RawClient(port, head.encode() + body):
            wait_for(lambda: site.metric("jumplora_requests_in_flight", task_id="alpha") == 1)
        wait_for(lambda: site.outcomes("alpha").get("client_disconnect", 0) == before + 1)
    wait_for(lambda: site.metric("jumplora_http_connections") == 0)
    gc.collect()  # asyncio complains of what is lost when it is collected
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_options_of_everything(port: int) -> None:
    with RawClient(port, b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n") as client:
        answer = client.answer()
    assert (answer.status, answer.body) == (204, b"")
    assert "HEAD" in answer.fields["allow"]


def test_a_request_by_its_whole_address(port: int) -> None:
    body = json.dumps({"task_id": "alpha", "inputs": "hi"}).encode()
    head = (
        "POST http://any.host:80/generate HTTP/1.1\r\nhost: x\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with RawClient(port, head.encode() + body) as client:
        assert client.answer().status == 200
