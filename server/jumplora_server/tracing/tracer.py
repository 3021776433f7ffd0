"""What the server says to its traces, and a tracer that says nothing.

The seam: no other module than `otlp`, `export` and `outgoing` knows OpenTelemetry, and none but
`otlp` and `export` needs its SDK. Times are seconds on the server's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from jumplora_server.core import Finish, Sampling

TraceMode = Literal["off", "otlp"]
SpanEnd = Literal["exported", "failed", "dropped"]
"""What becomes of a span: a collector took it, did not take it, or too many waited for one."""
OnFinish = Callable[[Finish], None]


@dataclass(frozen=True, slots=True)
class TraceHeaders:
    """W3C trace context as a request has it. What is malformed counts as not given."""

    traceparent: str | None = None
    tracestate: str | None = None


@dataclass(frozen=True, slots=True)
class RequestAsked:
    """What a request that was taken in asks of the engine; neither prompts nor stop strings."""

    sampling: Sampling  # of the first of its sequences: they differ by their seeds
    prompts: int
    sequences: int
    is_streamed: bool


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """What came of a request. `route` is a template, None where no route has the path.

    `task` and `version` are there where the request was for a version. `code` is the stable code of
    the error that it ended with; `is_fault` says that the error is the server's.
    """

    method: str
    route: str | None
    status: int | None  # None: nothing was answered
    request_id: str
    key_id: str | None
    model: str | None
    version: str | None
    operation: Literal["chat", "text_completion"] | None
    prompt_tokens: int
    generated_tokens: int
    code: str | None
    is_fault: bool


@dataclass(frozen=True, slots=True)
class Loading:
    """A version that was brought into memory, or was not: `code` says why."""

    task: str
    version: str
    began: float
    ended: float
    stages: Mapping[str, float]
    code: str | None = None


class RequestTrace(Protocol):
    """The span of one request, from its head to the last byte of its answer.

    Everything here runs on the event loop.
    """

    @property
    def trace_id(self) -> str:
        """32 hex digits, also where nothing is recorded."""

    @property
    def response(self) -> str:
        """What the answer has as `traceresponse`."""

    def asked(self, asked: RequestAsked) -> None:
        """The request was taken in."""

    def sequence(self, number: int) -> OnFinish | None:
        """What is to hear the end of its sequence of that number; None: nothing has to."""

    def end(self, end: RequestEnd) -> None:
        """The request has ended. A sequence that was cancelled may end after it."""


class Tracer(Protocol):
    """Makes spans. Any thread."""

    @property
    def is_on(self) -> bool:
        """Whether requests have to be shown to it at all."""

    def request(self, headers: TraceHeaders) -> RequestTrace:
        """A request has begun. Only where it is on."""

    def loaded(self, loading: Loading) -> None:
        """A load has ended, well or not."""

    def close(self, seconds: float) -> None:
        """Send what is left, for at most so long."""


class NoTraces:
    """The tracer of a server without traces."""

    is_on = False

    def request(self, headers: TraceHeaders) -> RequestTrace:
        """Never asked."""
        raise AssertionError("traces are off")

    def loaded(self, loading: Loading) -> None:
        """Nothing."""

    def close(self, seconds: float) -> None:
        """Nothing."""
