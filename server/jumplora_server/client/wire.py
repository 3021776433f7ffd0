"""How httpx sends a call, for both clients: its requests, timeouts and errors."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from jumplora_server.client.calls import Call
from jumplora_server.client.errors import InputRefused, Unreachable
from jumplora_server.client.limits import Until
from jumplora_server.tracing.outgoing import trace_headers

CONNECT_SECONDS = 10.0  # a host that drops packets is tried again within a call's time
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def request_for(
    http: httpx.Client | httpx.AsyncClient,
    call: Call[Any],
    content: Iterable[bytes] | AsyncIterable[bytes] | None,
    until: Until,
) -> httpx.Request:
    """The request of one try. `content` is sent in place of the call's own."""
    # Compressed, a short answer may fill the memory.
    headers = {**trace_headers(), "accept-encoding": "identity", **call.headers}
    if call.body is not None:
        headers["content-type"] = "application/json"
    sent = call.content if content is None else content
    try:
        return http.build_request(
            call.method,
            call.path,
            params=dict(call.query) or None,
            headers=headers,
            content=sent,
            timeout=httpx.Timeout(until, connect=min(until.left, CONNECT_SECONDS)),
        )
    except (httpx.InvalidURL, UnicodeError) as error:  # no URL or header can have it
        raise InputRefused(f"{call.path[:80]!r} cannot be asked: {error}", code="input") from error


@contextmanager
def no_answer(call: Call[Any], url: str, until: Until) -> Iterator[None]:
    """Turn what httpx and asyncio raise where no answer comes into Unreachable."""
    try:
        yield
    except _NOT_SENT as error:
        raise unsent(call, url, error) from error
    except (httpx.TimeoutException, TimeoutError) as error:
        raise too_late(call, url, until.seconds) from error
    except UnicodeError as error:  # of a host's name
        raise unsent(call, url, error) from error
    except httpx.RequestError as error:
        why = str(error) or type(error).__name__
        raise Unreachable(
            f"{url} gave no answer: {why}", code="unreachable", asked=call.asked(url)
        ) from error


def unsent(call: Call[Any], url: str, error: Exception) -> Unreachable:
    """No connection was made."""
    why = str(error) or type(error).__name__
    failure = Unreachable(f"{url} gave no answer: {why}", code="unreachable", asked=call.asked(url))
    failure.was_sent = False
    return failure


def too_late(call: Call[Any], url: str, seconds: float) -> Unreachable:
    """The call's time is over."""
    return Unreachable(
        f"{url} gave no answer within {seconds:.3g} s", code="timeout", asked=call.asked(url)
    )
