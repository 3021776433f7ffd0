"""HEAD, OPTIONS, 405 and the types of bodies, on every route."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from jumplora_server.api.health import PROBES
from raw_http import RawClient
from serving import ADMIN_KEY, Site, connected, make_site, wait_for

GET_PATHS = [
    *sorted(PROBES), "/", "/v1/adapters", "/v1/adapters/alpha", "/v1/adapters/unknown", "/v2",
    "/v2/models/alpha", "/v2/models/unknown/ready", "/version", "/docs", "/openapi.json",
    "/nowhere",
]  # fmt: skip
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def http(site: Site) -> Iterator[httpx.Client]:
    with connected(site) as http:
        site.publish("alpha")
        yield http


@pytest.mark.parametrize("path", GET_PATHS)
def test_head_is_get_without_the_body(http: httpx.Client, path: str) -> None:
    got, head = http.get(path), http.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    varying = {"date", "x-request-id"} | ({"content-length"} if path == "/metrics" else set())
    assert {k: v for k, v in head.headers.items() if k not in varying} == {
        k: v for k, v in got.headers.items() if k not in varying
    }


@pytest.mark.parametrize("path", sorted(PROBES))
def test_a_balancer_may_ask_by_head(http: httpx.Client, path: str) -> None:
    assert http.head(path).status_code == 200


def test_only_what_asks_to_generate_is_counted(http: httpx.Client, site: Site) -> None:
    for path in ("/", "/generate", "/v1/chat/completions", "/v2/models/alpha/infer"):
        for method in ("GET", "HEAD", "OPTIONS", "PUT"):
            http.request(method, path)
        http.post(path, content=b"{")
    wait_for(lambda: sum(site.outcomes("_unknown").values()) >= 4)
    assert site.outcomes("_unknown") == {"client_invalid": 4}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("HEAD", "/generate", {"POST"}),
        ("PUT", "/", {"GET", "HEAD", "POST"}),
        ("POST", "/ping", {"GET", "HEAD"}),
        ("POST", "/livez", {"GET", "HEAD"}),
        ("TRACE", "/info", {"GET", "HEAD"}),
        ("FOO", "/docs", {"GET", "HEAD"}),
        ("PATCH", "/v1/adapters/alpha", {"GET", "HEAD", "PUT", "DELETE"}),
    ],
)
def test_405_says_what_is_allowed(
    http: httpx.Client, method: str, path: str, allowed: set[str]
) -> None:
    answer = http.request(method, path, headers=ADMIN)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == allowed
    if method != "HEAD":
        assert answer.json()["error_type"] == "method_not_allowed"


def test_options_says_what_is_allowed(http: httpx.Client) -> None:
    answer = http.options("/v1/adapters/alpha")
    assert (answer.status_code, answer.content) == (204, b"")
    allowed = set(answer.headers["allow"].split(", "))
    assert allowed == {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}
    assert http.options("/nowhere").status_code == 404


READING = [
    ("POST", "/"),
    ("POST", "/generate"),
    ("POST", "/generate_stream"),
    ("POST", "/v1/tasks/alpha/generate"),
    ("POST", "/v1/adapters/alpha/rollback"),
    ("POST", "/v1/adapters/alpha/pin"),
    ("PUT", "/v1/adapters/alpha"),
]


@pytest.mark.parametrize(("method", "path"), READING)
@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x" * 100])
def test_an_encoded_body_is_415(http: httpx.Client, method: str, path: str, coding: str) -> None:
    headers = {"content-encoding": coding, "content-type": "application/json", **ADMIN}
    answer = http.request(method, path, content=b"\x1f\x8b", headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (415, "unsupported_media_type")
    assert coding[:40] in answer.json()["error"]
    assert answer.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(("method", "path"), READING)
def test_a_large_encoded_body_is_415_before_it_is_413(
    http: httpx.Client, method: str, path: str
) -> None:
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: {ADMIN['authorization']}\r\n"
        "content-type: application/json\r\ncontent-encoding: gzip\r\n"
        f"content-length: {10**12}\r\n\r\n"
    )
    with RawClient(http.base_url.port or 0, head.encode()) as client:
        assert client.answer().error[:2] == (415, "unsupported_media_type")


@pytest.mark.parametrize("charset", ["latin-1", "UTF-16", '"utf-7"'])
def test_another_charset_is_415(http: httpx.Client, charset: str) -> None:
    headers = {"content-type": f"application/json; charset={charset}"}
    answer = http.post("/generate", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (415, "unsupported_media_type")
    assert charset.strip('"') in answer.json()["error"]


@pytest.mark.parametrize("coding", ["Identity", ""])
@pytest.mark.parametrize("content_type", ["application/json; charset=UTF-8", "application/json"])
def test_what_is_allowed(http: httpx.Client, content_type: str, coding: str) -> None:
    headers = {"content-type": content_type, "content-encoding": coding}
    body = b'{"task_id": "alpha", "inputs": "hi"}'
    assert http.post("/generate", content=body, headers=headers).status_code == 200
