"""A file on its way from a request body into the store's folder.

Only its first bytes are looked at here, and nothing is left behind.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

from starlette.requests import Request

from jumplora_adapters.errors import FormatError
from jumplora_adapters.file_kind import ArchiveKind, kind_of
from jumplora_adapters.incoming import Incoming
from jumplora_server.api.ask import record_of
from jumplora_server.api.middleware import check_type
from jumplora_server.errors import AdapterTooLarge, InvalidInput
from jumplora_server.publishing import Publishing

# The media types that name an archive, each with what its bytes must be.
ARCHIVE_TYPES: Mapping[str, ArchiveKind] = MappingProxyType(
    {
        "application/zip": "zip",
        "application/x-tar": "tar",
        "application/gzip": "gzip",
    }
)
_OTHER_NAMES: Mapping[str, ArchiveKind] = MappingProxyType(
    {
        "application/x-zip-compressed": "zip",
        "application/tar": "tar",
        "application/x-gzip": "gzip",
        "application/tar+gzip": "gzip",
        "application/x-gtar-compressed": "gzip",
    }
)
_CHUNK_BYTES = 1024 * 1024
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII | re.IGNORECASE)
_CONTENT_DIGEST = re.compile(r"\s*sha-256=:([A-Za-z0-9+/=]{44}):\s*", re.ASCII | re.IGNORECASE)


@asynccontextmanager
async def received(
    request: Request, publishing: Publishing, max_bytes: int
) -> AsyncGenerator[Incoming]:
    """The body as a finished file of the store; gone at the end unless it was published.

    Raises AdapterTooLarge as soon as the limit is passed, FormatError (digest) when it is not what
    `x-content-sha256` or `content-digest` promise, InvalidInput when it is not of the kind that
    `content-type` says, WrongFile, and the store's errors.
    """
    check_type(request.headers)  # before its length, as for all other bodies
    _check_length(request, max_bytes)
    expected = _promised_digest(request)
    async with publishing.incoming() as incoming:
        digest = await _receive(request, publishing, incoming, max_bytes)
        if expected is not None and digest != expected:
            raise FormatError(
                f"the body's SHA-256 is {digest}, the header says {expected}", code="digest"
            )
        if (change := record_of(request.scope).change) is not None:
            change.version = digest
        _check_kind(request, incoming.head)
        yield incoming


async def _receive(
    request: Request, publishing: Publishing, incoming: Incoming, max_bytes: int
) -> str:
    size = 0
    pending = bytearray()
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(size, max_bytes)
        pending += chunk
        if len(pending) >= _CHUNK_BYTES:
            await publishing.write(incoming, pending)
            pending = bytearray()
    await publishing.write(incoming, pending)
    return await publishing.finish(incoming)


def _check_kind(request: Request, head: bytes) -> None:
    """Refuse a content-type that says another kind of file than the bytes do."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given.startswith("multipart/"):
        raise InvalidInput(
            "content-type: a form was sent; send the file itself as the body, as "
            "`curl --upload-file FILE` does"
        )
    promised = ARCHIVE_TYPES.get(given) or _OTHER_NAMES.get(given)
    if promised is None:
        return
    found = kind_of(head)
    if found != promised:
        is_known = found != "adapter"
        raise InvalidInput(
            f"content-type is {given}, and the bytes are {'a ' + found if is_known else 'not'}: "
            "send the type that the file has, or application/octet-stream"
        )


def _check_length(request: Request, max_bytes: int) -> None:
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
