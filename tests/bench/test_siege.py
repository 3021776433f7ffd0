"""Fuzzed requests, crowds and floods, tiny, on a real server; and that their checks can fail."""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_bench.reliability.connections import CROWDS, ConnectionsPlan, measure_connections
from jumplora_bench.reliability.costly import CostlyPlan, measure_costly
from jumplora_bench.reliability.fuzz import FuzzPlan, measure_fuzz
from jumplora_bench.reliability.siege.crowd import KINDS as CROWD_KINDS
from jumplora_bench.reliability.siege.judge import fault_of, form_at
from jumplora_bench.reliability.siege.log_reading import faults_of_log
from jumplora_bench.reliability.siege.own_sender import KINDS, faults_of, shot_of
from jumplora_bench.reliability.siege.quiet import Calm, QuietTask
from jumplora_bench.reliability.siege.shot import Shot, head, post
from jumplora_bench.reliability.siege.wire import Answer, Heard, exchange, first_answer
from jumplora_bench.report import Report

PYTHON = Path(sys.executable)
slow = pytest.mark.slow
JSON = {"content-type": "application/json"}
SOUND = b'{"error": "no such task", "error_type": "unknown_task"}'


def quiet(*_: object) -> None:
    """Progress that nobody looks at."""


def failed(report: Report) -> set[str]:
    """Names of the checks that failed."""
    faults: list[dict[str, str]] = report.data["faults"]  # type: ignore[assignment]
    return {fault["what"].split(":")[0] for fault in faults}


@slow
def test_fuzz() -> None:
    report = measure_fuzz(FuzzPlan(PYTHON, 200, 3, rounds=1), "test", quiet, quiet)
    checks: dict[str, int] = report.data["checks"]  # type: ignore[assignment]
    assert checks["requests"] == 200
    assert checks["quiet answers"] > 0
    statuses: dict[str, int] = report.data["statuses"]  # type: ignore[assignment]
    assert {name.partition("|")[0] for name in statuses} >= set(KINDS)
    assert any(name.startswith("positive POST /generate|") for name in statuses)
    assert failed(report) <= {"flat memory"}, "so few requests only warm it up"


@slow
def test_connections() -> None:
    plan = ConnectionsPlan(PYTHON, 1.0, share=0.02, drop_seconds=1.0)
    report = measure_connections(plan, "test", quiet, quiet)
    phases: list[dict[str, object]] = report.data["phases"]  # type: ignore[assignment]
    assert [phase["opened"] for phase in phases] == [0, 40, 40, 8, 2, 2, 2, 0]
    assert phases[1]["came"] == {"200": 20}, "every second idle connection had an answer"
    assert int(str(phases[1]["held"])) >= 40
    assert "alive" not in failed(report)
    assert "no socket kept" not in failed(report)
    assert {crowd.kind for crowd in CROWDS} == set(CROWD_KINDS)


@slow
def test_costly() -> None:
    report = measure_costly(CostlyPlan(PYTHON, 2.0, count=2), "test", quiet, quiet)
    floods: list[dict[str, object]] = report.data["floods"]  # type: ignore[assignment]
    assert floods[1]["came"].keys() == {"413"}  # type: ignore[attr-defined]
    assert not failed(report) & {"alive", "no 5xx", "it was answered", "quiet task right"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_the_same_for_its_seed_and_number(kind: str) -> None:
    number = list(KINDS).index(kind)
    assert shot_of(7, number) == shot_of(7, number)
    assert shot_of(7, number)[0] == kind
    made = {KINDS[kind](random.Random(seed)).raw for seed in range(20)}
    assert len(made) > 1


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Answer(200, JSON, b'{"a": 1}'), None),
        (Answer(404, JSON, SOUND), None),
        (Answer(503, {"retry-after": "1"}, SOUND.replace(b"unknown_task", b"queue_full")), None),
        (Answer(503, {}, SOUND.replace(b"unknown_task", b"queue_full")), "5xx"),
        (Answer(503, {"retry-after": "1"}, SOUND), "5xx"),
        (Answer(500, JSON, SOUND), "5xx"),
        (Answer(504, JSON, SOUND.replace(b"unknown_task", b"timeout")), None),
        (Answer(400, {}, b"Invalid HTTP request received."), "error form"),
        (Answer(422, JSON, b'{"error": "", "error_type": "x"}'), "error form"),
        (Answer(422, JSON, b'{"error": "a\\u202eb", "error_type": "x"}'), "error text"),
        (Answer(422, JSON, b'{"error": "%s", "error_type": "x"}' % (b"a" * 9000)), "error length"),
        (Answer(200, JSON, b'{"logprob": NaN}'), "answer is not JSON"),
        (Answer(200, {}, b"data", b"HTTP/1.1 200 OK\r\nx: a\x1bb"), "header bytes"),
    ],
)
def test_judge(answer: Answer, fault: str | None) -> None:
    found = fault_of(answer, "POST")
    assert (found and found.split(":")[0]) == fault


OPENAI = b'{"error": {"message": "why", "type": "t", "param": null, "code": "timeout"}}'


@pytest.mark.parametrize(
    ("path", "status", "body", "fault"),
    [
        ("/v1/completions", 404, OPENAI, None),
        ("/v1/nowhere", 404, SOUND, "error form"),
        ("/v1", 404, b'{"error": {"message": "why", "type": "t", "param": null}}', "error form"),
        ("/v1", 504, OPENAI, None),
        ("/v1", 507, OPENAI, "5xx"),
        ("/v1x", 404, SOUND, None),
        ("/v1/adapters/agnews", 404, SOUND, None),
        ("/v1/tasks/agnews/generate", 404, OPENAI, "error form"),
        ("/v2/models/agnews", 404, b'{"error": "why"}', None),
        ("/v2/models/agnews", 504, b'{"error": "why"}', None),
        ("/v2/models/agnews", 500, b'{"error": "why"}', "5xx"),
        ("/v2/models/agnews", 503, b'{"error": "why"}', "5xx"),  # without retry-after
        ("/v2/models/agnews", 404, SOUND, "error form"),
        ("/tokenize", 400, b'{"error": "why"}', "error form"),
        ("/tokenize", 400, b'{"error": "why", "error_type": "bad_request"}', None),
        ("/", 404, b'{"error": "why"}', "error form"),
        ("/", 404, SOUND, None),
    ],
)
def test_an_error_has_the_form_of_its_path(
    path: str, status: int, body: bytes, fault: str | None
) -> None:
    found = fault_of(Answer(status, JSON, body), "POST", form=form_at(path))
    assert (found and found.split(":")[0]) == fault


def test_an_answer_that_must_not_be_is_a_fault() -> None:
    assert "must be 400" in str(fault_of(Answer(200, {}, b""), "POST", frozenset((400,))))
    assert fault_of(Answer(404, {}, b""), "HEAD") is None


def test_too_few_and_too_many_answers_are_faults() -> None:
    sound = Answer(404, JSON, SOUND)
    shot = Shot(b"", methods=("GET",))
    assert faults_of(shot, Heard([sound])) == []
    assert "more answers" in faults_of(shot, Heard([sound, sound]))[0]
    assert "no answer" in faults_of(shot, Heard([], end="closed"))[0]
    assert faults_of(Shot(b"", may_be_cut=True), Heard([], end="reset")) == []
    assert "no answer" in faults_of(Shot(b"", may_be_cut=True), Heard([], end="silent"))[0]


@given(st.lists(st.binary(max_size=50), max_size=5), st.booleans(), st.data())
def test_answers_are_read_whole(bodies: list[bytes], chunked: bool, data: st.DataObject) -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\n"
    for body in bodies:
        raw += _written(body, data.draw(st.integers(1, 9)) if chunked else 0)
    cut = data.draw(st.integers(0, len(raw)))
    found: list[Answer] = []
    for end in (cut, len(raw)):
        at = 0
        found = []
        while at < end and (first := first_answer(raw[at:end], "GET", is_over=False)):
            found.append(first[0])
            at += first[1]
        assert len(found) <= len(bodies) + 1
    assert [answer.body for answer in found[1:]] == bodies


def _written(body: bytes, chunk: int) -> bytes:
    if not chunk:
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@contextmanager
def listening(*said: bytes, reads: int = 1) -> Iterator[tuple[str, int]]:
    """A server that reads so many bytes, says that, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while reads and not connection.recv(reads):
                    return
                for piece in said:
                    connection.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()
        thread.join(10)


def test_an_answer_before_the_end_of_the_request_is_read() -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno"
    with listening(refusal, reads=100) as address:
        heard = exchange(address, post(b"a" * 50_000_000), seconds=10)
    assert [answer.status for answer in heard.answers] in ([413], []), "a reset may overtake it"
    assert heard.end in ("closed", "reset")


def test_an_answer_to_what_was_no_request_is_heard() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    with listening(answer, answer, reads=1000) as address:
        heard = exchange(address, head("GET", "/"), methods=("GET",), seconds=10)
    assert len(heard.answers) == 2


def test_the_log_is_read_for_what_must_not_be_there(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"12:00 INFO fine\n12:01 ERROR broken\nTraceback (most recent call last):\n")
    (fault,) = faults_of_log(log)
    assert fault == "traceback: after ERROR broken"
    log.write_bytes("12:00 INFO task=\x1b[2J\n12:01 INFO task=\u202e\n".encode() + b"\xff\n")
    assert [fault.split(":")[0] for fault in faults_of_log(log)] == [
        "log characters", "log characters", "log bytes",
    ]  # fmt: skip


class Answering(BaseHTTPRequestHandler):
    """Answers the texts of `said` in turn; an empty one is a refusal."""

    said: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        text = self.said.pop(0)
        self.send_response(200 if text else 503)
        self.end_headers()
        self.wfile.write(json.dumps({"generated_text": text}).encode())

    def log_message(self, *_: object) -> None:
        """Not to standard error."""


def test_the_quiet_task_sees_refusals_and_wrong_answers() -> None:
    Answering.said = ["a", "b", "c", "a", "wrong", "", "a"]
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        task = QuietTask(f"http://127.0.0.1:{server.server_port}")
        task.learn()
        calm = task.watch(1.0)
        server.shutdown()
        thread.join(10)
    assert len(calm.seconds) == 3
    assert list(calm.wrong) == ["'wrong' instead of 'b'"]
    assert calm.refused[0].startswith("503")


def test_the_p95_counts_from_the_slow_end() -> None:
    calm = Calm([index / 100 for index in range(1, 101)], (), ())
    assert (calm.p95, calm.median) == (0.95, 0.5)
    assert Calm((), (), ()).p95 == float("inf")
