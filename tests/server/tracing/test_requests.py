"""What a collector gets of requests to a real server over HTTP."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from collector import ERROR, SERVER, Collector, Received, collecting
from jumplora_server.tracing.request_span import MAX_SEQUENCES
from serving import Site, connected, make_site, slow_down, wait_for

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SECRET = "of-nobody-elses-business"
NS_OF_ROUNDING = 2000  # times are floats until they are nanoseconds


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


@pytest.fixture
def site(tmp_path: Path, collector: Collector) -> Site:
    """Its spans are at the collector once it has stopped."""
    return make_site(tmp_path, traces="otlp")


def generation(collector: Collector, route: str) -> Received:
    return collector.one(f"POST {route}")


def check_phases(server: Received, children: list[Received]) -> None:
    """They are in the server span, one behind the other without gaps."""
    for child in children:
        assert child.trace_id == server.trace_id
        assert server.start <= child.start <= child.end <= server.end
    for before, after in pairwise(children):
        assert abs(after.start - before.end) <= NS_OF_ROUNDING


def test_a_streamed_request(site: Site, collector: Collector) -> None:
    before = time.time_ns()
    with connected(site) as http:
        version = site.publish("topics")
        body = {"task_id": "topics", "inputs": SECRET, "parameters": {"max_new_tokens": 9}}
        headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=7"}
        site.engine.encode_seconds = 0.01
        with slow_down(site):
            answer = http.post("/generate_stream", json=body, headers=headers)
    assert answer.status_code == 200
    assert answer.text.count("data:") == 9
    server = generation(collector, "/generate_stream")
    assert (server.trace_id, server.parent_id) == (TRACE, PARENT)
    assert (server.kind, server.state, server.status) == (SERVER, "vendor=7", 0)
    assert before < server.start < server.end < time.time_ns()
    children = collector.children(server)
    assert [child.name for child in children] == ["queue", "encode", "decode"]
    check_phases(server, children)
    decode = children[-1]
    assert decode.seconds > 8 * 0.02
    assert decode.start < decode.events["first token"] < decode.end
    sent = dict(server.attributes)
    assert sent.pop("jumplora.request_id") == answer.headers["x-request-id"]
    to_first = sent.pop("gen_ai.response.time_to_first_chunk")
    arrived = children[0].start
    assert abs(arrived + to_first * 1e9 - decode.events["first token"]) <= NS_OF_ROUNDING
    assert sent == {
        "http.request.method": "POST",
        "http.route": "/generate_stream",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "jumplora",
        "gen_ai.request.model": "topics",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.stream": True,
        "gen_ai.response.model": f"topics@{version}",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": len(SECRET) + 1,
        "gen_ai.usage.output_tokens": 9,
        "jumplora.prompts": 1,
        "jumplora.sequences": 1,
    }
    assert server.resource["service.name"] == "jumplora"
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{server.span_id}-01"


def test_each_sequence_of_a_list_has_its_phases(site: Site, collector: Collector) -> None:
    site.engine.encode_seconds = 0.001
    with connected(site) as http:
        site.publish("topics")
        body = {
            "task_id": "topics",
            "inputs": ["one", "two"],
            "parameters": {"do_sample": True, "temperature": 0.5, "best_of": 3, "n": 2},
        }
        assert http.post("/generate", json=body).status_code == 200
    server = generation(collector, "/generate")
    assert server.parent_id == ""
    for number in range(6):
        of_it = [
            child
            for child in collector.children(server)
            if child.attributes["jumplora.sequence"] == number
        ]
        # One prompt is encoded once: its others continue from there.
        assert [child.name for child in of_it if child.name != "encode"] == ["queue", "decode"]
        check_phases(server, of_it)
    assert len(collector.of("encode")) >= 2
    assert len(collector.of("decode")) == 6
    asked = {key: server.attributes[key] for key in ("jumplora.prompts", "jumplora.sequences")}
    assert asked == {"jumplora.prompts": 2, "jumplora.sequences": 6}
    assert server.attributes["gen_ai.request.choice.count"] == 3
    assert server.attributes["gen_ai.request.temperature"] == 0.5


def test_many_sequences_are_counted(site: Site, collector: Collector) -> None:
    with connected(site) as http:
        site.publish("topics")
        body = {"task_id": "topics", "inputs": ["hi"] * (MAX_SEQUENCES + 4)}
        assert http.post("/generate", json=body).status_code == 200
    server = generation(collector, "/generate")
    assert server.attributes["jumplora.sequences"] == MAX_SEQUENCES + 4
    assert len(collector.of("queue")) == len(collector.of("decode")) == MAX_SEQUENCES
    assert len(server.attributes["gen_ai.response.finish_reasons"]) == MAX_SEQUENCES


def test_a_chat_is_one(site: Site, collector: Collector) -> None:
    with connected(site) as http:
        site.publish("topics")
        body = {"model": "topics", "messages": [{"role": "user", "content": "hi"}]}
        assert http.post("/v1/chat/completions", json=body).status_code == 200
    server = generation(collector, "/v1/chat/completions")
    assert server.attributes["gen_ai.operation.name"] == "chat"


def test_errors_of_clients_are_no_faults(site: Site, collector: Collector) -> None:
    with connected(site) as http:
        body = {"task_id": "nothing", "inputs": "hi"}
        assert http.post("/generate", json=body).status_code == 404
        assert http.get("/no/such?way=" + SECRET).status_code == 404
        assert http.request("BREW", "/generate").status_code == 405
    server = generation(collector, "/generate")
    assert server.status == 0
    assert "error.type" not in server.attributes
    assert server.attributes["jumplora.code"] == "unknown_task"
    assert server.attributes["http.response.status_code"] == 404
    assert "gen_ai.usage.input_tokens" not in server.attributes
    assert collector.one("GET").attributes["http.response.status_code"] == 404
    assert collector.one("HTTP /generate").attributes["http.request.method"] == "_OTHER"
    assert SECRET.encode() not in b"".join(request.body for request in collector.requests)


def test_a_failed_step_is_a_fault(site: Site, collector: Collector) -> None:
    with connected(site) as http:
        site.publish("topics")
        site.engine.fail_step = lambda batch: RuntimeError("broken")
        body = {"task_id": "topics", "inputs": SECRET}
        assert http.post("/generate", json=body).status_code == 500
        site.engine.fail_step = lambda batch: None
    server = generation(collector, "/generate")
    assert server.status == ERROR
    assert server.attributes["error.type"] == "generation"
    assert server.attributes["http.response.status_code"] == 500
    assert [child.name for child in collector.children(server)] == ["queue", "encode"]
    assert collector.one("encode").status == ERROR
    assert SECRET.encode() not in b"".join(request.body for request in collector.requests)


def test_who_waited_too_long_was_in_the_queue_alone(site: Site, collector: Collector) -> None:
    late = {"task_id": "topics", "inputs": "hi", "parameters": {"timeout_ms": 50}}
    with connected(site) as http, ThreadPoolExecutor(2) as pool:
        site.publish("topics")
        with site.engine.steps_held() as gate:
            first = pool.submit(http.post, "/generate", json={"task_id": "topics", "inputs": "hi"})
            gate.wait_for_someone()
            second = pool.submit(http.post, "/generate", json=late)
            wait_for(lambda: site.parts.services.loop.admission.requests == 1)
            time.sleep(0.06)
        assert (first.result().status_code, second.result().status_code) == (200, 504)
    (server,) = [s for s in collector.of("POST /generate") if s.status == ERROR]
    assert server.attributes["error.type"] == "timeout"
    (queue,) = collector.children(server)
    assert (queue.name, queue.status) == ("queue", 0)
    assert queue.attributes["gen_ai.response.finish_reasons"] == ["timeout"]
    assert queue.seconds >= 0.05


def test_a_stream_that_breaks_off_is_a_fault(site: Site, collector: Collector) -> None:
    with connected(site) as http:
        site.publish("topics")
        steps = iter(range(1000))
        site.engine.fail_step = lambda batch: RuntimeError("broken") if next(steps) == 3 else None
        body = {"task_id": "topics", "inputs": "hi"}
        assert http.post("/generate_stream", json=body).status_code == 200
        site.engine.fail_step = lambda batch: None
    server = generation(collector, "/generate_stream")
    assert (server.status, server.attributes["http.response.status_code"]) == (ERROR, 200)
    assert server.attributes["error.type"] == "generation"


def test_a_bug_of_ours_is_a_fault(site: Site, collector: Collector) -> None:
    def broken() -> None:
        raise ZeroDivisionError(SECRET)

    site.app.add_api_route("/console/so/broken", broken)  # below what needs no key
    with connected(site) as http:
        assert http.get("/console/so/broken").status_code == 500
    server = collector.one("GET /console/so/broken")
    assert (server.status, server.attributes["error.type"]) == (ERROR, "internal")
    assert server.attributes["http.response.status_code"] == 500
    assert SECRET.encode() not in b"".join(request.body for request in collector.requests)


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"choices": ["yes", "no", "maybe"]}, {"jumplora.options": 3}),
        ({"num_beams": 2, "max_new_tokens": 3}, {"jumplora.beams": 2}),
    ],
    ids=["choices", "beams"],
)
def test_a_request_that_is_no_plain_text(
    site: Site, collector: Collector, wish: dict[str, object], says: dict[str, object]
) -> None:
    with connected(site) as http:
        site.publish("topics")
        body = {"task_id": "topics", "inputs": "hi", "parameters": wish}
        assert http.post("/generate", json=body).status_code == 200
    sent = generation(collector, "/generate").attributes
    assert says.items() <= sent.items()
    assert "jumplora.unfinished" not in sent
    # An option is as long as its text: no limit of tokens was asked for.
    assert ("gen_ai.request.max_tokens" in sent) == ("max_new_tokens" in wish)
    assert not re.search("yes|maybe", str(sent))


def test_a_client_that_hangs_up(site: Site, collector: Collector) -> None:
    with connected(site) as http:
        site.publish("topics")
        body = {"task_id": "topics", "inputs": "hi" * 20}
        with slow_down(site):
            with http.stream("POST", "/generate_stream", json=body) as answer:
                next(answer.iter_lines())
            wait_for(lambda: site.outcomes("topics") != {})
        assert site.outcomes("topics") == {"client_disconnect": 1}
    server = generation(collector, "/generate_stream")
    assert server.status == 0
    assert server.attributes["jumplora.unfinished"] == 1
    assert "gen_ai.response.finish_reasons" not in server.attributes
    decode = collector.one("decode")
    assert decode.parent_id == server.span_id
    assert decode.attributes["gen_ai.response.finish_reasons"] == ["cancelled"]
    assert decode.end >= server.start  # its row was free at the next step, as it may be later


def test_who_asked_is_named_by_the_id_of_the_key(tmp_path: Path, collector: Collector) -> None:
    site = make_site(tmp_path, traces="otlp", api_keys="key-of-a-test")
    with connected(site) as http:
        headers = {"authorization": "Bearer key-of-a-test"}
        assert http.get("/v1/models", headers=headers).status_code == 200
        assert http.get("/v1/models").status_code == 401
    named = collector.one("GET /v1/models")
    unnamed = collector.one("GET")  # it was refused before it found its route
    assert re.fullmatch("[0-9a-f]{12}", named.attributes["jumplora.key_id"])
    assert "jumplora.key_id" not in unnamed.attributes


def test_a_request_shows_the_load_that_it_waited_for(tmp_path: Path, collector: Collector) -> None:
    site = make_site(tmp_path, traces="otlp", adapter_budget_bytes=1024)
    with connected(site) as http:
        site.engine.nbytes = lambda adapter: 600
        version = site.publish("topics")
        site.publish("other")  # there is no room for both
        body = {"task_id": "topics", "inputs": "hi"}
        for _ in range(2):
            assert http.post("/generate", json=body).status_code == 200
    loads = [
        load
        for load in collector.of("load adapter")
        if load.attributes["jumplora.version"] == version
    ]
    assert [load.attributes["jumplora.task"] for load in loads] == ["topics", "topics"]
    for each in loads:
        assert (each.parent_id, each.status) == ("", 0)
        stages = [n for n in each.attributes if n.startswith("jumplora.load.")]
        assert {"jumplora.load.read", "jumplora.load.pack", "jumplora.load.warmup"} <= set(stages)
        took = sum(each.attributes[stage] for stage in stages)
        assert 0 < took <= each.seconds + NS_OF_ROUNDING / 1e9
    waited, went = collector.of("POST /generate")
    assert [child.name for child in collector.children(went)] == ["queue", "decode"]
    queue, load = sorted(collector.children(waited)[:2], key=lambda span: span.name, reverse=True)
    assert (queue.name, load.name) == ("queue", "load")
    assert load.links == (loads[1].span_id,)
    assert waited.start <= load.start
    assert load.end <= queue.end + NS_OF_ROUNDING
    assert load.seconds > 0.5 * loads[1].seconds


@pytest.mark.parametrize(
    "given",
    [
        "",
        "rubbish",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\xff",
    ],
)
def test_a_malformed_traceparent_is_ignored(site: Site, collector: Collector, given: str) -> None:
    with connected(site) as http:
        headers = [(b"traceparent", given.encode("latin-1"))]
        answer = http.get("/v1/models", headers=headers)
    assert answer.status_code == 200
    (server,) = collector.spans
    assert server.parent_id == ""
    assert server.trace_id not in (TRACE, "0" * 32)


def test_of_two_parents_neither_is_it(site: Site, collector: Collector) -> None:
    with connected(site) as http:
        headers = httpx.Headers([("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)])
        assert http.get("/v1/models", headers=headers).status_code == 200
    (server,) = collector.spans
    assert server.parent_id == ""


def test_what_is_not_sampled_is_not_sent(
    site: Site, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """By the caller's decision; the ids are there all the same."""
    with caplog.at_level(logging.INFO, "jumplora.access"), connected(site) as http:
        site.publish("topics")
        headers = {"traceparent": TRACEPARENT[:-1] + "0"}
        answer = http.post("/generate", json={"task_id": "topics", "inputs": "a"}, headers=headers)
    assert answer.status_code == 200
    assert collector.of("POST /generate") == []
    assert answer.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert answer.headers["traceresponse"].endswith("-00")
    (fields,) = [r.__dict__["fields"] for r in caplog.records if r.name == "jumplora.access"]
    assert fields["trace"] == TRACE


def test_the_environment_samples(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with connected(make_site(tmp_path, traces="otlp")) as http:
        assert http.get("/v1/models").status_code == 200
    assert collector.spans == []


def test_the_environment_names_the_server(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "jumplora-blue")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=seven")
    with connected(make_site(tmp_path, traces="otlp")) as http:
        assert http.get("/v1/models").status_code == 200
    (server,) = collector.spans
    assert server.resource["service.name"] == "jumplora-blue"
    assert server.resource["deployment.environment.name"] == "staging"
    assert collector.requests[0].headers["x-tenant"] == "seven"


def test_probes_and_scrapes_have_no_spans(site: Site, collector: Collector) -> None:
    with connected(site) as http:
        for path in ("/livez", "/readyz", "/metrics", "/info"):
            answer = http.get(path)
            assert "traceresponse" not in answer.headers
    assert collector.spans == []


def test_times_are_those_of_the_metrics(site: Site, collector: Collector) -> None:
    site.engine.encode_seconds = 0.01
    with connected(site) as http:
        site.publish("topics")
        with slow_down(site):
            body = {"task_id": "topics", "inputs": "hi", "parameters": {"max_new_tokens": 5}}
            assert http.post("/generate", json=body).status_code == 200
        names = {"queue": "queue", "encode": "encode", "decode": "decode"}
        seconds = {
            span: site.metric(f"jumplora_request_{name}_seconds_sum", task_id="topics")
            for span, name in names.items()
        }
    for name, took in seconds.items():
        spans = collector.of(name)
        assert math.isclose(sum(s.seconds for s in spans), took, abs_tol=NS_OF_ROUNDING / 1e9)
