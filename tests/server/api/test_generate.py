"""POST /generate over a real connection, real loop and residency, and an engine that tells on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fakes import LIMITS
from serving import Site, connected, make_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"), allow_base="yes", max_inputs=8)


@pytest.fixture(scope="module")
def http(site: Site) -> Iterator[httpx.Client]:
    with connected(site) as http:
        site.first = site.publish("alpha")
        yield http


def test_x(http: httpx.Client, site: Site) -> None:
    answer = http.post("/generate", json={"task_id": "alpha", "inputs": "hello"})
    print(answer.status_code, answer.headers, answer.text)
    answer = http.post("/generate", json={"task_id": "alpha", "text": "hello"})
    print(answer.status_code, answer.headers, answer.text)
    for p in ("/livez", "/readyz", "/health", "/info", "/v1/adapters", "/v1/adapters/alpha", "/nope", "/openapi.json"):
        r = http.get(p)
        print(p, r.status_code, r.text[:600])
