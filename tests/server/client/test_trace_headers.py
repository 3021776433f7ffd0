"""A call within a span of the caller's program is part of its trace."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.sdk.trace import TracerProvider

from client_pair import KINDS, Kind
from jumplora_server.client import AsyncClient, Client
from small_http import Asked, Said, http_server


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_within_a_span_names_it(kind: Kind) -> None:
    asked: list[Asked] = []

    def answer(request: Asked) -> Said:
        asked.append(request)
        return Said.of({})

    def call(url: str) -> None:
        if kind == "sync":
            with Client(url) as client:
                assert client.is_ready()
        else:
            asyncio.run(call_async(url))

    async def call_async(url: str) -> None:
        async with AsyncClient(url) as client:
            assert await client.is_ready()

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with http_server(answer) as url:
        with tracer.start_as_current_span("work") as span:
            call(url)
        call(url)
    context = span.get_span_context()
    inside, outside = asked
    ids = f"{context.trace_id:032x}-{context.span_id:016x}"
    assert inside.headers["traceparent"] == f"00-{ids}-{context.trace_flags:02x}"
    assert "traceparent" not in outside.headers
