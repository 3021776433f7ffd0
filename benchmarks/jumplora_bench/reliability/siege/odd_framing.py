"""Requests that state their length wrongly, twice or in odd ways, and ones that never end."""

from __future__ import annotations

import json
import random

from jumplora_bench.reliability.siege.shot import (
    INVALID,
    REFUSED,
    Headers,
    Kind,
    Shot,
    body_of,
    head,
)

_JSON: Headers = (("content-type", "application/json"),)
_HIDDEN = b"GET /v1/adapters HTTP/1.1\r\nhost: siege\r\n\r\n"  # a second request within a body


def _content(rng: random.Random) -> bytes:
    return json.dumps(body_of(rng)).encode()


def _posted(content: bytes, *more: tuple[str | bytes, str | bytes]) -> bytes:
    return head("POST", "/generate", [*_JSON, *more]) + content


def _length(content: bytes) -> tuple[str, str]:
    return "content-length", str(len(content))


def conflicting_lengths(rng: random.Random) -> Shot:
    """Two lengths that differ: a proxy may have read the other."""
    content = _content(rng)
    other = rng.choice((0, 1, len(content) - 1, len(content) + 1, 10**12))
    pair = [_length(content), ("content-length", str(other))]
    rng.shuffle(pair)
    return Shot(_posted(content + _HIDDEN, *pair), allowed=REFUSED)


def repeated_length(rng: random.Random) -> Shot:
    """The same length twice, as two headers or as a list: may be taken or refused."""
    content = _content(rng)
    size = len(content)
    ways = [[_length(content)] * 2, [("content-length", f"{size}, {size}")]]
    return Shot(_posted(content, *rng.choice(ways)), allowed=frozenset((200, 400)))


def length_and_chunks(rng: random.Random) -> Shot:
    """Both framings at once, the classic of request smuggling."""
    content = _content(rng)
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
    pair = [
        ("content-length", str(rng.choice((0, 4, len(body))))),
        ("transfer-encoding", "chunked"),
    ]
    rng.shuffle(pair)
    return Shot(_posted(body + _HIDDEN, *pair), allowed=REFUSED)


def odd_length(rng: random.Random) -> Shot:
    """Lengths that are not plain decimal numbers."""
    values: tuple[str | bytes, ...] = (
        "+5", "-1", "0x10", "1e3", "5 5", "", "five", "5.0", "1_0", "\t5\x0b", "²", "٣", "5\x00",
        b"\xff", "9" * 19, "9" * 30, "9" * 5000,
    )  # fmt: skip
    raw = _posted(_content(rng), ("content-length", rng.choice(values)))
    return Shot(raw, allowed=frozenset((400, 413)), may_be_cut=True)


def odd_transfer_encoding(rng: random.Random) -> Shot:
    """Codings that the server does not have, or writes of `chunked` that are none."""
    values = (
        "identity", "gzip, chunked", "chunked, gzip", "chunked, chunked", "xchunked", "chunked;q=1",
        "chun ked", "", ",", "chunked,", "chunked\x0b", '"chunked"', "x" * 5000,
    )  # fmt: skip
    content = _content(rng)
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
    raw = _posted(body, ("transfer-encoding", rng.choice(values)))
    return Shot(raw, allowed=frozenset((400, 411, 422)), may_be_cut=True)


def chunks(rng: random.Random) -> Shot:
    """Sound chunks: of one byte, of odd case, with leading zeros, extensions and trailers."""
    content = _content(rng)
    size = rng.choice((1, 2, 7, len(content)))
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    mark = rng.choice((b"%x", b"%X", b"000%x", b"%x;a=b", b"%x;" + b"e" * 50))
    body = b"".join(mark % len(piece) + b"\r\n" + piece + b"\r\n" for piece in pieces)
    trailer = rng.choice((b"", b"x-late: 1\r\n", b"content-length: 3\r\n"))
    raw = _posted(body + b"0\r\n" + trailer + b"\r\n", ("transfer-encoding", "Chunked"))
    return Shot(raw, allowed=frozenset((200, 400)))


def odd_chunks(rng: random.Random) -> Shot:
    """Chunk sizes that are none, and ends that are missing."""
    content = _content(rng)
    bodies = (
        b"FFFFFFFFFFFFFFFF1\r\n" + content, b"-1\r\n" + content, b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n", b"5\nhello\n0\n\n", b"5\r\nhello0\r\n\r\n", b"\r\n", b"g\r\n",
        b"5\r\nhelloXX0\r\n\r\n", b"5;" + b"x" * 70_000 + b"\r\nhello\r\n0\r\n\r\n",
        b"0" * 70_000 + b"5\r\nhello\r\n0\r\n\r\n", b"5\rhello\r\n0\r\n\r\n",
        b"7fffffffffffffff\r\n" + content, b"1e\r\n" + content[:3],
    )  # fmt: skip
    raw = _posted(rng.choice(bodies), ("transfer-encoding", "chunked"))
    return Shot(raw, allowed=INVALID, ending="half", may_be_cut=True)


def bare_line_feed(rng: random.Random) -> Shot:
    """A line feed alone ends a line, in one place or in all."""
    content = _content(rng)
    raw = _posted(content, _length(content))
    top, _, body = raw.partition(b"\r\n\r\n")
    lines = top.count(b"\r\n")
    turn = rng.randrange(lines + 1)
    if turn == lines:
        spoilt = top.replace(b"\r\n", b"\n") + b"\n\n"
    else:
        parts = top.split(b"\r\n")
        spoilt = b"\r\n".join(parts[: turn + 1]) + b"\n" + b"\r\n".join(parts[turn + 1 :])
        spoilt += b"\r\n\r\n"
    return Shot(spoilt + body, allowed=REFUSED)


def cut_short(rng: random.Random) -> Shot:
    """The request ends anywhere, and the client with it."""
    content = _content(rng)
    raw = _posted(content, _length(content))
    return Shot(
        raw[: rng.randrange(1, len(raw))],
        ending=rng.choice(("half", "close", "reset")),
        allowed=INVALID,
        may_be_cut=True,
    )


def left_waiting(rng: random.Random) -> Shot:
    """A whole request whose client goes before the answer; streams too."""
    content = json.dumps(body_of(rng, parameters={"max_new_tokens": 64})).encode()
    target = rng.choice(("/generate", "/generate_stream"))
    raw = head("POST", target, [*_JSON, _length(content)]) + content
    return Shot(raw, ending=rng.choice(("half", "close", "reset")), may_be_cut=True)


def pipelined(rng: random.Random) -> Shot:
    """Several requests in one packet."""
    paths = ("/livez", "/readyz", "/info", "/v1/adapters", "/nowhere")
    methods, raw = [], b""
    for _ in range(rng.randrange(2, 12)):
        if rng.random() < 0.3:
            content = _content(rng)
            raw += _posted(content, _length(content))
            methods.append("POST")
        else:
            methods.append("GET")
            raw += head("GET", rng.choice(paths))
    return Shot(raw, methods=tuple(methods))


def garbage_behind(rng: random.Random) -> Shot:
    """A sound request with random bytes behind it: one answer, or one and a refusal."""
    content = _content(rng)
    raw = _posted(content, _length(content)) + rng.randbytes(rng.randrange(1, 400)) + b"\r\n\r\n"
    return Shot(raw, methods=("POST", "POST"), may_be_cut=True, ending="wait")


def unread_body(rng: random.Random) -> Shot:
    """A body where none is expected or wanted, which holds a request: it must not be answered."""
    method, target = rng.choice((
        ("GET", "/livez"), ("HEAD", "/livez"), ("GET", "/nowhere"), ("POST", "/nowhere"),
        ("PUT", "/generate"), ("DELETE", "/v1/adapters/agnews"), ("PUT", "/v1/adapters/agnews"),
        ("OPTIONS", "/generate"), ("POST", "/generate"), ("POST", "/v1/tasks/agnews/generate"),
    ))  # fmt: skip
    more = rng.choice((
        ("content-type", "text/plain"), ("content-encoding", "gzip"), ("authorization", "Bearer x"),
        ("expect", "100-continue"), ("x-task-id", "\u202e"), ("content-type", "application/json"),
    ))  # fmt: skip
    body = _HIDDEN * rng.choice((1, 20))
    if rng.random() < 0.5:
        raw = head(method, target, [more, _length(body)]) + body
    else:
        raw = head(method, target, [more, ("transfer-encoding", "chunked")])
        raw += b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return Shot(raw + head("GET", "/readyz"), methods=(method, "GET"), may_be_cut=True)


def after_close(rng: random.Random) -> Shot:
    """A request behind one that closes the connection: it must not be answered."""
    content = _content(rng)
    version = rng.choice(("HTTP/1.0", "HTTP/1.1"))
    headers: Headers = [*_JSON, ("connection", "close"), _length(content)]
    raw = head("POST", "/generate", headers, version) + content
    return Shot(raw + head("GET", "/livez"), methods=("POST",))


FRAMING: dict[str, Kind] = {
    "conflicting lengths": conflicting_lengths,
    "repeated length": repeated_length,
    "length and chunks": length_and_chunks,
    "odd length": odd_length,
    "odd transfer-encoding": odd_transfer_encoding,
    "chunks": chunks,
    "odd chunks": odd_chunks,
    "bare line feed": bare_line_feed,
    "cut short": cut_short,
    "left waiting": left_waiting,
    "pipelined": pipelined,
    "garbage behind": garbage_behind,
    "unread body": unread_body,
    "after close": after_close,
}
