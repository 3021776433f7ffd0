"""The layer around requests that gives each a trace, and says at its end what came of it.

Added only where traces are on. Probes and scrapes, of which some come each second, have none.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jumplora_server.api.ask import RequestRecord, record_of
from jumplora_server.api.dialect import generates
from jumplora_server.api.health import PROBES
from jumplora_server.services import Services
from jumplora_server.tracing.tracer import RequestEnd, TraceHeaders, Tracer

RESPONSE_HEADER = "traceresponse"
INTERNAL = "internal"  # the code of what no handler of ours has seen


class Traced:
    """Plain ASGI, within the access log and around everything else."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        record = record_of(scope)
        trace = record.trace = self._tracer.request(trace_headers(Headers(scope=scope)))
        status: int | None = None
        is_broken = False

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[RESPONSE_HEADER] = trace.response
            await send(message)

        try:
            await self._app(scope, receive, tell)
        except Exception:
            is_broken = True
            raise
        finally:
            trace.end(_end(scope, record, status, is_broken))


def trace_headers(headers: Headers) -> TraceHeaders:
    """The trace that a request is part of. Of two parents neither is it, as W3C has it."""
    parents = headers.getlist("traceparent")
    state = ",".join(headers.getlist("tracestate"))
    return TraceHeaders(parents[0] if len(parents) == 1 else None, state or None)


def _end(scope: Scope, record: RequestRecord, status: int | None, is_broken: bool) -> RequestEnd:
    if is_broken:  # the answer to it is made outside of all layers of ours
        status = status or 500
    route: str | None = getattr(scope.get("route"), "path", None)
    services: Services = scope["app"].state.services
    is_generation = generates(scope)
    return RequestEnd(
        method=scope["method"],
        route=route,
        status=status,
        request_id=record.request_id,
        key_id=record.caller.key_id,
        model=services.served_name if record.task is None else record.task or None,
        version=record.version,
        operation=("chat" if _is_chat(route) else "text_completion") if is_generation else None,
        prompt_tokens=record.prompt_tokens,
        generated_tokens=record.generated_tokens,
        code=INTERNAL if is_broken else record.error,
        is_fault=is_broken or record.is_fault or (status or 0) >= 500,
    )


def _is_chat(route: str | None) -> bool:
    return route is not None and route.endswith("/chat/completions")
