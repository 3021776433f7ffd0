"""Which key opens what."""

from __future__ import annotations

import asyncio
import hashlib
from typing import get_args

import httpx
import pytest

from jumplora_server.access.caller import ADMIN_SCOPES, API_SCOPES, Caller
from jumplora_server.api.middleware import (
    LORA_PATHS,
    PUBLIC_PATHS,
    Access,
    KeyCheck,
    needed_access,
)
from jumplora_server.errors import Forbidden, Unauthorized
from serving import ADMIN_KEY, Site, connected, make_site, wait_for


async def nothing(*_: object) -> None: ...


def check(needed: Access, header: str | None, *, admin: str = "", api: str = "") -> str:
    def hashes(keys: str) -> list[str]:
        return [hashlib.sha256(key.encode()).hexdigest() for key in keys.split()]

    gate = KeyCheck(nothing, admin_hashes=hashes(admin), api_hashes=hashes(api))
    try:
        gate.admit(needed, header)
    except (Unauthorized, Forbidden) as refusal:
        return str(refusal.status)
    return "ok"


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/livez", "public"),
        ("GET", "/readyz", "public"),
        ("GET", "/health", "public"),
        ("GET", "/ping", "public"),
        ("HEAD", "/ping", "public"),
        ("GET", "/docs", "public"),
        ("HEAD", "/docs", "public"),
        ("GET", "/docs/swagger-ui.css", "public"),
        ("GET", "/openapi.json", "public"),
        ("POST", "/openapi.json", "api"),
        ("GET", "/docsx", "api"),
        ("GET", "/", "public"),
        ("POST", "/", "api"),
        ("GET", "/console/main.js", "public"),
        ("GET", "/console", "api"),
        ("GET", "/v2/health/live", "public"),
        ("GET", "/v2/health/ready", "public"),
        ("GET", "/v2", "api"),
        ("GET", "/v2/models/a/ready", "api"),
        ("POST", "/v2/models/a/infer", "api"),
        ("GET", "/version", "api"),
        ("POST", "/tokenize", "api"),
        ("GET", "/v1/models", "api"),
        ("POST", "/v1/load_lora_adapter", "admin"),
        ("POST", "/v1/unload_lora_adapter", "admin"),
        ("GET", "/v1/load_lora_adapter", "api"),
        ("GET", "/metrics", "api"),
        ("POST", "/generate", "api"),
        ("POST", "/v1/tasks/a/generate", "api"),
        ("GET", "/v1/adapters", "api"),
        ("GET", "/v1/adapters/a", "api"),
        ("PUT", "/v1/adapters/a", "admin"),
        ("DELETE", "/v1/adapters/a", "admin"),
        ("POST", "/v1/adapters/a/rollback", "admin"),
        ("PATCH", "/v1/adapters", "admin"),
        ("GET", "/anything/else", "api"),
        ("GET", "/livez/", "api"),
    ],
)
def test_needed_access(method: str, path: str, needed: Access) -> None:
    assert needed_access(method, path) == needed
    assert needed in get_args(Access)


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/v1/models", "public"),
        ("HEAD", "/v1/models", "public"),
        ("GET", "/v1/models/a", "public"),
        ("POST", "/v1/models", "api"),
        ("GET", "/v1/modelsx", "api"),
        ("GET", "/v1/adapters", "api"),
        ("POST", "/v1/completions", "api"),
        ("POST", "/v1/load_lora_adapter", "admin"),
    ],
)
def test_open_models_open_nothing_else(method: str, path: str, needed: Access) -> None:
    assert needed_access(method, path, opened={"/v1/models"}) == needed


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/metrics", "public"),
        ("HEAD", "/metrics", "public"),
        ("POST", "/metrics", "api"),
        ("GET", "/metricsx", "api"),
        ("GET", "/v1/models", "api"),
        ("GET", "/v1/overview", "api"),
        ("GET", "/v1/adapters", "api"),
        ("PUT", "/v1/adapters/a", "admin"),
    ],
)
def test_open_metrics_open_nothing_else(method: str, path: str, needed: Access) -> None:
    assert needed_access(method, path, opened={"/metrics"}) == needed


NO_KEYS: dict[str, str] = {}
ADMIN_ONLY = {"admin": "root-key"}
BOTH = {"admin": "root-key", "api": "one two"}
API_ONLY = {"api": "one"}


@pytest.mark.parametrize(
    ("keys", "needed", "header", "answer"),
    [
        (NO_KEYS, "public", None, "ok"),
        (NO_KEYS, "api", None, "ok"),
        (NO_KEYS, "api", "Bearer whatever", "ok"),
        (NO_KEYS, "admin", None, "403"),
        (NO_KEYS, "admin", "Bearer whatever", "403"),
        (ADMIN_ONLY, "api", None, "ok"),
        (ADMIN_ONLY, "admin", None, "401"),
        (ADMIN_ONLY, "admin", "Bearer wrong", "401"),
        (ADMIN_ONLY, "admin", "Bearer root-key", "ok"),
        (ADMIN_ONLY, "admin", "bearer root-key", "ok"),
        (ADMIN_ONLY, "admin", "Basic root-key", "401"),
        (ADMIN_ONLY, "admin", "Bearer ", "401"),
        (BOTH, "public", None, "ok"),
        (BOTH, "api", None, "401"),
        (BOTH, "api", "Bearer two", "ok"),
        (BOTH, "api", "Bearer root-key", "ok"),
        (BOTH, "api", "Bearer three", "401"),
        (BOTH, "admin", "Bearer two", "403"),
        (API_ONLY, "api", "Bearer one", "ok"),
        (API_ONLY, "admin", "Bearer one", "403"),
    ],
)
def test_keys(keys: dict[str, str], needed: Access, header: str | None, answer: str) -> None:
    assert check(needed, header, **keys) == answer


# On the whole app


def test_every_route_needs_a_key_when_keys_are_configured(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    site = make_site(tmp_path_factory.mktemp("keys"), api_keys="api-key-of-tests")

    async def walk() -> dict[tuple[str, str], list[int]]:
        transport = httpx.ASGITransport(site.app)
        statuses = {}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            for path, methods in routes(site).items():
                for method in methods:
                    url = path.replace("{task_id:path}", "alpha")
                    statuses[method, path] = [
                        (await http.request(method, url, headers=headers)).status_code
                        for headers in ({}, {"authorization": "Bearer nonsense-key"})
                    ]
        return statuses

    statuses = asyncio.run(walk())
    assert len(statuses) > 12
    assert {path for _, path in statuses} >= PUBLIC_PATHS
    for (method, path), answers in statuses.items():
        if path in PAGES:
            assert answers == [200, 200], (method, path)
        elif path not in PUBLIC_PATHS:
            assert answers == [401, 401], (method, path)


def test_writing_needs_the_admin_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    site = make_site(tmp_path_factory.mktemp("keys"), api_keys="api-key-of-tests")
    with connected(site) as http:
        api = {"authorization": "Bearer api-key-of-tests"}
        for path, methods in routes(site).items():
            for method in set(methods) - {"GET", "HEAD"}:
                if path.startswith("/v1/adapters") or path in LORA_PATHS:
                    url = path.replace("{task_id:path}", "alpha")
                    assert http.request(method, url, headers=api).status_code == 403, path
        admin = {"authorization": f"Bearer {ADMIN_KEY}"}
        assert http.delete("/v1/adapters/alpha", headers=admin).status_code == 404
        body = {"task_id": "alpha", "inputs": "x"}
        assert http.post("/generate", json=body).status_code == 401
        assert http.post("/v2/models/alpha/infer", json=body).status_code == 401
        assert http.post("/generate", json=body, headers=api).status_code == 404
        told = {"client_auth": 2, "client_unknown_task": 1}
        wait_for(lambda: site.outcomes("_unknown") == told)


@pytest.mark.parametrize("setting", ["yes", "no"])
def test_a_gateway_lists_models_without_a_key_where_it_may(
    tmp_path_factory: pytest.TempPathFactory, setting: str
) -> None:
    site = make_site(
        tmp_path_factory.mktemp("keys"), api_keys="api-key-of-tests", open_models=setting
    )
    with connected(site) as http:
        site.publish("alpha")
        for path in ("/v1/models", "/v1/models/alpha"):
            assert http.get(path).status_code == (200 if setting == "yes" else 401)
        body = {"model": "alpha", "prompt": "x"}
        assert http.post("/v1/completions", json=body).status_code == 401


@pytest.mark.parametrize("setting", ["yes", "no"])
def test_a_scraper_reads_metrics_without_a_key_where_it_may(
    tmp_path_factory: pytest.TempPathFactory, setting: str
) -> None:
    site = make_site(
        tmp_path_factory.mktemp("keys"), api_keys="api-key-of-tests", open_metrics=setting
    )
    with connected(site) as http:
        answers = [http.get("/metrics"), http.head("/metrics")]
        assert [a.status_code for a in answers] == [200 if setting == "yes" else 401] * 2
        assert http.get("/metrics", headers={"authorization": "Bearer wrong"}).status_code == (
            200 if setting == "yes" else 401
        )
        for path in ("/v1/models", "/v1/overview", "/info"):
            assert http.get(path).status_code == 401


PAGES = ("/docs", "/docs/start.js", "/openapi.json")


def routes(site: Site) -> dict[str, list[str]]:
    paths = site.app.openapi()["paths"]
    found = {p: [m.upper() for m in methods] for p, methods in paths.items()}
    return {p.replace("{task_id}", "{task_id:path}"): m for p, m in found.items()} | {
        **{page: ["GET"] for page in PAGES},
        "/nothing/here": ["GET", "POST"],
    }


def test_a_caller_is_the_beginning_of_its_key() -> None:
    digests = {key: hashlib.sha256(key.encode()).hexdigest() for key in ("root-key", "one")}
    gate = KeyCheck(nothing, admin_hashes=[digests["root-key"]], api_hashes=[digests["one"]])
    assert gate.admit("api", "Bearer one") == Caller(digests["one"][:12], API_SCOPES)
    admin = gate.admit("admin", "Bearer root-key")
    assert admin == Caller(digests["root-key"][:12], ADMIN_SCOPES)
    assert gate.admit("public", "Bearer wrong") == Caller()


def test_an_open_server_knows_an_admin_who_reads_and_ignores_other_keys() -> None:
    digest = hashlib.sha256(b"root-key").hexdigest()
    gate = KeyCheck(nothing, admin_hashes=[digest], api_hashes=[])
    admin = Caller(digest[:12], ADMIN_SCOPES)
    assert gate.admit("api", "Bearer root-key") == gate.admit("admin", "Bearer root-key") == admin
    for header in (None, "", "Bearer", "Bearer ", "Bearer sk-nothing", "Basic root-key"):
        assert gate.admit("api", header) == Caller()
