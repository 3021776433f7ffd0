"""Bodies, with h11 as the oracle of chunks."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.http.bodies import FREE_FRAMING_BYTES, ChunkedBody, SizedBody
from jumplora_server.http.refusal import Refused

REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
FOLLOWING = b"GET / HTTP/1.1\r\n"


def read(body: SizedBody | ChunkedBody, raw: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """The data, and what follows the body."""
    received, data, at = bytearray(), b"", 0
    for end in [*sorted(min(cut, len(raw)) for cut in cuts), len(raw)]:
        received += raw[at:end]
        at = end
        data += body.take(received)
    return data, bytes(received)


def oracle(raw: bytes) -> bytes:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(REQUEST + raw)
    data = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            data += event.data
        assert event is not h11.NEED_DATA
    return data


cuts = st.lists(st.integers(0, 200), max_size=6)
chunks = st.lists(
    st.tuples(st.binary(min_size=1, max_size=20), st.sampled_from(["", ";a", ";a=b", " ; a"]))
)
trailers = st.sampled_from([b"", b"a: b\r\n", b"a: b\r\nc:\r\n"])


@given(chunks, trailers, cuts)
def test_chunks_are_read_as_h11_reads_them(
    pieces: list[tuple[bytes, str]], trailer: bytes, cuts: list[int]
) -> None:
    raw = b"".join(b"%x%b\r\n%b\r\n" % (len(d), e.encode(), d) for d, e in pieces)
    raw += b"0\r\n" + trailer + b"\r\n"
    body = ChunkedBody()
    data, rest = read(body, raw + FOLLOWING, cuts)
    assert body.is_complete
    assert rest == FOLLOWING
    assert data == b"".join(d for d, _ in pieces)
    if " ;" not in "".join(e for _, e in pieces):  # bad whitespace, which h11 refuses
        assert data == oracle(raw)


@given(st.binary(max_size=50), cuts)
def test_sized_bodies(data: bytes, cuts: list[int]) -> None:
    body = SizedBody(len(data))
    assert body.is_complete == (not data)
    assert read(body, data + FOLLOWING, cuts) == (data, FOLLOWING)
    assert body.is_complete


MALFORMED = {
    "bare line feed": b"5\nhello\r\n0\r\n\r\n",
    "bare line feed at the end": b"0\r\n\n",
    "bare line feed in a trailer": b"0\r\na: b\n\r\n",
    "a longer chunk": b"5\r\nhello!\r\n",
    "a chunk with a bare return": b"5\r\nhello\rX\r\n",
    "no size": b"\r\nhello",
    "not hexadecimal": b"5g\r\n",
    "a signed size": b"-5\r\n",
    "a prefixed size": b"0x5\r\n",
    "a huge size": b"f" * 17 + b"\r\n",
    "a control in an extension": b"5;\x00\r\n",
    "a long extension": b"5;" + b"a" * 2000,
    "a folded trailer": b"0\r\na: b\r\n c\r\n\r\n",
    "many trailers": b"0\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("cuts", [[], list(range(100))], ids=["whole", "byte by byte"])
def test_malformed_chunks_are_refused(raw: bytes, cuts: list[int]) -> None:
    with pytest.raises(Refused, match="malformed") as refused:
        read(ChunkedBody(), raw, cuts)
    assert refused.value.status_code == 400


TINY_CHUNKS = {
    "of one byte": b"1\r\na\r\n",
    "of four bytes": b"4\r\nabcd\r\n",
    "with leading zeros": b"00000000001\r\na\r\n",
    "with an extension": b"8;" + b"e" * 100 + b"\r\nabcdefgh\r\n",
}


@pytest.mark.parametrize("chunk", TINY_CHUNKS.values(), ids=TINY_CHUNKS.keys())
def test_tiny_chunks_are_allowed_for_a_while(chunk: bytes) -> None:
    few = FREE_FRAMING_BYTES // len(chunk)
    body = ChunkedBody()
    read(body, chunk * few + b"0\r\n\r\n", [])
    assert body.is_complete
    with pytest.raises(Refused, match="chunks are too small") as refused:
        read(ChunkedBody(), chunk * 100_000, list(range(0, 100_000, 1000)))
    assert (refused.value.status_code, refused.value.reason) == (400, "body")


def test_small_chunks_that_are_mostly_data_are_read_to_the_end() -> None:
    body, received, size = ChunkedBody(), bytearray(), 0
    for _ in range(5000):
        received += b"10\r\n0123456789abcdef\r\n"
        size += len(body.take(received))
    assert size == 5000 * 16


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    body = ChunkedBody()
    try:
        data, rest = read(body, raw, [])
    except Refused:
        return
    assert len(data) + len(rest) <= len(raw)
