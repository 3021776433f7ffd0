"""Files of packages, for browsers: read once, sent with what they may load and do.

They hold no secret and need no key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

PAGE = "index.html"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
# A page runs its own files and asks its own server: nothing else, and nothing written into it.
OWN_FILES_ONLY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class StaticFile:
    """A file's bytes, which a browser may keep as long as it asks whether they are the same."""

    def __init__(self, name: str, content: bytes) -> None:
        self.content = content
        self.etag = f'"{sha256(content).hexdigest()[:32]}"'
        self.media_type = TYPES[name[name.rindex(".") :]]


def read_files(entries: Iterable[Traversable]) -> Mapping[str, StaticFile]:
    """Those that a browser gets, by name; others are left out."""
    wanted = (entry for entry in entries if entry.name.endswith(tuple(TYPES)))
    return {entry.name: StaticFile(entry.name, entry.read_bytes()) for entry in wanted}


def answer(request: Request, file: StaticFile, policy: str = OWN_FILES_ONLY) -> Response:
    """The file, or 304 where the browser has it."""
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",  # a newer server's page must not run an older one's script
        "etag": file.etag,
    }
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


def pages(path: str, below: str, entries: Iterable[Traversable]) -> APIRouter:
    """Routes of a page, at `path`, and of the files that it loads, whose paths begin with `below`.

    All are read here, once; the page is the one named index.html.
    """
    known = read_files(entries)
    routes = APIRouter(include_in_schema=False)

    @routes.get(path)
    async def page(request: Request) -> Response:
        return answer(request, known[PAGE])

    @routes.get(below + "{name}")
    async def file(request: Request, name: str) -> Response:
        if name not in known or name == PAGE:
            raise HTTPException(404, f"{below} has no file {name[:80]!r}")
        return answer(request, known[name])

    return routes
