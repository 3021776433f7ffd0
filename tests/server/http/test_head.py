"""Heads: what is refused and with which words, and h11 as the oracle of what is not."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.http.head import Head, parse_head, take_head
from jumplora_server.http.limits import MAX_HEAD_BYTES
from jumplora_server.http.refusal import Refused

HOST = b"host: x\r\n"


def head(*lines: bytes, target: bytes = b"/", method: bytes = b"POST") -> bytes:
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"host: x", *lines, b"", b""])


Case = tuple[bytes, int, str]
REFUSED: dict[str, Case] = {
    "two lengths": (head(b"content-length: 5", b"content-length: 6"), 400, "2 times"),
    "the same length twice": (head(b"content-length: 5", b"Content-Length: 5"), 400, "2 times"),
    "a list of lengths": (head(b"content-length: 5, 5"), 400, "'5, 5'"),
    "a signed length": (head(b"content-length: +5"), 400, "'+5'"),
    "a negative length": (head(b"content-length: -5"), 400, "'-5'"),
    "a length with a blank": (head(b"content-length: 5 0"), 400, "'5 0'"),
    "an underscore in a length": (head(b"content-length: 5_0"), 400, "'5_0'"),
    "an empty length": (head(b"content-length:"), 400, "''"),
    "a huge length": (head(b"content-length: " + b"9" * 30), 400, "18 digits"),
    "length and chunks": (
        head(b"content-length: 5", b"transfer-encoding: chunked"),
        400,
        "both given",
    ),
    "an unknown coding": (head(b"transfer-encoding: gzip"), 400, "'gzip'"),
    "two codings": (head(b"transfer-encoding: gzip, chunked"), 400, "'gzip, chunked'"),
    "chunked twice": (
        head(b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
        400,
        "'chunked, chunked'",
    ),
    "a hidden coding": (head(b"transfer-encoding: xchunked"), 400, "'xchunked'"),
    "chunks in HTTP/1.0": (
        b"POST / HTTP/1.0\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n",
        400,
        "HTTP/1.0",
    ),
    "bare line feeds": (b"GET / HTTP/1.1\nhost: x\n\n", 400, "bare line feed"),
    "one bare line feed": (b"GET / HTTP/1.1\r\nhost: x\nsecret: y\r\n\r\n", 400, "bare line feed"),
    "a bare line feed at the end": (b"GET / HTTP/1.1\r\nhost: x\r\n\n", 400, "bare line feed"),
    "a bare carriage return": (head(b"a: b\rc: d"), 400, "carriage return"),
    "a folded field": (head(b"a: b", b" c"), 400, "folded"),
    "a field of a tab": (head(b"\tb: c"), 400, "folded"),
    "NUL": (head(b"a: b\0c"), 400, "0x00"),
    "an escape": (head(b"a: \x1b[31m"), 400, "0x1b"),
    "DEL in a name": (head(b"a\x7f: b"), 400, "0x7f"),
    "a blank before the colon": (head(b"content-length : 5"), 400, "not a field"),
    "no colon": (head(b"content-length"), 400, "not a field"),
    "no name": (head(b": 5"), 400, "not a field"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "host is missing"),
    "two hosts": (head(b"host: y"), 400, "2 times"),
    "an odd host": (b"GET / HTTP/1.1\r\nhost: a[b\r\n\r\n", 400, "'a[b'"),
    "a user in the host": (b"GET / HTTP/1.1\r\nhost: me@x\r\n\r\n", 400, "'me@x'"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\n", 400, "HTTP/2.0"),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400, "request line"),
    "no HTTP": (b"GET / FTP/1.1\r\n\r\n", 400, "request line"),
    "two blanks": (b"GET  / HTTP/1.1\r\nhost: x\r\n\r\n", 400, "request line"),
    "a long method": (head(method=b"A" * 33), 400, "method"),
    "a method that is none": (head(method=b"G[T"), 400, "method"),
    "not ASCII": (head(target="/é".encode()), 400, "ASCII"),
    "a relative target": (head(target=b"generate"), 400, "'generate'"),
    "a star": (head(target=b"*", method=b"GET"), 400, "'*'"),
    "another scheme": (head(target=b"ftp://x/"), 400, "'ftp://x/'"),
    "a scheme without a host": (head(target=b"http:///x"), 400, "'http:///x'"),
    "a user in the target": (head(target=b"http://me@x/"), 400, "me@x"),
    "a fragment": (head(target=b"/#x"), 400, "fragment"),
    "an encoded NUL": (head(target=b"/a%00"), 400, "control character"),
    "an encoded line end": (head(target=b"/a%0d%0a"), 400, "control character"),
    "an encoded C1": (head(target=b"/a%C2%9B"), 400, "control character"),
    "CONNECT": (head(target=b"x:443", method=b"CONNECT"), 405, "not a proxy"),
    "an expectation": (head(b"expect: a-miracle"), 417, "'a-miracle'"),
    "two expectations": (head(b"expect: 100-continue", b"expect: x"), 417, "x"),
    "a long target": (head(target=b"/" + b"a" * 9000), 414, "8192"),
    "many fields": (head(*[b"a: b"] * 101), 431, "102 fields"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00", 400, "TLS"),
    "nothing but a blank": (b" GET / HTTP/1.1", 400, "0x20"),
    "a long head": (head(b"a: " + b"b" * MAX_HEAD_BYTES), 431, str(MAX_HEAD_BYTES)),
    "a long head that has not ended": (HOST + b"a" * MAX_HEAD_BYTES, 431, str(MAX_HEAD_BYTES)),
    "a long target that has not ended": (b"GET /" + b"a" * MAX_HEAD_BYTES, 414, "8192"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refused(case: Case) -> None:
    raw, status, words = case
    with pytest.raises(Refused) as refused:
        take_head(bytearray(raw), 0)
    assert refused.value.status_code == status
    assert words in refused.value.detail


def parsed(*lines: bytes, target: bytes = b"/", method: bytes = b"POST") -> Head:
    return parse_head(head(*lines, target=target, method=method))


def test_what_is_read_of_a_head() -> None:
    found = parsed(b"Content-Length: 07", b"X-Odd:  a\xffb\t ", target=b"/a%20b?c=%00")
    assert (found.method, found.path, found.raw_path) == ("POST", "/a b", b"/a%20b")
    assert (found.query, found.version, found.length) == (b"c=%00", "1.1", 7)
    assert found.fields[1:] == [(b"content-length", b"07"), (b"x-odd", b"a\xffb")]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://Y:80/a?b", b"/a", b"b"),
        (b"HTTPS://[::1]", b"/", b""),
        (b"http://y?b", b"/", b"b"),
    ],
)
def test_the_host_of_an_absolute_target_counts(target: bytes, path: bytes, query: bytes) -> None:
    found = parsed(target=target)
    assert (found.raw_path, found.query) == (path, query)
    assert dict(found.fields)[b"host"] in (b"Y:80", b"[::1]", b"y")


@pytest.mark.parametrize(
    ("line", "is_last"),
    [(b"a: close", False), (b"connection: x, Close", True), (b"connection: keep-alive", False)],
)
def test_who_closes(line: bytes, is_last: bool) -> None:
    assert parsed(line).is_last == is_last
    old = b"GET / HTTP/1.0\r\n" + line + b"\r\n\r\n"
    assert parse_head(old).is_last


def test_continue_is_waited_for_where_a_body_comes() -> None:
    lines = (b"Expect: 100-Continue", b"content-length: 5")
    assert parsed(*lines).waits_for_continue
    assert not parsed(b"expect: 100-continue").waits_for_continue
    old = b"POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
    assert not parse_head(old).waits_for_continue


def test_empty_lines_before_a_request_are_allowed() -> None:
    received = bytearray(b"\r\n\r\n" + head() + b"rest")
    assert take_head(received, 0) is not None
    assert received == b"rest"
    received = bytearray(b"\r")
    assert take_head(received, 0) is None
    received += b"\n" + head()
    assert take_head(received, 1) is not None


tokens = st.text("abcXYZ019-_.~!#", min_size=1, max_size=8)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
RESERVED = {"host", "content-length", "transfer-encoding", "expect", "connection"}
fields = st.lists(st.tuples(tokens.filter(lambda name: name.lower() not in RESERVED), values))
framings = st.sampled_from([b"", b"Content-Length: 12\r\n", b"Transfer-Encoding: Chunked\r\n"])


def written(target: str, pairs: list[tuple[str, str]], framing: bytes) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs).encode()
    return b"POST /%b HTTP/1.1\r\nHost: x\r\n%b%b\r\n" % (target.encode(), framing, lines)


targets = st.text("abc/%47?&=.", max_size=12)  # no escape of these is a control character


@given(targets, fields, framings)
def test_good_heads_are_read_as_h11_reads_them(
    target: str, pairs: list[tuple[str, str]], framing: bytes
) -> None:
    raw = written(target, pairs, framing)
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(raw)
    request = oracle.next_event()
    assert isinstance(request, h11.Request)
    found = parse_head(raw)
    path = request.target.partition(b"?")
    assert (found.method.encode(), found.raw_path, found.query) == (
        request.method,
        path[0],
        path[2],
    )
    lowered = [(k, v.lower() if k == b"transfer-encoding" else v) for k, v in found.fields]
    assert lowered == list(request.headers)


@given(st.data())
def test_what_h11_refuses_is_refused(data: st.DataObject) -> None:
    good = bytearray(written("a", [("b", "c")], data.draw(framings)))
    for _ in range(data.draw(st.integers(1, 3))):  # bytes of it changed, dropped or doubled
        at = data.draw(st.integers(0, len(good) - 1))
        good[at : at + 1] = data.draw(st.binary(max_size=2))
    oracle = h11.Connection(h11.SERVER)
    oracle.receive_data(bytes(good))
    try:
        event = oracle.next_event()
    except h11.RemoteProtocolError:
        event = None
    try:
        found = take_head(bytearray(good), 0)
    except Refused:
        return
    if found is not None:  # we are never the more tolerant one, but for the empty line before
        assert isinstance(event, h11.Request) or good[:2] == b"\r\n"


@given(fields, st.lists(st.integers(0, 400), max_size=5))
def test_it_does_not_matter_how_a_head_is_cut(
    pairs: list[tuple[str, str]], cuts: list[int]
) -> None:
    raw = written("a", pairs, b"")
    received, searched, at, found = bytearray(), 0, 0, None
    for end in [*sorted(min(cut, len(raw)) for cut in cuts), len(raw)]:
        received += raw[at:end]
        at = end
        if found is None:
            found = take_head(received, searched)
            searched = len(received)
    assert found == parse_head(raw)
