"""The bodies of requests: where one ends, how fast it has to come, and the memory of all together.

As strict as heads are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NoReturn, Protocol

from jumplora_server.http.limits import FREE_BODY_BYTES
from jumplora_server.http.refusal import Refused

YIELD_SECONDS = 2.0  # a body that takes longer to arrive gives way where there is no room
MAX_LINE_BYTES = 1024  # of a chunk's size with its extensions, and of a trailer
MAX_TRAILER_BYTES = 8 * 1024
FREE_FRAMING_BYTES = 16 * 1024  # lines between chunks may have as many bytes beyond the data's

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+")


class SizedBody:
    """A body of `left` bytes."""

    __slots__ = ("left",)

    def __init__(self, length: int) -> None:
        self.left: int | None = length

    @property
    def is_complete(self) -> bool:
        """Whether all of it was taken."""
        return self.left == 0

    def take(self, received: bytearray) -> bytes:
        """Cut off the front of `received` what belongs to the body."""
        assert self.left is not None
        data = bytes(received[: self.left])
        del received[: len(data)]
        self.left -= len(data)
        return data


class ChunkedBody:
    """A body in chunks. Extensions and trailers are checked and dropped.

    Each chunk costs time of the event loop, so chunks of a byte or two are allowed a few thousand
    times only.
    """

    __slots__ = ("_data_bytes", "_framing_bytes", "_missing", "_part", "_trailer_bytes", "left")

    def __init__(self) -> None:
        self.left: int | None = None  # not known
        self._part: Literal["size", "data", "end", "trailer", "complete"] = "size"
        self._missing = 0  # bytes of this chunk
        self._data_bytes = 0
        self._framing_bytes = 0
        self._trailer_bytes = 0

    @property
    def is_complete(self) -> bool:
        """Whether all of it was taken."""
        return self._part == "complete"

    def take(self, received: bytearray) -> bytes:
        """Cut off the front of `received` what belongs to the body; the data in it. Raises Refused
        where it is malformed."""
        data = bytearray()
        while self._part != "complete":
            if self._part == "data":
                piece = received[: self._missing]
                del received[: len(piece)]
                data += piece
                self._data_bytes += len(piece)
                self._missing -= len(piece)
                if self._missing:
                    break
                self._part = "end"
            if self._part == "end" and received and received[0] != 0x0D:
                _refuse("a chunk is longer than its size says")
            line = _cut_line(received)
            if line is None:
                break
            self._read_line(line)
        return bytes(data)

    def _read_line(self, line: bytes) -> None:
        self._framing_bytes += len(line) + 2
        if self._framing_bytes > FREE_FRAMING_BYTES + self._data_bytes:
            raise Refused(
                400,
                "body",
                f"the body's chunks are too small: {self._framing_bytes} bytes of sizes, "
                f"extensions and line ends for {self._data_bytes} bytes of data; send larger ones",
            )
        if self._part == "end":
            if line:
                _refuse("a chunk's data ends with a bare carriage return")
            self._part = "size"
        elif self._part == "size":
            match = _SIZE.fullmatch(line)
            if match is None:
                _refuse(f"{line.decode('latin-1')[:40]!r} is not the size of a chunk")
            self._missing = int(match[1], 16)
            self._part = "data" if self._missing else "trailer"
        elif not line:
            self._part = "complete"
        else:
            self._trailer_bytes += len(line)
            if _TRAILER.fullmatch(line) is None or self._trailer_bytes > MAX_TRAILER_BYTES:
                _refuse("what follows the last chunk is not an empty line or a few short fields")


def _cut_line(received: bytearray) -> bytes | None:
    """The first line without its CR LF; None where it has not ended."""
    end = received.find(b"\n", 0, MAX_LINE_BYTES)
    if end < 0:
        if len(received) >= MAX_LINE_BYTES:
            _refuse(f"a line between chunks has more than {MAX_LINE_BYTES} bytes")
        return None
    line = bytes(received[: end - 1]) if end else b""
    if end == 0 or received[end - 1] != 0x0D:
        _refuse("a line between chunks ends with a bare line feed; lines end with CR LF")
    del received[: end + 1]
    return line


def _refuse(message: str) -> NoReturn:
    raise Refused(400, "body", f"the chunked body is malformed: {message}")


class Pace:
    """Whether bytes come, or go, fast enough: `rate` on average, never `patience` seconds idle.

    Each byte moves the deadline by its share of a second, and never further than `patience` from
    now, so that a fast start buys no long rest.
    """

    __slots__ = ("_deadline", "_patience", "_rate")

    def __init__(self, patience: float, rate: float, now: float) -> None:
        self._patience = patience
        self._rate = rate
        self._deadline = now + patience

    def moved(self, count: int, now: float) -> None:
        """Note that `count` bytes were transferred."""
        self._deadline = min(now + self._patience, self._deadline + count / self._rate)

    def restart(self, now: float) -> None:
        """Forget the past, after a time in which the server did not wait for the client."""
        self._deadline = now + self._patience

    def is_late(self, now: float) -> bool:
        """Whether the transfer is to be given up."""
        return now >= self._deadline


class Receiving(Protocol):
    """A request whose body is held (exchange.py)."""

    def fail(self, refusal: Refused) -> None:
        """End the request with that answer."""


class Bodies:
    """Counts what is held of each body, from its first byte beyond the free allowance until the app
    has ended. Small bodies never wait for large ones, since they are not counted.

    Where the budget is passed, the unfinished body that came longest ago gives way if it had its
    `YIELD_SECONDS`; else the one that passed it does. So clients that never finish their bodies
    keep out only each other, and a newcomer does not make the others start over.
    """

    def __init__(self, budget_bytes: int, clock: Callable[[], float]) -> None:
        self._budget = budget_bytes
        self._clock = clock
        self._held: dict[Receiving, int] = {}
        self._arriving: dict[Receiving, float] = {}  # since when, oldest first
        self.total = 0

    def hold(self, owner: Receiving, size: int) -> None:
        """Note that `size` bytes of the owner's body are held by now."""
        if size <= FREE_BODY_BYTES:
            return
        now = self._clock()
        self._arriving.setdefault(owner, now)
        self.total += size - self._held.get(owner, 0)
        self._held[owner] = size
        while self.total > self._budget:
            oldest = next(iter(self._arriving))
            loser = oldest if now - self._arriving[oldest] >= YIELD_SECONDS else owner
            self.release(loser)
            loser.fail(self._refusal())
            if loser is owner:
                return

    def complete(self, owner: Receiving) -> None:
        """Note that no more of the owner's body comes, so that it cannot give way any more."""
        self._arriving.pop(owner, None)

    def release(self, owner: Receiving) -> None:
        """Forget the owner's body."""
        self._arriving.pop(owner, None)
        self.total -= self._held.pop(owner, 0)

    def _refusal(self) -> Refused:
        return Refused(
            503,
            "bodies",
            f"the bodies of all requests together have more than {self._budget} bytes; try again "
            f"later, or send less than {FREE_BODY_BYTES} bytes, for which there is always room",
        )
