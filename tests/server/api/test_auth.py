"""Which key opens what."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from typing import get_args

import httpx
import pytest
from starlette.routing import BaseRoute, Route

from jumplora_server.access.caller import ADMIN_SCOPES, API_SCOPES, Caller
from jumplora_server.access.gate import Refusal, admitted
from jumplora_server.access.keyring import Keyring
from jumplora_server.access.keys import environment_keys, hash_of
from jumplora_server.access.needs import LORA_PATHS, PUBLIC_PATHS, Need, needed_access
from serving import ADMIN_KEY, Site, connected, make_site, wait_for


def keyring_of(*, admin: str = "", api: str = "") -> Keyring:
    keys = environment_keys(map(hash_of, admin.split()), map(hash_of, api.split()))
    return Keyring(keys, is_open=not api)


def check(needed: Need, header: str | None, *, admin: str = "", api: str = "") -> str:
    found = admitted(keyring_of(admin=admin, api=api), needed, header, now=0.0)
    return str(found.error.status) if isinstance(found, Refusal) else "ok"


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
        ("POST", "/openapi.json", None),
        ("GET", "/docsx", None),
        ("GET", "/", "public"),
        ("POST", "/", "infer"),
        ("GET", "/console/main.js", "public"),
        ("GET", "/console", None),
        ("GET", "/v2/health/live", "public"),
        ("GET", "/v2/health/ready", "public"),
        ("GET", "/v2", "look"),
        ("GET", "/v2/models/a/ready", "look"),
        ("POST", "/v2/models/a/infer", "infer"),
        ("GET", "/version", "look"),
        ("GET", "/info", "look"),
        ("POST", "/tokenize", "infer"),
        ("GET", "/v1/models", "look"),
        ("GET", "/v1/models/a", "look"),
        ("POST", "/v1/load_lora_adapter", "admin"),
        ("POST", "/v1/unload_lora_adapter", "admin"),
        ("GET", "/v1/load_lora_adapter", None),
        ("GET", "/metrics", "metrics"),
        ("POST", "/generate", "infer"),
        ("POST", "/v1/tasks/a/generate", "infer"),
        ("GET", "/v1/overview", "read"),
        ("GET", "/v1/adapters", "read"),
        ("HEAD", "/v1/adapters", "read"),
        ("GET", "/v1/adapters/a", "read"),
        ("PUT", "/v1/adapters/a", "admin"),
        ("DELETE", "/v1/adapters/a", "admin"),
        ("POST", "/v1/adapters/a/rollback", "admin"),
        ("PATCH", "/v1/adapters", "admin"),
        ("GET", "/anything/else", None),
        ("OPTIONS", "/v1/adapters", "read"),
        ("OPTIONS", "/", "public"),
        ("OPTIONS", "/generate", None),
        ("POST", "/livez", "public"),
        ("GET", "/livez/", None),
    ],
)
def test_needed_access(method: str, path: str, needed: Need | None) -> None:
    assert needed_access(method, path) == needed
    assert needed is None or needed in get_args(Need)


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/v1/models", "public"),
        ("HEAD", "/v1/models", "public"),
        ("GET", "/v1/models/a", "public"),
        ("POST", "/v1/models", None),
        ("GET", "/v1/modelsx", None),
        ("GET", "/v1/adapters", "read"),
        ("POST", "/v1/completions", "infer"),
        ("POST", "/v1/load_lora_adapter", "admin"),
    ],
)
def test_open_models_open_nothing_else(method: str, path: str, needed: Need | None) -> None:
    assert needed_access(method, path, opened={"/v1/models"}) == needed


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/metrics", "public"),
        ("HEAD", "/metrics", "public"),
        ("POST", "/metrics", None),
        ("GET", "/metricsx", None),
        ("GET", "/v1/models", "look"),
        ("GET", "/v1/overview", "read"),
        ("GET", "/v1/adapters", "read"),
        ("PUT", "/v1/adapters/a", "admin"),
    ],
)
def test_open_metrics_open_nothing_else(method: str, path: str, needed: Need | None) -> None:
    assert needed_access(method, path, opened={"/metrics"}) == needed


NO_KEYS: dict[str, str] = {}
ADMIN_ONLY = {"admin": "root-key"}
BOTH = {"admin": "root-key", "api": "one two"}
API_ONLY = {"api": "one"}


@pytest.mark.parametrize(
    ("keys", "needed", "header", "answer"),
    [
        (NO_KEYS, "public", None, "ok"),
        (NO_KEYS, "infer", None, "ok"),
        (NO_KEYS, "infer", "Bearer whatever", "ok"),
        (NO_KEYS, "admin", None, "403"),
        (NO_KEYS, "admin", "Bearer whatever", "403"),
        (ADMIN_ONLY, "infer", None, "ok"),
        (ADMIN_ONLY, "admin", None, "401"),
        (ADMIN_ONLY, "admin", "Bearer wrong", "401"),
        (ADMIN_ONLY, "admin", "Bearer root-key", "ok"),
        (ADMIN_ONLY, "admin", "bearer root-key", "ok"),
        (ADMIN_ONLY, "admin", "Basic root-key", "401"),
        (ADMIN_ONLY, "admin", "Bearer ", "401"),
        (BOTH, "public", None, "ok"),
        (BOTH, "infer", None, "401"),
        (BOTH, "infer", "Bearer two", "ok"),
        (BOTH, "infer", "Bearer root-key", "ok"),
        (BOTH, "infer", "Bearer three", "401"),
        (BOTH, "admin", "Bearer two", "403"),
        (API_ONLY, "infer", "Bearer one", "ok"),
        (API_ONLY, "admin", "Bearer one", "403"),
    ],
)
def test_keys(keys: dict[str, str], needed: Need, header: str | None, answer: str) -> None:
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


def each_route(routes: Iterable[BaseRoute]) -> Iterator[Route]:
    for route in routes:
        if isinstance(route, Route):
            yield route
        else:  # a router that was included
            yield from each_route(route.original_router.routes)  # type: ignore[attr-defined]


def test_the_table_has_every_route(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of those that no document names, too; one that it lacks would be open to no key."""
    app = make_site(tmp_path_factory.mktemp("site")).app
    found = {
        (method, re.sub(r"\{[^}]+\}", "x", route.path))
        for route in each_route(app.router.routes)
        for method in route.methods or ()
    }
    assert len(found) > 40
    assert {("GET", "/v1/overview"), ("GET", "/docs"), ("POST", "/v1/completions")} <= found
    assert [each for each in sorted(found) if needed_access(*each) is None] == []


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
    keyring = keyring_of(admin="root-key", api="one")
    assert admitted(keyring, "read", "Bearer one", 0.0) == Caller(hash_of("one")[:12], API_SCOPES)
    admin = admitted(keyring, "admin", "Bearer root-key", 0.0)
    assert admin == Caller(hash_of("root-key")[:12], ADMIN_SCOPES)
    assert admitted(keyring, "public", "Bearer wrong", 0.0) == Caller()


def test_an_open_server_knows_an_admin_who_reads_and_ignores_other_keys() -> None:
    keyring = keyring_of(admin="root-key")
    admin = Caller(hash_of("root-key")[:12], ADMIN_SCOPES)
    for needed in ("read", "admin"):
        assert admitted(keyring, needed, "Bearer root-key", 0.0) == admin
    for header in (None, "", "Bearer", "Bearer ", "Bearer sk-nothing", "Basic root-key"):
        assert admitted(keyring, "infer", header, 0.0) == Caller()


def test_a_key_in_both_variables_is_an_admins() -> None:
    keys = [*environment_keys([hash_of("a")], [hash_of("a"), hash_of("b"), hash_of("b")])]
    assert [(key.id, key.scopes) for key in keys] == [
        (hash_of("a")[:12], ADMIN_SCOPES),
        (hash_of("b")[:12], API_SCOPES),
    ]
