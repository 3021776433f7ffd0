"""Odd request lines and headers: methods, targets, versions, header bytes, encodings."""

from __future__ import annotations

import gzip
import json
import random
import zlib

from jumplora_bench.reliability.siege.shot import (
    ANY_REFUSAL,
    REFUSED,
    TASKS,
    Headers,
    Kind,
    Shot,
    body_of,
    head,
    post,
)

PATHS = (
    "/generate", "/generate_stream", "/v1/tasks/agnews/generate", "/v1/completions",
    "/v1/chat/completions", "/v2/models/agnews/infer", "/tokenize", "/v1/adapters",
    "/v1/adapters/agnews", "/v1/models", "/v1/models/agnews", "/v2", "/v2/health/ready",
    "/v2/models/agnews", "/version", "/ping", "/livez", "/readyz", "/health", "/metrics", "/info",
    "/docs", "/openapi.json", "/", "/nowhere",
)  # fmt: skip
GETS = PATHS[PATHS.index("/v1/adapters") : -2]
ODD_BYTES: tuple[bytes, ...] = (
    b"\x01", b"\x1b[31mred\x1b[0m", b"\x7f", b"\t", b"\x85", b"\xff\xfe", b"\xc3\x28",
    b"\xe2\x80\xae",
    "\u202ekcab".encode(), "\u2066x\u2069".encode(), "\u2028".encode(), "é".encode("latin-1"),
    b"%0d%0ax-injected: 1", b"a" * 300, b"a" * 9000, b"'\"<>\\", b"${jndi:ldap://x}", b"",
)  # fmt: skip
_NAMED = (
    "x-request-id", "x-task-id", "authorization", "traceparent", "user-agent", "accept", "cookie",
    "content-type", "host", "origin", "referer", "x-forwarded-for", "if-match", "range", "te",
    "connection", "accept-encoding", "x-content-sha256", "expect", "forwarded",
)  # fmt: skip


def odd_method(rng: random.Random) -> Shot:
    """Every method on every path, sound ones and others."""
    methods = (
        "HEAD", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PUT", "DELETE", "PROPFIND", "get", "Post",
        "X" * 300, "GET\x00", "G(T", "é", "GET,POST", "QUERY", "M-SEARCH",
    )  # fmt: skip
    method, path = rng.choice(methods), rng.choice(PATHS)
    raw = head(method, path, [("content-length", "0")])
    return Shot(raw, methods=(method,))


def head_like_get(rng: random.Random) -> Shot:
    """HEAD where GET is answered: the same status, no body, and the connection stays in step."""
    raw = head("HEAD", rng.choice(GETS)) + head("GET", "/livez")
    return Shot(raw, methods=("HEAD", "GET"), allowed=frozenset((200,)))


def odd_target(rng: random.Random) -> Shot:
    """Paths that are long, doubly encoded, no UTF-8, or no paths."""
    task = rng.choice(TASKS)
    targets: tuple[bytes | str, ...] = (
        "/" + "a" * rng.choice((3000, 8000, 60_000)), "/v1/adapters/" + "a" * 8000, "/%00", "/%",
        "/v1/adapters/%ff%fe", "/v1/adapters/%c0%af", "/v1/adapters/..%2f..%2fetc%2fpasswd",
        "/v1/adapters/../../etc/passwd", "/%u0041", "//v1//adapters", "/v1/adapters/" + "%25" * 900,
        "/v1/adapters/%E2%80%AEagnews", "/v1/adapters/%1b%5b31m", f"/v1/adapters/{task}%00",
        f"/v1/adapters/{task}@", f"/v1/adapters/{task}@zz", f"/v1/adapters/{task}@{'0' * 64}",
        f"/v1/adapters/{task}/", f"/v1/adapters/{task.upper()}", "/v1/adapters/%0d%0ax-injected:1",
        "/v1/adapters/" + "a/" * 2000, "*", "http://other/livez", "http://", "nowhere", "?", "#",
        "/livez?" + "a=b&" * 5000, "/livez?%00=%ff", "/livez#part", "/livez;v=1", "\\livez",
        b"/\xff\xfe", b"/livez\x00", b"/livez\x1b[2J", "/livez/\u202e", "/v1/adapters/\ud800",
        "/v1/adapters?limit=-1", "/docs/../openapi.json", "/v1/adapters/" + "/" * 3000,
    )  # fmt: skip
    return Shot(head("GET", rng.choice(targets)), methods=("GET",), may_be_cut=True)


def odd_version(rng: random.Random) -> Shot:
    """HTTP/1.0 is taken; another version is refused or taken as 1.1, what is none is refused."""
    if rng.random() < 0.3:
        raw = post(body_of(rng), headers=[("connection", "keep-alive")])
        return Shot(raw.replace(b"HTTP/1.1", b"HTTP/1.0", 1), allowed=frozenset((200,)))
    versions = ("HTTP/0.9", "HTTP/2.0", "HTTP/3", "HTTP/1.1x", "http/1.1", "HTTP/11", "HTTP/1.", "")
    return Shot(head("GET", "/livez", version=rng.choice(versions)), methods=("GET",))


def other_protocol(rng: random.Random) -> Shot:
    """The first bytes of TLS, HTTP/2, SSH, SOCKS and redis; random ones; nothing but line ends."""
    raws = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes.fromhex("16030100f4010000f00303") + bytes(240),
        b"SSH-2.0-x\r\n", b"\x05\x01\x00", b"*1\r\n$4\r\nPING\r\n", b"\r\n" * 500, b"\n" * 200_000,
        b"\x00" * 1000, rng.randbytes(rng.randrange(1, 5000)), b"GET\r\n\r\n", b"\r\n\r\n",
        b"GET /livez\r\n\r\n", b" GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", b"A" * 200_000,
    )  # fmt: skip
    raw = rng.choice(raws)
    return Shot(raw, methods=("GET",), ending="half", may_be_cut=True, allowed=ANY_REFUSAL)


def odd_header(rng: random.Random) -> Shot:
    """Odd bytes in a header that the server, a proxy or a log line may use."""
    name, value = rng.choice(_NAMED), rng.choice(ODD_BYTES)
    if rng.random() < 0.5:
        value = b"a" + value + b"b"
    raw = post(body_of(rng), headers=[(name, value)])
    return Shot(raw, methods=("POST",))


def folded_header(rng: random.Random) -> Shot:
    """A header on two lines, which HTTP had once: refused, or joined by a blank."""
    folded = rng.choice(
        (b"x-a: 1\r\n folded", b"x-a: 1\r\n\tfolded", b"x-a:\r\n content-length: 0")
    )
    raw = post(body_of(rng)).replace(b"host: siege", b"host: siege\r\n" + folded, 1)
    return Shot(raw, allowed=frozenset((200, 400)))


def injected_header(rng: random.Random) -> Shot:
    """Header lines that are none: without a colon, with CR or NUL, with odd names."""
    lines: tuple[bytes, ...] = (
        b"no colon here", b"x-a : 1", b": empty name", b"x-a: a\rb",
        b"x-a: a\x00b", b"x a: 1", b"x-\xe2\x80\xae: 1", b"x(a): 1", b"\x00: 1",
    )  # fmt: skip
    raw = post(body_of(rng))
    raw = raw.replace(b"host: siege", b"host: siege\r\n" + rng.choice(lines), 1)
    return Shot(raw, allowed=REFUSED)


def many_headers(rng: random.Random) -> Shot:
    """More headers, or longer ones, than a client has."""
    count, size = rng.choice(
        ((50, 10), (500, 10), (5000, 10), (1, 70_000), (1, 500_000), (8, 9000))
    )
    raw = post(body_of(rng), headers=[(f"x-{n}", "a" * size) for n in range(count)])
    return Shot(raw, may_be_cut=True)


def odd_host(rng: random.Random) -> Shot:
    """No host, two, or one that is none."""
    raw = post(body_of(rng))
    ways = (b"", b"host: a\r\nhost: b\r\n", b"host: \r\n", b"host: a b\r\n", b"host: [::\r\n")
    return Shot(raw.replace(b"host: siege\r\n", rng.choice(ways), 1))


def expects(rng: random.Random) -> Shot:
    """Expect and Upgrade: what the server does not know it refuses or ignores."""
    more: list[Headers] = [
        [("expect", "100-continue")], [("expect", "200-ok")], [("expect", "\u202e")],
        [("connection", "upgrade"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQA")],
        [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"),
         ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")],
        [("connection", "close, keep-alive")], [("connection", "content-length")],
    ]  # fmt: skip
    return Shot(post(body_of(rng), headers=rng.choice(more)))


def compressed(rng: random.Random) -> Shot:
    """A compressed body is refused as such: the server would read its bytes as JSON."""
    content = json.dumps(body_of(rng)).encode()
    name, body = rng.choice((
        ("gzip", gzip.compress(content, mtime=0)), ("deflate", zlib.compress(content)),
        ("br", content), ("zstd", content), ("gzip, gzip", content), ("x-unknown", content),
        ("gzip", gzip.compress(b"[" * 10_000_000, mtime=0)),
    ))  # fmt: skip
    raw = post(body, headers=[("content-encoding", name)])
    return Shot(raw, allowed=frozenset((415,)))


def odd_content_type(rng: random.Random) -> Shot:
    """A body that is sound JSON under another name, or in another encoding."""
    content = json.dumps(body_of(rng))
    names = (
        "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "",
        "application/json; charset=utf-16", "application/json; charset=\u202e", "application/",
        "application/json;" * 500, "application/jsonx", "APPLICATION/JSON",
        "application/vnd.x+json",
    )  # fmt: skip
    encoding = rng.choice(("utf-8", "utf-16", "utf-32", "utf-16-le", "utf-8-sig", "utf-7"))
    body = content.encode(encoding)
    headers: Headers = [("content-type", rng.choice(names)), ("content-length", str(len(body)))]
    return Shot(head("POST", "/generate", headers) + body)


HEADS: dict[str, Kind] = {
    "odd method": odd_method,
    "HEAD like GET": head_like_get,
    "odd target": odd_target,
    "odd version": odd_version,
    "other protocol": other_protocol,
    "odd header": odd_header,
    "folded header": folded_header,
    "injected header": injected_header,
    "many headers": many_headers,
    "odd host": odd_host,
    "expects": expects,
    "compressed": compressed,
    "odd content-type": odd_content_type,
}
