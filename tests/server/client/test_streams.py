"""A stream's events, whatever the pieces in which its bytes come."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.client import RequestFailed, Unreachable
from jumplora_server.client.calls import stream
from jumplora_server.client.streams import Events

CALL = stream("a", "x", None, None)
URL = "http://server"


def event(text: str, generated: str | None) -> bytes:
    token = {"id": 1, "text": text, "logprob": -0.5, "special": False}
    fields = {"index": 0, "token": token, "generated_text": generated}
    return b"data:" + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


@given(st.data(), st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_any_pieces_give_the_same_events(data: st.DataObject, texts: list[str]) -> None:
    body = b"".join(event(text, None) for text in texts) + event("", "all")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=10)))
    events = Events(CALL, URL)
    found = [
        each
        for first, last in zip([0, *cuts], [*cuts, len(body)], strict=True)
        for each in events.read(body[first:last])
    ]
    assert [each.token.text for each in found if each.token is not None] == [*texts, ""]
    assert found[-1].generated_text == "all"
    events.end()


def test_a_stream_without_its_end() -> None:
    events = Events(CALL, URL)
    assert not events.has_begun
    with pytest.raises(RequestFailed, match="no event came"):
        events.end()
    assert len(list(events.read(event("a", None)))) == 1
    assert events.has_begun
    assert list(events.read(event("b", "ab")[:-2])) == []  # its last line has no end
    with pytest.raises(Unreachable, match="broke off after 1 events"):
        events.end()


@pytest.mark.parametrize("line", [b"data:x", b"data:[]", b"data:{}", b"data:\xff"])
def test_lines_that_are_no_events(line: bytes) -> None:
    with pytest.raises(RequestFailed, match="as a JumpLoRA server would"):
        list(Events(CALL, URL).read(line + b"\n"))
