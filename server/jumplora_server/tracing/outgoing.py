"""What a request of our client tells the server of the trace that it is part of."""

from __future__ import annotations

from opentelemetry import propagate


def trace_headers() -> dict[str, str]:
    """`traceparent` and what else the program's propagators say of its current span; nothing where
    it has none."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
