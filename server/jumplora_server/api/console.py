"""The page at `/`: files of the package's `console` folder, the same for everybody.

They hold no secret and need no key; what the page shows it asks of the other routes, with the key
that its reader gives it.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from jumplora_server.api.static_files import answer, read_files

PREFIX = "/console/"
PAGE = "index.html"


def router() -> APIRouter:
    """The routes. All files are read here, once."""
    page = read_files((files("jumplora_server") / "console").iterdir())
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def console(request: Request) -> Response:
        return answer(request, page[PAGE])

    @routes.get(PREFIX + "{name}")
    async def file(request: Request, name: str) -> Response:
        if name not in page or name == PAGE:
            raise HTTPException(404, f"the console has no file {name[:80]!r}")
        return answer(request, page[name])

    return routes
