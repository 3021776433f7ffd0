"""A request body on its way to the store's folder: counted, hashed, gone afterwards."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from factories import toy_backbone
from jumplora_adapters.errors import FormatError
from jumplora_adapters.store import Store
from jumplora_server.api.uploads import received
from jumplora_server.errors import AdapterTooLarge, InvalidInput
from jumplora_server.publishing import Publishing
from jumplora_server.residency.status import TaskStatus

BODY = bytes(range(256)) * 9000  # more than two of the chunks that are written at once
BACKBONE = toy_backbone()
SHA256 = hashlib.sha256(BODY).hexdigest()


class Nobody:
    """A registry that is not asked."""

    def sync(self, task: str) -> Future[TaskStatus]:
        raise NotImplementedError

    def forget(self, task: str) -> None:
        raise NotImplementedError


def request(chunks: Iterator[dict[str, Any]], **headers: str) -> Request:
    async def receive() -> dict[str, Any]:
        return next(chunks)

    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return Request({"type": "http", "method": "PUT", "path": "/", "headers": raw}, receive)


def body(data: bytes, size: int = 65_536) -> Iterator[dict[str, Any]]:
    for start in range(0, len(data), size):
        yield {
            "type": "http.request",
            "body": data[start : start + size],
            "more_body": start + size < len(data),
        }


async def _upload(folder: Path, sent: Request, limit: int) -> tuple[bytes, int, str]:
    store = Store(folder)
    store.prepare()
    publishing = Publishing(store, BACKBONE, Nobody(), load_seconds=1)
    async with received(sent, publishing, limit) as upload:
        Store(folder).sweep()  # must leave it alone
        return upload.path.read_bytes(), upload.size, upload.digest


def upload(folder: Path, sent: Request, limit: int = 1 << 22) -> tuple[bytes, int, str]:
    try:
        return asyncio.run(_upload(folder, sent, limit))
    finally:
        assert [path.name for path in folder.iterdir() if path.name != ".lock"] == []


def test_the_whole_body_arrives(tmp_path: Path) -> None:
    assert upload(tmp_path, request(body(BODY))) == (BODY, len(BODY), SHA256)


@pytest.mark.parametrize(
    "headers",
    [
        {"x_content_sha256": SHA256},
        {"x_content_sha256": SHA256.upper()},
        {"content_digest": f"sha-256=:{base64.b64encode(bytes.fromhex(SHA256)).decode()}:"},
    ],
    ids=["hex", "upper case", "RFC 9530"],
)
def test_a_promise_that_is_kept(tmp_path: Path, headers: dict[str, str]) -> None:
    assert upload(tmp_path, request(body(BODY), **headers))[2] == SHA256


def test_a_promise_that_is_not(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=SHA256) as caught:
        upload(tmp_path, request(body(BODY), x_content_sha256="0" * 64))
    assert caught.value.code == "digest"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x_content_sha256", "abc"),
        ("content_digest", "sha-256=abc"),
        ("content_digest", "sha-256=:" + "!" * 44 + ":"),
        ("content_digest", "md5=:" + "A" * 44 + ":"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=name.replace("_", "-")):
        upload(tmp_path, request(body(BODY), **{name: value}))


def test_too_large_by_its_own_word(tmp_path: Path) -> None:
    with pytest.raises(AdapterTooLarge, match="at most 1000"):
        upload(tmp_path, request(iter(()), content_length="1001"), limit=1000)


def test_too_large_without_a_word(tmp_path: Path) -> None:
    chunks = body(BODY, 600)
    with pytest.raises(AdapterTooLarge, match="1200 bytes or more; at most 1000"):
        upload(tmp_path, request(chunks), limit=1000)
    assert next(chunks)  # nothing was read beyond the limit


def test_a_client_that_goes_away(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield {"type": "http.request", "body": b"half", "more_body": True}
        yield {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        upload(tmp_path, request(broken()))
