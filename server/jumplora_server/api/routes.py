"""All routes of the app, and what stands around them."""

from __future__ import annotations

from fastapi import FastAPI

from jumplora_server.api import (
    adapters,
    console,
    docs,
    errors,
    health,
    kserve,
    overview,
    tgi,
    vllm,
)
from jumplora_server.api.audit import Audit
from jumplora_server.api.bind_check import BindCheck
from jumplora_server.api.client_address import Proxies
from jumplora_server.api.middleware import (
    AccessLog,
    BodyCheck,
    KeyCheck,
    Methods,
    is_upload,
    opened_paths,
)
from jumplora_server.api.openai import chat, completions, models
from jumplora_server.api.openai.errors import FORMS as OPENAI_FORMS
from jumplora_server.api.route import add_dialect
from jumplora_server.api.route_table import RouteTable
from jumplora_server.api.traced import Traced
from jumplora_server.http.connections import Traffic
from jumplora_server.services import Services


def add_routes(app: FastAPI, services: Services) -> None:
    """Give the app its routes, which are answered with `services`, and its errors' forms."""
    settings = services.settings
    add_dialect(app, tgi.router)
    add_dialect(app, tgi.compatible)
    add_dialect(app, models.router, OPENAI_FORMS)
    add_dialect(app, completions.router)
    add_dialect(app, chat.router)
    add_dialect(app, kserve.router, {"/v2": kserve.KSERVE})
    add_dialect(app, kserve.inference)
    add_dialect(app, vllm.router, vllm.FORMS)
    app.include_router(adapters.router)
    app.include_router(overview.router)
    if settings.console == "on":
        app.include_router(console.router())
    if settings.docs == "on":
        app.include_router(docs.router())
        app.router.routes.append(docs.document_route(app, settings))
    app.include_router(health.router)
    errors.install(app)
    app.state.services = services
    # The last one added is the outermost.
    app.add_middleware(BodyCheck, max_bytes=settings.max_body_bytes)
    app.add_middleware(Methods)
    app.add_middleware(KeyCheck, keys=services.keys, opened=opened_paths(settings))
    separate = frozenset(bind.name for bind in settings.binds[1:])
    if separate:
        app.add_middleware(BindCheck, separate=separate, keys=services.keys)
    if services.tracer.is_on:
        app.add_middleware(Traced, tracer=services.tracer)
    app.state.table = RouteTable(app)
    app.add_middleware(
        AccessLog,
        audit=Audit(),
        proxies=Proxies(settings.proxies),
        polled=opened_paths(settings),
    )


def traffic(services: Services) -> Traffic:
    """What the HTTP server has to know of the app."""
    return Traffic(
        probes=health.PROBES,
        is_streamed=is_upload,
        on_refusal=services.metrics.http_refused,
        on_connections=services.metrics.http_connections,
    )
