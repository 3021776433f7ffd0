"""How long an answer may take, and how long it may be.

httpx limits each wait for bytes; one that drips would never end. So each read of a connection is
given what is left of the time in all.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import Any, Self

import httpcore
import httpx

MOST_ANSWER = 64 << 20  # bytes
MOST_EVENT = 8 << 20  # bytes of a stream's line
TOO_LONG = ValueError(f"its answer is longer than {MOST_ANSWER} bytes")
_PIECE = 1 << 16  # bytes that are sent in one go
_LEAST = 0.001  # seconds: 0 would mean not to wait at all


class Until(float):
    """A timeout for httpx, which hands it on as it is; `left` becomes less with time."""

    seconds: float
    _clock: Callable[[], float]
    _end: float

    def __new__(cls, seconds: float, clock: Callable[[], float]) -> Self:
        """`clock` is monotonic."""
        until = super().__new__(cls, seconds)
        until._clock = clock
        until.renew(seconds)
        return until

    def renew(self, seconds: float) -> None:
        """Begin again, with so much time."""
        self.seconds = seconds
        self._end = self._clock() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self._clock() > self._end

    @property
    def left(self) -> float:
        """Seconds; never below a millisecond."""
        return max(_LEAST, self._end - self._clock())


def limit_reads(http: httpx.Client) -> None:
    """Have all of its connections ask what is left of a timeout, also those by a proxy.

    httpx has no public name for this that leaves the environment's proxies in force.
    """
    for transport in (http._transport, *http._mounts.values()):
        pool = getattr(transport, "_pool", None)
        if isinstance(pool, httpcore.ConnectionPool):
            pool._network_backend = _Backend()


class _Backend(httpcore.SyncBackend):
    def connect_tcp(self, *arguments: Any, **options: Any) -> httpcore.NetworkStream:
        return _Stream(super().connect_tcp(*arguments, **options))


class _Stream(httpcore.NetworkStream):
    """A connection."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            piece = buffer[start : start + _PIECE]
            self._stream.write(piece, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(timeout: float | None, error: type[httpcore.TimeoutException]) -> float | None:
    if not isinstance(timeout, Until):
        return timeout
    if timeout.is_over:
        raise error
    return timeout.left


class Body:
    """The bytes of an answer, as they come."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._length = 0

    def add(self, piece: bytes) -> None:
        """Raises ValueError where it is too long."""
        self._length += len(piece)
        if self._length > MOST_ANSWER:
            raise TOO_LONG
        self._pieces.append(piece)

    def whole(self) -> bytes:
        """All of them."""
        return b"".join(self._pieces)


def whole(pieces: Iterable[bytes]) -> bytes:
    """All of an answer. Raises ValueError where it is too long."""
    body = Body()
    for piece in pieces:
        body.add(piece)
    return body.whole()
