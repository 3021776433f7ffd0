"""What can be asked, and how: /openapi.json, and the page at /docs that shows it.

Both are the same for everybody and name no task, so they need no key: a browser has none to send.
The page is Swagger UI, whose files are those of the package `fastapi-swagger`, served from here.
"""

from __future__ import annotations

import asyncio
import json
import threading
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response
from starlette.routing import Route

from jumplora_server.access.needs import DOCS_PATH, DOCUMENT_PATH, ENOUGH, Need, needed_access
from jumplora_server.access.source import KeySource
from jumplora_server.api.middleware import opened_paths
from jumplora_server.api.static_files import pages
from jumplora_server.settings import Settings

SWAGGER_UI = ("swagger-ui-bundle.js", "swagger-ui.css")
# In the order in which the page shows them.
TAGS = {
    "generate": "The native routes. `/` answers clients of TGI and LoRAX as these expect it.",
    "adapters": "Tasks and their versions: publish, list, roll back, load, pin, remove.",
    "server": "Whether it is alive and ready, what it serves, how it is doing.",
    "openai": "OpenAI's API, for its clients as they are. A `model` is a task.",
    "kserve": "KServe's v2 protocol (Open Inference Protocol). A model is a task.",
    "vllm": "What operators of vLLM call.",
}
SCHEME = "key"
SCHEMES = {
    SCHEME: {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of the server. Beside each route stand the scopes of which its key "
        "needs one: `infer` generates, `read` sees adapters and the overview, `metrics` scrapes, "
        "`admin` changes adapters and sees all. Keys of `JUMPLORA_API_KEYS` have the first three, "
        "those of `JUMPLORA_ADMIN_KEYS` all of them, those of `JUMPLORA_KEYS_FILE` what it says.",
    },
}


def router() -> APIRouter:
    """The page and its files."""
    package = files("jumplora_server")
    swagger_ui = files("fastapi_swagger") / "resources"
    entries = [
        *(package / "docs").iterdir(),
        package / "console" / "icon.svg",
        *(swagger_ui / name for name in SWAGGER_UI),
    ]
    return pages(DOCS_PATH, DOCS_PATH + "/", entries)


def document_of(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """The OpenAPI document of an app, with the keys that each route needs."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
    )
    is_open = KeySource.of(settings).is_open
    opened = opened_paths(settings)
    document["components"]["securitySchemes"] = SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            needed = needed_access(method.upper(), path, opened=opened) or "closed"
            operation["security"] = security(needed, is_open=is_open)
    return document


def security(needed: Need, *, is_open: bool) -> list[dict[str, list[str]]]:
    """Any one of these opens a route; none is needed where there are none."""
    if needed == "public" or (is_open and needed != "admin"):
        return []
    return [{SCHEME: [scope]} for scope in ENOUGH[needed]]


def document_route(app: FastAPI, settings: Settings) -> Route:
    """/openapi.json. It is made once, at the first request for it, on a thread: it takes half a
    second of the processor, in which others want to be answered."""
    lock = threading.Lock()
    made: list[bytes] = []

    def document() -> bytes:
        with lock:
            if not made:
                made.append(json.dumps(document_of(app, settings)).encode())
            return made[0]

    async def endpoint(request: Request) -> Response:
        content = made[0] if made else await asyncio.to_thread(document)
        return Response(content, media_type="application/json")

    return Route(DOCUMENT_PATH, endpoint, include_in_schema=False)
