"""When calls are sent again: the rule itself, and both clients over the wire."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_pair import KINDS, Kind, client_of
from jumplora_server.client import (
    Client,
    InputRefused,
    KeyRefused,
    Overloaded,
    RequestFailed,
    ServerFailed,
    Unreachable,
)
from jumplora_server.client.errors import retry_after_seconds
from jumplora_server.client.retries import Patience, Tries
from ports import deaf_address
from small_http import Asked, Said, http_server

READY = Said.of({"adapters": []})
PAGE = b"<html>"
CUT = Said(200, b"{}", missing=3)  # the connection breaks before the answer is whole


def refused(status: int, code: str = "queue_full", **headers: str) -> Said:
    return Said.of({"error": f"it says {code}", "error_type": code}, status, **headers)


class Server:
    """Says `said` one after the other, the last one for good."""

    def __init__(self, *said: Said) -> None:
        self._said = list(said)
        self.seen: list[Asked] = []

    def __call__(self, asked: Asked) -> Said:
        self.seen.append(asked)
        return self._said[min(len(self.seen), len(self._said)) - 1]


def waits_of(
    kind: Kind,
    said: Sequence[Said],
    call: Callable[[Any], Any] = lambda client: client.adapters(),
    **options: Any,
) -> tuple[list[float], int, RequestFailed | None]:
    """The seconds that a call would have waited, how often it was sent, and what it raised."""
    slept: list[float] = []
    server = Server(*said)
    raised = None
    # No time passes otherwise.
    waiting: dict[str, Any] = {"slept": slept.append, "clock": lambda: sum(slept)}
    with http_server(server) as url, client_of(kind, url, **waiting, **options) as client:
        try:
            call(client)
        except RequestFailed as failure:
            raised = failure
    return slept, len(server.seen), raised


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_after_as_long_as_it_says(kind: Kind, status: int) -> None:
    said = [refused(status, retry_after="7"), refused(status, retry_after="3"), READY]
    assert waits_of(kind, said) == ([7.0, 3.0], 3, None)
    slept, sent, raised = waits_of(kind, said, retries=1)
    assert (slept, sent, type(raised)) == ([7.0], 2, Overloaded)
    slept, sent, raised = waits_of(kind, said, retries=0)
    assert (slept, sent, type(raised)) == ([], 1, Overloaded)


@pytest.mark.parametrize("kind", KINDS)
def test_retry_after_may_be_a_date_and_is_not_undercut(kind: Kind) -> None:
    date = formatdate(time.time() + 6, usegmt=True)
    (seconds,), _, _ = waits_of(kind, [refused(503, retry_after=date), READY])
    assert 3 < seconds <= 6
    assert waits_of(kind, [refused(503, retry_after="30"), READY])[0] == [30.0]
    for asked, max_wait in (("1000", 30.0), ("9", 2.5)):
        said = [refused(503, retry_after=asked), READY]
        slept, sent, raised = waits_of(kind, said, max_wait=max_wait)
        assert (slept, sent) == ([], 1)
        assert isinstance(raised, Overloaded)
        assert raised.retry_after == float(asked)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", ["0", "-1", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_server_that_asks_not_to_wait_is_not_hammered(kind: Kind, asked: str) -> None:
    said = [refused(503, retry_after=asked)] * 3 + [READY]
    waits = waits_of(kind, said, retries=3, fraction=lambda: 1.0)
    assert waits == ([0.25, 0.5, 1.0], 4, None)


@pytest.mark.parametrize("kind", KINDS)
def test_without_retry_after_waits_double_less_a_random_part(kind: Kind) -> None:
    said = [Said(503, PAGE), Said(502, PAGE), Said(504, PAGE), READY]
    assert waits_of(kind, said, retries=3, fraction=lambda: 1.0) == ([0.25, 0.5, 1.0], 4, None)
    assert waits_of(kind, said, retries=3, fraction=lambda: 0.0)[0] == [0.125, 0.25, 0.5]
    capped = waits_of(kind, said, retries=3, fraction=lambda: 1.0, max_wait=0.3)
    assert capped[0] == [0.25, 0.3, 0.3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("said", "error"),
    [
        (refused(401, "unauthorized"), KeyRefused),
        (refused(422, "validation"), InputRefused),
        (refused(413, "input_too_long"), InputRefused),
        (refused(500, "generation"), ServerFailed),
        (refused(504, "timeout"), ServerFailed),  # the request's own deadline
        (refused(507, "memory_budget"), ServerFailed),
        (Said(500, PAGE), ServerFailed),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_what_would_not_help_is_not_sent_again(
    kind: Kind, said: Said, error: type[RequestFailed]
) -> None:
    slept, sent, raised = waits_of(kind, [said, READY])
    assert (slept, sent, type(raised)) == ([], 1, error)


@pytest.mark.parametrize("kind", KINDS)
def test_no_wait_is_longer_than_the_time_that_is_left(kind: Kind) -> None:
    slept, sent, raised = waits_of(kind, [refused(503, retry_after="8"), READY], timeout=5.0)
    assert (slept, sent, type(raised)) == ([], 1, Overloaded)


STATUS = {
    "task_id": "a", "version": "ab" * 32, "desired": "ab" * 32, "state": "READY",
    "degraded": False, "failure": None, "pinned": False, "in_flight": 0,
    "bytes": {"disk": 1, "host": 2, "device": 0}, "nonzeros": 5, "density": 0.5,
    "history": [], "manifest": None, "outcome": "unchanged", "adapters": [],
}  # fmt: skip
DONE = Said.of(STATUS)
SAFE: dict[str, Callable[[Any, Path], Any]] = {
    "adapters": lambda client, file: client.adapters(),
    "publish": lambda client, file: client.publish("a", file),
    "publish over": lambda client, file: client.publish("a", file, if_match="ab" * 32),
    "rollback to": lambda client, file: client.rollback("a", "abababab"),
    "stage": lambda client, file: client.stage("a", "abababab", 0.1),
    "alias": lambda client, file: client.alias("a", "best", "abababab"),
    "load": lambda client, file: client.load("a"),
    "pin": lambda client, file: client.pin("a"),
}
UNSAFE: dict[str, Callable[[Any, Path], Any]] = {
    "rollback": lambda client, file: client.rollback("a"),
    "promote": lambda client, file: client.promote("a"),
    "unstage": lambda client, file: client.unstage("a"),
    "remove": lambda client, file: client.remove("a"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"content" * 300_000)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SAFE)
@pytest.mark.parametrize("lost", [CUT, refused(503, "store_busy"), Said(502, PAGE)])
def test_a_call_that_may_be_repeated_is_where_its_answer_was_lost(
    kind: Kind, name: str, lost: Said, file: Path
) -> None:
    server = Server(lost, DONE)
    with http_server(server) as url, client_of(kind, url, slept=lambda _: None) as client:
        SAFE[name](client, file)
    first, second = server.seen
    assert (first.method, first.path, first.body) == (second.method, second.path, second.body)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("lost", [CUT, refused(503, "store_busy"), Said(502, PAGE)])
def test_a_change_that_may_have_begun_is_not(kind: Kind, name: str, lost: Said, file: Path) -> None:
    _, sent, raised = waits_of(kind, [lost, DONE], lambda client: UNSAFE[name](client, file))
    assert sent == 1
    assert raised is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*SAFE, *UNSAFE])
def test_every_call_is_sent_again_that_did_not_reach_the_server(
    kind: Kind, name: str, file: Path
) -> None:
    call = {**SAFE, **UNSAFE}[name]
    said = [refused(503, "draining", retry_after="2"), DONE]
    assert waits_of(kind, said, lambda client: call(client, file)) == ([2.0], 2, None)
    slept: list[float] = []
    with (
        deaf_address() as url,
        client_of(kind, url, slept=slept.append, fraction=lambda: 1.0) as client,
        pytest.raises(Unreachable) as caught,
    ):
        call(client, file)
    assert slept == [0.25, 0.5]
    assert not caught.value.was_sent


EVENT = b'data:{"index":0,"token":{"id":5,"text":"y","logprob":null,"special":false}}\n\n'


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_asked_for_again_before_its_first_event_only(kind: Kind) -> None:
    def read(client: Any) -> None:
        for event in client.stream("a", "x"):
            assert event.token.text == "y"

    slept, sent, raised = waits_of(kind, [refused(503, retry_after="4"), Said(200, EVENT)], read)
    assert (slept, sent) == ([4.0], 2)
    assert raised is not None
    assert raised.code == "broken_off"
    said = [Said(200, EVENT, missing=5), Said(200, EVENT)]
    slept, sent, raised = waits_of(kind, said, read)
    assert (slept, sent, type(raised)) == ([], 1, Unreachable)


@pytest.mark.parametrize("kind", KINDS)
def test_wait_ready_asks_until_the_server_is(kind: Kind) -> None:
    starting = Said.of({"status": "unavailable", "checks": {"adapters": "loading"}}, 503,
                       retry_after="1")  # fmt: skip
    proxy = Said(503, PAGE, {"retry-after": "1000"})  # is asked again all the same
    said = [*[starting] * 4, proxy, Said.of({})]
    slept, sent, raised = waits_of(kind, said, lambda client: client.wait_ready(60), retries=0)
    assert (slept, sent, raised) == ([1.0] * 5, 6, None)
    slept, sent, raised = waits_of(kind, [starting], lambda client: client.wait_ready(10))
    assert (slept, sent, type(raised)) == ([1.0] * 9, 10, Overloaded)
    assert "adapters: loading" in str(raised)


@contextmanager
def dripping() -> Iterator[str]:
    """A server that sends a byte of its endless answer every 20 ms."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
                try:
                    while not over.wait(0.02):
                        connection.sendall(b" ")
                except OSError:  # the client hung up
                    over.set()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join(20)


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_ends_with_its_time_however_slowly_it_is_answered(kind: Kind) -> None:
    begun = time.monotonic()
    with (
        dripping() as url,
        client_of(kind, url, timeout=0.3) as client,
        pytest.raises(Unreachable, match=r"no answer within 0\.3 s") as caught,
    ):
        client.adapters()
    assert caught.value.code == "timeout"
    assert time.monotonic() - begun < 10


def test_an_upload_ends_with_its_time(file: Path) -> None:
    passed: list[float] = []
    server = Server(DONE)
    with (
        http_server(server) as url,
        Client(url, timeout=20, clock=lambda: sum(passed)) as client,
    ):
        with pytest.raises(Unreachable, match="no answer within 20 s"):
            client.publish("a", file, on_sent=lambda sent, total: passed.append(15))
        assert client.is_ready()  # on another connection
    assert len(passed) == 2, "of three pieces"


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_is_not_answered_ends_with_its_time(kind: Kind) -> None:
    over = threading.Event()

    def never(_: Asked) -> Said:
        over.wait(20)
        return READY

    with http_server(never) as url, client_of(kind, url, timeout=0.3) as client:
        try:
            with pytest.raises(Unreachable, match=r"no answer within 0\.\d+ s"):
                client.adapters()
        finally:
            over.set()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("-7", None),
        ("7.5", None),
        ("٣", None),
        ("soon", None),
        (formatdate(1_000_009, usegmt=True), 9.0),
        (formatdate(999_000, usegmt=True), 0.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, 1_000_000.0) == seconds


@pytest.mark.parametrize(
    "options", [{"retries": -1}, {"timeout": 0}, {"max_wait": 0.0}, {"timeout": float("inf")}]
)
def test_patience_that_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Patience(**options)


@given(
    retries=st.integers(0, 50),
    max_wait=st.floats(0.01, 100),
    timeout=st.floats(0.01, 100),
    asked=st.lists(st.none() | st.floats(0, 1000), min_size=60, max_size=60),
    fraction=st.floats(0, 1),
)
def test_all_waits_fit_into_the_time(
    retries: int, max_wait: float, timeout: float, asked: list[float | None], fraction: float
) -> None:
    now = 0.0
    patience = Patience(retries, max_wait, timeout, lambda: fraction, lambda: now)
    tries, waits = Tries(patience, "safe"), list[float]()
    for seconds in asked:
        failure = Overloaded("busy", status=503, retry_after=seconds)
        try:
            waits.append(tries.wait_after(failure))
        except Overloaded:
            break
        now += waits[-1]
        assert waits[-1] <= max_wait
        assert seconds is None or seconds < 0.25 or waits[-1] == seconds
        assert waits[-1] >= min(max_wait, 0.25) / 2
        assert seconds is None or waits[-1] >= seconds
        assert tries.seconds_left > 0
    assert len(waits) <= retries
    assert now < timeout
