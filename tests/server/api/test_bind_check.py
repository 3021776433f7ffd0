"""What each bind answers, where changes and metrics have their own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import httpx
import pytest

from adapter_requests import ADMIN
from jumplora_server.access.keys import KEY_ID_DIGITS, hash_of
from jumplora_server.api import audit
from jumplora_server.api.audit import AUDIT_LOG
from jumplora_server.api.bind_check import (
    CHANGES_ARE_ELSEWHERE,
    METRICS_ARE_ELSEWHERE,
    ONLY_CHANGES,
    ONLY_METRICS,
    refusal_at,
)
from jumplora_server.api.middleware import ACCESS_LOG
from jumplora_server.binds import BindName
from serving import ADMIN_KEY, Site, listening_at, make_site, wait_for

SIDE = "127.0.0.1:0"
API_KEY = "api-key-of-tests"
EVERYWHERE = ["/livez", "/readyz", "/health", "/ping", "/v2/health/live", "/v2/health/ready"]
BOTH = ("admin", "metrics")


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[BindName, str]]:
    site = make_site(
        tmp_path_factory.mktemp("site"), api_keys=API_KEY, admin_bind=SIDE, metrics_bind=SIDE
    )
    with listening_at(site) as addresses:
        site.publish("alpha")
        yield addresses


@pytest.mark.parametrize(
    ("method", "path", "served"),
    [
        *[("GET", path, "main admin metrics") for path in EVERYWHERE],
        ("HEAD", "/livez", "main admin metrics"),
        ("GET", "/metrics", "metrics"),
        ("HEAD", "/metrics", "metrics"),
        ("PUT", "/v1/adapters/alpha", "admin"),
        ("DELETE", "/v1/adapters/alpha", "admin"),
        ("POST", "/v1/adapters/alpha/pin", "admin"),
        ("POST", "/v1/adapters/alpha/anything", "admin"),
        ("POST", "/v1/load_lora_adapter", "admin"),
        ("POST", "/v1/unload_lora_adapter", "admin"),
        ("GET", "/v1/adapters", "main admin"),
        ("GET", "/v1/adapters/alpha", "main admin"),
        ("OPTIONS", "/v1/adapters/alpha", "main admin"),
        ("GET", "/v1/overview", "main admin"),
        ("GET", "/info", "main admin"),
        ("GET", "/", "main admin"),
        ("GET", "/console/main.js", "main admin"),
        ("GET", "/docs", "main admin"),
        ("GET", "/openapi.json", "main admin"),
        ("POST", "/generate", "main admin"),
        ("POST", "/generate_stream", "main admin"),
        ("POST", "/", "main"),
        ("POST", "/v1/tasks/alpha/generate", "main"),
        ("POST", "/v1/completions", "main"),
        ("POST", "/v1/chat/completions", "main"),
        ("GET", "/v1/models", "main"),
        ("GET", "/v2", "main"),
        ("POST", "/v2/models/alpha/infer", "main"),
        ("POST", "/tokenize", "main"),
        ("GET", "/version", "main"),
        ("GET", "/anything", "main"),
        ("GET", "/v1/adaptersx", "main"),
        ("GET", "/metricsx", "main"),
    ],
)
@pytest.mark.parametrize("bind", ["main", "admin", "metrics"])
def test_what_is_served_where(bind: BindName, method: str, path: str, served: str) -> None:
    assert (refusal_at(bind, method, path, BOTH) is None) is (bind in served.split())


@pytest.mark.parametrize("path", ["/v1/adapters/a", "/metrics", "/generate", "/anything"])
def test_one_bind_alone_leaves_the_rest_at_the_main_one(path: str) -> None:
    for method in ("GET", "PUT"):
        is_change = method == "PUT" and path == "/v1/adapters/a"
        assert (refusal_at("main", method, path, ["admin"]) is None) is not is_change
        assert (refusal_at("main", method, path, ["metrics"]) is None) is (path != "/metrics")
    assert refusal_at("admin", "GET", "/metrics", ["admin"]) == ONLY_CHANGES


@pytest.mark.parametrize(
    ("bind", "method", "path", "text"),
    [
        ("main", "DELETE", "/v1/adapters/alpha", CHANGES_ARE_ELSEWHERE),
        ("main", "POST", "/v1/unload_lora_adapter", CHANGES_ARE_ELSEWHERE),
        ("main", "GET", "/metrics", METRICS_ARE_ELSEWHERE),
        ("admin", "GET", "/metrics", METRICS_ARE_ELSEWHERE),
        ("admin", "POST", "/v1/completions", ONLY_CHANGES),
        ("metrics", "GET", "/v1/adapters", ONLY_METRICS),
        ("metrics", "GET", "/", ONLY_METRICS),
    ],
)
@pytest.mark.parametrize("headers", [{}, ADMIN, {"authorization": "Bearer wrong"}])
def test_a_refusal_is_the_same_for_every_key(
    addresses: Mapping[BindName, str],
    bind: BindName,
    method: str,
    path: str,
    text: str,
    headers: dict[str, str],
) -> None:
    answer = httpx.request(method, addresses[bind] + path, headers=headers)
    assert answer.status_code == 403
    assert text in answer.text
    for address in addresses.values():
        assert address.rpartition(":")[2] not in answer.text


@pytest.mark.parametrize(
    ("key", "named"), [(ADMIN_KEY, ADMIN_KEY), (API_KEY, API_KEY), ("wrong", None), (None, None)]
)
def test_the_logs_say_whose_key_was_at_the_wrong_bind(
    addresses: Mapping[BindName, str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    named: str | None,
) -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    monkeypatch.setattr(audit, "REFUSED_LINES", 1_000_000)
    with caplog.at_level(logging.INFO):
        answer = httpx.delete(addresses["main"] + "/v1/adapters/alpha", headers=headers)
        assert answer.status_code == 403
        request_id = answer.headers["x-request-id"]

        def written() -> dict[str, dict[str, object]]:
            each = [(r.name, getattr(r, "fields", {})) for r in [*caplog.records]]
            return {name: f for name, f in each if f.get("request_id") == request_id}

        wait_for(lambda: AUDIT_LOG in written())
    lines = written()
    assert lines.keys() == {ACCESS_LOG, AUDIT_LOG}
    assert {line["key"] for line in lines.values()} == {
        "-" if named is None else hash_of(named)[:KEY_ID_DIGITS]
    }
    told = [lines[AUDIT_LOG][name] for name in ("action", "task", "outcome", "error")]
    assert told == ["remove_adapter", "alpha", "refused", "forbidden"]


def test_changes_are_made_at_the_admin_bind_and_seen_at_the_main_one(
    addresses: Mapping[BindName, str],
) -> None:
    pin = "/v1/adapters/alpha/pin"
    assert httpx.post(addresses["admin"] + pin).status_code == 401
    api = {"authorization": f"Bearer {API_KEY}"}
    assert httpx.post(addresses["admin"] + pin, headers=api).status_code == 403
    assert httpx.post(addresses["admin"] + pin, headers=ADMIN).status_code == 200
    shown = httpx.get(addresses["main"] + "/v1/adapters/alpha", headers=api)
    assert shown.json()["pinned"]


def test_metrics_keep_their_key_at_their_own_bind(addresses: Mapping[BindName, str]) -> None:
    assert httpx.get(addresses["metrics"] + "/metrics").status_code == 401
    api = {"authorization": f"Bearer {API_KEY}"}
    answer = httpx.get(addresses["metrics"] + "/metrics", headers=api)
    assert answer.status_code == 200
    assert "jumplora_build_info" in answer.text


def test_open_metrics_are_open_at_their_bind_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    site: Site = make_site(
        tmp_path_factory.mktemp("open"), api_keys=API_KEY, metrics_bind=SIDE, open_metrics="yes"
    )
    with listening_at(site) as addresses:
        assert httpx.get(addresses["metrics"] + "/metrics").status_code == 200
        assert httpx.get(addresses["main"] + "/metrics").status_code == 403
        assert httpx.get(addresses["metrics"] + "/readyz").status_code == 200
