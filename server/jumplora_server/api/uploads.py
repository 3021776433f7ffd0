"""An adapter file on its way from a request body to a temporary file in the store.

Counts and hashes while it writes; nothing of it is parsed here, and nothing is left behind.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from jumplora_adapters.atomic_file import temporary_path
from jumplora_adapters.store_files import locked
from jumplora_server.errors import AdapterRefused, AdapterTooLarge, InvalidInput

_CHUNK_BYTES = 1024 * 1024
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII | re.IGNORECASE)
_CONTENT_DIGEST = re.compile(r"\s*sha-256=:([A-Za-z0-9+/=]{44}):\s*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Upload:
    """A whole body on disk: `digest` is its SHA-256 in hex."""

    path: Path
    size: int
    digest: str


@asynccontextmanager
async def received(request: Request, folder: Path, max_bytes: int) -> AsyncGenerator[Upload]:
    """The body in a temporary file of `folder`, removed at the end.

    Raises AdapterTooLarge as soon as the limit is passed, InvalidInput for an encoded body, and
    AdapterRefused (digest) when it is not what `x-content-sha256` or `content-digest` promise.
    """
    _check_headers(request, max_bytes)
    expected = _promised_digest(request)
    path, file = await run_in_threadpool(_create, folder)
    try:
        size, digest = await _receive(request, file, max_bytes)
        if expected is not None and digest != expected:
            raise AdapterRefused(
                f"the body's SHA-256 is {digest}, the header says {expected}", reason="digest"
            )
        yield Upload(path, size, digest)
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _create(folder: Path) -> tuple[Path, BinaryIO]:
    folder.mkdir(parents=True, exist_ok=True)
    path = temporary_path(folder)
    with locked(folder):  # the lock on the file itself keeps the store's sweeps away from it
        file = path.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
    return path, file


async def _receive(request: Request, file: BinaryIO, max_bytes: int) -> tuple[int, str]:
    size = 0
    digest = hashlib.sha256()
    pending = bytearray()

    def write() -> None:
        digest.update(pending)
        file.write(pending)
        pending.clear()

    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(size, max_bytes)
        pending += chunk
        if len(pending) >= _CHUNK_BYTES:
            await run_in_threadpool(write)
    await run_in_threadpool(write)
    await run_in_threadpool(file.flush)
    return size, digest.hexdigest()


def _check_headers(request: Request, max_bytes: int) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise InvalidInput(
            f"content-encoding {encoding[:40]!a} is not allowed: send the file as it is"
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(int(declared), max_bytes)


def _promised_digest(request: Request) -> str | None:
    plain = request.headers.get("x-content-sha256")
    if plain is not None:
        if _HEX.fullmatch(plain) is None:
            raise InvalidInput("x-content-sha256: must be 64 hexadecimal digits")
        return plain.lower()
    structured = request.headers.get("content-digest")
    if structured is None:
        return None
    match = _CONTENT_DIGEST.fullmatch(structured)
    try:
        raw = base64.b64decode(match[1], validate=True) if match else b""
    except binascii.Error:
        raw = b""
    if len(raw) != hashlib.sha256().digest_size:
        raise InvalidInput("content-digest: must read sha-256=:<base64 of 32 bytes>:")
    return raw.hex()


def _too_large(size: int, max_bytes: int) -> AdapterTooLarge:
    return AdapterTooLarge(f"the file has {size} bytes or more; at most {max_bytes} are allowed")
