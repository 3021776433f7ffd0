"""The page at `/`: files of the package's `console` folder, the same for everybody.

They hold no secret and need no key; what the page shows it asks of the other routes, with the key
that its reader gives it.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

PREFIX = "/console/"
PAGE = "index.html"
# The page runs its own files and asks its own server: nothing else, and nothing written into it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # a newer server's page must not run an older one's script
}
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


def router() -> APIRouter:
    """The routes. All files are read here, once."""
    page = _files()
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def console(request: Request) -> Response:
        return _answer(request, page[PAGE])

    @routes.get(PREFIX + "{name}")
    async def file(request: Request, name: str) -> Response:
        if name not in page or name == PAGE:
            raise HTTPException(404, f"the console has no file {name[:80]!r}")
        return _answer(request, page[name])

    return routes


class _File:
    def __init__(self, name: str, content: bytes) -> None:
        self.content = content
        self.etag = f'"{sha256(content).hexdigest()[:32]}"'
        suffix = name[name.rindex(".") :]
        self.media_type = TYPES.get(suffix) or mimetypes.guess_type(name)[0]


def _files() -> Mapping[str, _File]:
    folder = files("jumplora_server") / "console"
    return {
        entry.name: _File(entry.name, entry.read_bytes())
        for entry in folder.iterdir()
        if entry.name.endswith(tuple(TYPES))
    }


def _answer(request: Request, file: _File) -> Response:
    headers: dict[str, Any] = {**HEADERS, "etag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
