"""What the sending processes send and tell: to servers that answer, refuse or are not there."""

from __future__ import annotations

import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.fuzz import _Run
from jumplora_bench.reliability.siege import flood, own_sender
from jumplora_bench.reliability.siege.odd_bodies import BODIES
from jumplora_bench.reliability.siege.odd_changes import CHANGES, KEY
from jumplora_bench.reliability.siege.odd_dialects import DIALECTS
from jumplora_bench.reliability.siege.odd_framing import FRAMING
from jumplora_bench.reliability.siege.odd_heads import HEADS
from jumplora_bench.reliability.siege.own_sender import KINDS, PROGRESS
from jumplora_bench.reliability.siege.quiet import QuietTask
from jumplora_bench.reliability.siege.senders import Sender
from jumplora_bench.reliability.siege.shot import TASKS, Kind, Shot, body_of
from ports import deaf_address, held_port
from small_http import Said, http_server

SEEDS = range(60)


def shots(kind: Kind) -> list[Shot]:
    return [kind(random.Random(seed)) for seed in SEEDS]


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Lines that a sender printed."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_kinds_are_those_of_all_files() -> None:
    files = (FRAMING, HEADS, BODIES, DIALECTS, CHANGES)
    assert {*KINDS} == {kind for kinds in files for kind in kinds}
    assert len(KINDS) == sum(map(len, files))


def test_a_request_in_pure_json_has_a_length_that_is_right() -> None:
    """What is odd about these is the body: the framing must let it through."""
    for name, kind in {**BODIES, **DIALECTS}.items():
        for shot in shots(kind):
            top, _, body = shot.raw.partition(b"\r\n\r\n")
            (length,) = re.findall(rb"content-length: (\d+)", top)
            assert int(length) == len(body), name
            assert top.count(b"content-type: application/json") == 1, name


def lengths(raw: bytes) -> list[bytes]:
    return re.findall(rb"content-length: (.*)", raw.partition(b"\r\n\r\n")[0].replace(b"\r", b""))


def test_framing_is_odd_in_the_way_it_is_named_for() -> None:
    for shot in shots(FRAMING["conflicting lengths"]):
        assert len(lengths(shot.raw)) == len({*lengths(shot.raw)}) == 2
    for shot in shots(FRAMING["repeated length"]):
        given = b", ".join(lengths(shot.raw)).split(b", ")
        assert len(given) == 2
        assert len({*given}) == 1
    for shot in shots(FRAMING["length and chunks"]):
        assert len(lengths(shot.raw)) == 1
        assert b"transfer-encoding: chunked\r\n" in shot.raw
    for shot in shots(FRAMING["bare line feed"]):
        top = shot.raw[: shot.raw.index(b"{")]
        assert re.search(rb"(?<!\r)\n", top), "a line ends without CR"
    for shot in shots(FRAMING["after close"]):
        assert len(shot.methods) == 1
        assert shot.raw.count(b" HTTP/1.") == 2, "two requests, of which one may be answered"
    for shot in shots(FRAMING["pipelined"]):
        assert shot.raw.count(b" HTTP/1.1\r\n") == len(shot.methods) > 1
    for shot in shots(FRAMING["cut short"]):
        assert shot.ending != "wait"
        assert shot.may_be_cut


def test_sound_chunks_carry_a_sound_body() -> None:
    for shot in shots(FRAMING["chunks"]):
        _, _, rest = shot.raw.partition(b"\r\n\r\n")
        body = b""
        while True:
            line, _, rest = rest.partition(b"\r\n")
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            body, rest = body + rest[:size], rest[size + 2 :]
        assert json.loads(body).keys() == {"task_id", "text", "parameters"}


def refused_by_json(raw: bytes) -> bool:
    def twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    try:
        json.loads(raw, object_pairs_hook=twice)
    except (ValueError, RecursionError):
        return True
    return False


def bodies(name: str) -> list[bytes]:
    return [shot.raw.partition(b"\r\n\r\n")[2] for shot in shots(BODIES[name])]


def test_bodies_are_odd_in_the_way_they_are_named_for() -> None:
    assert all(refused_by_json(body) for body in bodies("duplicate keys"))
    for body in bodies("no object"):
        is_object = not refused_by_json(body) and isinstance(json.loads(body), dict)
        assert not is_object or body == b"{}"
    for body in bodies("unknown keys"):
        known = {"task_id", "text", "parameters", "max_new_tokens"}
        document = json.loads(body)
        assert (document.keys() | document["parameters"].keys()) - known
    sizes = {len(json.loads(body)["text"]) for body in bodies("many prompts")}
    assert {0, 16, 64, 65} <= sizes, "the limit, and one more"
    for body in bodies("odd task"):
        assert len(json.loads(body).keys() & {"task_id", "adapter_id", "model"}) == 1


def test_changes_carry_the_operators_key_and_spare_served_tasks() -> None:
    for name in ("odd upload", "odd change"):
        for shot in shots(CHANGES[name]):
            assert KEY.encode() in shot.raw
            assert shot.allowed is None
            if shot.methods == ("DELETE",):
                target = shot.raw.split()[1].decode()
                assert target.removeprefix("/v1/adapters/") not in TASKS
    for shot in shots(CHANGES["odd key"]):
        assert shot.allowed is not None
        assert not shot.allowed & {200, 201}


def test_a_sound_body_keeps_what_is_not_changed() -> None:
    body = body_of(random.Random(1), text=["x"])
    assert body["task_id"] in TASKS
    assert body["text"] == ["x"]
    assert body.keys() == {"task_id", "text", "parameters"}


@pytest.mark.parametrize("count", [1, PROGRESS - 1, PROGRESS, PROGRESS + 1, 2 * PROGRESS + 5])
def test_every_number_is_told_as_done_though_nobody_answers(
    count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with deaf_address() as url:
        own_sender.main(url, "key", 3, range(count))
    lines = told(capsys)
    assert sum(line.get("done", 0) for line in lines) == count
    faults = [line for line in lines if "fault" in line]
    assert [line["number"] for line in faults] == list(range(count))
    assert all(line["fault"].startswith("no connection: ") for line in faults)


def test_answers_are_judged_and_counted_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    broken = Said(500, b"oops")
    number = list(KINDS).index("odd parameter")
    with http_server(lambda asked: broken) as url:
        own_sender.main(url, "key", 3, range(number, number + 1))
    *faults, last = told(capsys)
    assert last == {"done": 1, "statuses": {"odd parameter|500": 1}}
    (fault,) = faults
    assert fault["fault"].startswith("5xx: 500 b'oops'")
    assert fault["case"] == "odd parameter"


def test_the_key_takes_the_place_that_is_kept_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    keys: list[str] = []
    number = list(KINDS).index("odd change")

    def answer(asked: Any) -> Said:
        keys.append(asked.headers["authorization"])
        return Said.of({"error": "e", "error_type": "t"}, 404)

    with http_server(answer) as url:
        own_sender.main(url, "the-key", 3, range(number, number + 1))
    assert keys == ["Bearer the-key"]
    assert "the-key" not in capsys.readouterr().out


def test_a_senders_lines_become_findings_and_a_few_samples() -> None:
    done: list[int] = []
    run = _Run(Findings(), 100, lambda now, wanted: done.append(now))
    for turn in range(5):
        run.told({"fault": f"5xx: {turn}", "case": "odd text", "sent": "x"})
    run.told({"done": 20})
    run.told({"done": 5, "statuses": {"odd text|500": 5}})
    run.told({"fault": "error form: x", "case": "odd text"})
    assert done[-1] == run.done == 25
    assert len(run.findings.faults) == 6
    assert [line["fault"] for line in run.samples] == ["5xx: 0", "5xx: 1", "error form: x"]
    assert run.statuses == {"odd text|500": 5}


def test_a_sender_is_a_process_whose_lines_are_heard() -> None:
    lines: list[dict[str, Any]] = []
    with (
        http_server(lambda asked: Said.of({})) as url,
        Sender("own_sender", url, "key", 1, 0, 3, 1, on_told=lines.append) as sender,
    ):
        assert sender.wait(60) == 0
    assert sum(line.get("done", 0) for line in lines) == 3
    assert sum(lines[-1]["statuses"].values()) >= 1


def test_a_sender_that_runs_on_is_ended_with_the_block() -> None:
    lines: list[dict[str, Any]] = []
    heard = threading.Event()

    def on_told(line: dict[str, Any]) -> None:
        lines.append(line)
        heard.set()

    with http_server(lambda asked: Said.of({}, 404)) as url:
        with Sender("flood", url, "unknown tasks", 2, on_told=on_told) as sender:
            assert heard.wait(30)
            assert sender.wait(0.01) is None
        assert sender.wait(10) == -9
    assert lines[-1]["came"].keys() == {"404"}


@pytest.mark.parametrize("kind", flood.FLOODS)
def test_a_flood_sends_whole_requests_under_a_megabyte_or_two(kind: str) -> None:
    requests = flood.FLOODS[kind]()
    first, second = next(requests), next(requests)
    assert first.startswith((b"POST ", b"PUT ", b"GET "))
    top, _, body = first.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", top)
    if length:
        assert int(length[1]) == len(body)
    elif b"chunked" in top:
        assert body.endswith(b"0\r\n\r\n")
    else:
        assert body == b""
    assert len(first) < 10_000_000
    assert (first != second) == (kind == "unknown tasks")


def test_all_floods_take_turns() -> None:
    turns = flood.all_in_turn()
    first = [next(turns) for _ in flood.FLOODS]
    assert len({*first}) == len(first)
    assert next(turns) == first[0]


def quiet_answers(*said: Said) -> Callable[[Any], Said]:
    turns = iter([*said, *[said[-1]] * 100])
    return lambda asked: next(turns)


@pytest.mark.parametrize(
    ("said", "trouble"),
    [
        pytest.param(Said(200, b"half an ans"), "no answer of ours: half an ans", id="no JSON"),
        pytest.param(Said(200, b"\xff"), "no answer of ours: \ufffd", id="no UTF-8"),
        pytest.param(Said.of([]), "no answer of ours: []", id="no object"),
        pytest.param(Said.of({"error": "x"}), 'no answer of ours: {"error": "x"}', id="no text"),
        pytest.param(Said(200, b"{", missing=5), "no answer: IncompleteRead", id="cut"),
        pytest.param(Said.of({}, 429), "429 {}", id="refused"),
    ],
)
def test_the_quiet_task_misses_no_broken_answer(said: Said, trouble: str) -> None:
    with http_server(quiet_answers(said)) as url:
        calm = QuietTask(url).watch(0.25)
    assert len(calm.refused) == 1
    assert calm.refused[0].startswith(trouble)
    assert (calm.seconds, calm.wrong) == ([], [])
    assert calm.p95 == calm.median == float("inf")


def test_the_quiet_task_times_from_when_it_was_due_and_stops_when_told() -> None:
    with held_port() as port:
        stop = threading.Event()
        stop.set()
        assert QuietTask(f"http://127.0.0.1:{port}").watch(60.0, stop).seconds == []
    with http_server(lambda asked: Said.of({"generated_text": "x"})) as url:
        task = QuietTask(url)
        task.learn()
        calm = task.watch(0.5)
    assert len(calm.seconds) == 2
    assert Counter(calm.wrong) == {}
    assert all(0 < seconds < 5 for seconds in calm.seconds)
