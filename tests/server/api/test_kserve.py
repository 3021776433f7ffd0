"""KServe's v2 protocol: health, metadata and inference, with its own errors below /v2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jumplora_server.version import VERSION
from serving import Site, connected, make_site

Started = tuple[Site, httpx.Client]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), max_inputs=8)
    with connected(site) as http:
        site.publish("alpha")
        yield site, http


def tensor(*texts: object, name: str = "text", **changed: object) -> dict[str, Any]:
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)} | changed


def infer(
    http: httpx.Client, *inputs: dict[str, Any], path: str = "/v2/models/alpha", **body: object
) -> httpx.Response:
    return http.post(f"{path}/infer", json={"inputs": list(inputs), **body})


def outputs(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {each["name"]: each for each in answer.json()["outputs"]}


def test_the_server(started: Started) -> None:
    told = started[1].get("/v2").json()
    assert told == {"name": "jumplora", "version": VERSION, "extensions": []}


def test_health_is_that_of_the_other_probes(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with connected(site) as http:
        assert http.get("/v2/health/live").json() == {"live": True}
        assert http.get("/v2/health/ready").json() == {"ready": True}
        assert http.get("/ping").status_code == 200
        site.parts.services.lifecycle.drain()
        assert http.get("/v2/health/live").json() == {"live": True}
        for path in ("/v2/health/ready", "/readyz", "/ping"):
            refused = http.get(path)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1"), path
        told = http.get("/v2/health/ready").json()
        assert told == {"ready": False, "error": "lifecycle: draining"}


def test_a_model_is_a_task_with_its_versions(started: Started) -> None:
    site, http = started
    old, new = site.publish("grown"), site.publish("grown")
    told = http.get("/v2/models/grown").json()
    assert (told["name"], told["versions"]) == ("grown", [old, new])
    assert told["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    kinds = {each["name"]: each["datatype"] for each in told["outputs"]}
    assert kinds == {"text": "BYTES", "finish_reason": "BYTES", "probability": "FP32"}
    of_old = http.get(f"/v2/models/grown/versions/{old[:8]}").json()
    assert of_old == {**told, "versions": [old]}
    for version in ("", f"/versions/{old}", f"/versions/{new[:12]}"):
        ready = http.get(f"/v2/models/grown{version}/ready")
        assert (ready.status_code, ready.json()) == (200, {"name": "grown", "ready": True})


def test_a_task_without_a_template_has_prompts(started: Started) -> None:
    site, http = started
    site.publish("bare", prompt=None)
    assert http.get("/v2/models/bare").json()["inputs"][0]["name"] == "prompt"
    refused = http.post("/v2/models/bare/infer", json={"inputs": [tensor("a")]})
    assert (
        'no prompt template; give whole prompts, in a tensor of the name "prompt"'
        in (refused.json()["error"])
    )


def test_a_task_of_which_nothing_loads_is_not_ready(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with connected(site) as http:
        site.engine.fail_pack = lambda found: MemoryError("no memory")
        digest = site.publish("alpha")
        for path in ("/v2/models/alpha/ready", f"/v2/models/alpha/versions/{digest}/ready"):
            told = http.get(path)
            assert (told.status_code, told.json()["ready"]) == (503, False), path
            assert told.json()["error"].startswith("task 'alpha' does not answer: ")


@pytest.mark.parametrize("shape", [[2], [2, 1]], ids=str)
def test_one_text_for_each_element(started: Started, shape: list[int]) -> None:
    _, http = started
    data: list[object] = ["one", "two"] if len(shape) == 1 else [["one"], ["two"]]
    answer = infer(http, tensor(*data, shape=shape), id="call 7")
    native = http.post("/generate", json={"task_id": "alpha", "text": ["one", "two"]})
    texts = [each["generated_text"] for each in native.json()]
    assert outputs(answer)["text"] == tensor(*texts, shape=shape)
    assert outputs(answer)["finish_reason"]["data"] == ["eos_token"] * 2
    told = answer.json()
    assert (told["model_name"], told["id"]) == ("alpha", "call 7")
    assert told["model_version"] == native.headers["x-adapter-version"]
    assert answer.headers["x-adapter-version"] == told["model_version"]


def test_whole_prompts(started: Started) -> None:
    _, http = started
    answer = infer(http, tensor("raw", name="prompt"))
    native = http.post("/generate", json={"task_id": "alpha", "inputs": "raw"})
    assert outputs(answer)["text"]["data"] == [native.json()["generated_text"]]
    assert "id" not in answer.json()


def test_parameters_are_those_of_generate(started: Started) -> None:
    _, http = started
    asked = {"max_new_tokens": 3, "do_sample": True, "seed": 5, "best_of": 2, "stop": ["#"]}
    told = outputs(infer(http, tensor("x"), parameters=asked))
    assert len(told["text"]["data"][0]) == 3
    assert told["finish_reason"]["data"] == ["length"]


def test_choices_have_a_probability(started: Started) -> None:
    _, http = started
    asked = {"choices": ["World", "Sports"]}
    told = outputs(infer(http, tensor("x", "y", shape=[2, 1]), parameters=asked))
    native = http.post(
        "/generate", json={"task_id": "alpha", "text": ["x", "y"], "parameters": asked}
    )
    best = [each["details"]["choices"][0] for each in native.json()]
    assert told["text"]["data"] == [each["text"] for each in best]
    assert told["probability"] == {
        "name": "probability",
        "datatype": "FP32",
        "shape": [2, 1],
        "data": [each["probability"] for each in best],
    }
    asked_more = {**asked, "min_probability": 1.0}
    refused = infer(http, tensor("x"), parameters=asked_more)
    assert refused.headers["x-generated-tokens"] == "0"
    abstained = outputs(refused)
    assert abstained["text"]["data"] == [""]
    assert abstained["finish_reason"]["data"] == ["abstained"]
    assert abstained["probability"]["data"] == told["probability"]["data"][:1]


def test_outputs_are_those_that_are_wanted(started: Started) -> None:
    answer = infer(started[1], tensor("x"), outputs=[{"name": "finish_reason"}])
    assert list(outputs(answer)) == ["finish_reason"]
    twice = infer(started[1], tensor("x"), outputs=[{"name": "text"}, {"name": "text"}])
    assert (twice.status_code, "listed twice" in twice.json()["error"]) == (400, True)


def test_a_version_in_the_path_or_behind_the_name(started: Started) -> None:
    site, http = started
    old, new = site.publish("two"), site.publish("two")
    for path, digest in (
        ("/v2/models/two", new),
        (f"/v2/models/two/versions/{old}", old),
        (f"/v2/models/two@{old[:10]}", old),
    ):
        told = infer(http, tensor("x"), path=path).json()
        assert (told["model_name"], told["model_version"]) == ("two", digest)


def test_what_triton_and_seldon_add(started: Started) -> None:
    """Triton's client sends no content-type, and asks for binary outputs unless told otherwise."""
    body = {
        "inputs": [tensor("x", parameters={"content_type": "str"})],
        "outputs": [{"name": "text", "parameters": {"binary_data": True}}],
        "parameters": {"binary_data_output": True, "content_type": "str"},
    }
    request = httpx.Request(
        "POST",
        started[1].base_url.join("/v2/models/alpha/infer"),
        content=json.dumps(body).encode(),
    )
    assert "content-type" not in request.headers
    assert len(outputs(started[1].send(request))["text"]["data"]) == 1


def test_binary_tensors_are_refused_by_name(started: Started) -> None:
    refused = started[1].post(
        "/v2/models/alpha/infer",
        content=b'{"inputs":[]}\x01\x00\x00\x00x',
        headers={"Inference-Header-Content-Length": "13"},
    )
    assert (refused.status_code, set(refused.json())) == (400, {"error"})
    assert "Inference-Header-Content-Length" in refused.json()["error"]
    assert "binary_data=False" in refused.json()["error"]


@pytest.mark.parametrize(
    ("inputs", "body", "named"),
    [
        ([], {}, "inputs"),
        ([tensor("a"), tensor("b")], {}, "inputs"),
        ([tensor("a", name="x")], {}, "'text' or 'prompt'"),
        ([tensor("a", datatype="FP32")], {}, "datatype"),
        ([tensor("a", shape=[2])], {}, "shape [2] is of 2 elements, and data has 1"),
        ([tensor("a", "b", shape=[1, 2])], {}, "shape [1, 2] is not allowed"),
        ([tensor("a", shape=[-1, 1])], {}, "shape"),
        ([tensor(["a", "b"], shape=[1])], {}, "item 0 must be a string"),
        ([tensor(1)], {}, "item 0 must be a string"),
        ([tensor("a", data="a")], {}, "must be a list of strings"),
        ([tensor("")], {}, "item 0 is empty"),
        ([tensor(*"abcdefghi")], {}, "9 prompts given; at most 8"),
        ([tensor("a" * 70000)], {}, "inputs[0].data: 70000 bytes"),
        ([tensor("a", parameters={"binary_data_size": 5})], {}, "'binary_data_size'"),
        ([tensor("a", parameters={"content_type": "base64"})], {}, "content_type"),
        ([tensor("a")], {"outputs": [{"name": "logits"}]}, "'text', 'finish_reason' or"),
        ([tensor("a")], {"outputs": [{"name": "probability"}]}, "with choices only"),
        ([tensor("a")], {"parameters": {"typical_p": 0.5, "do_sample": True}}, "typical_p"),
        ([tensor("a")], {"parameters": {"min_mass": 0.5}}, "min_mass"),
        ([tensor("a")], {"parameters": {"sequence_id": 1}}, "'sequence_id'"),
        ([tensor("a")], {"parameters": {"details": True}}, "details"),
        ([tensor("a")], {"parameters": {"n": 2, "do_sample": True}}, "n: an output has one"),
        ([tensor("a")], {"parameters": {"max_new_tokens": 4000}}, "parameters.max_new_tokens"),
        ([tensor("a")], {"id": 7}, "id"),
        ([tensor("a")], {"ids": "7"}, "'ids'"),
    ],
)
def test_what_is_wrong_is_named(
    started: Started, inputs: list[dict[str, Any]], body: dict[str, Any], named: str
) -> None:
    refused = infer(started[1], *inputs, **body)
    assert refused.status_code == (413 if "bytes" in named else 400), refused.text
    assert set(refused.json()) == {"error"}
    assert named in refused.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "named"),
    [
        ("GET", "/v2/models/alphb", 404, "closest: alpha"),
        ("GET", "/v2/models/alphb/ready", 404, "closest: alpha"),
        ("POST", "/v2/models/alphb/infer", 404, "closest: alpha"),
        ("GET", f"/v2/models/alpha/versions/{'0' * 12}", 404, "no version of task 'alpha'"),
        ("GET", f"/v2/models/alpha/versions/{'0' * 12}/ready", 404, "no version of task 'alpha'"),
        ("POST", f"/v2/models/alpha/versions/{'0' * 12}/infer", 404, "no version of task 'alpha'"),
        ("GET", "/v2/models/alpha/versions/1", 400, "version '1' is not allowed"),
        ("POST", "/v2/models/-/infer", 400, "task id '-'"),
        ("GET", "/v2/models/base", 404, "'base'"),
        ("POST", "/v2/models/base/infer", 403, "JUMPLORA_ALLOW_BASE"),
        ("GET", "/v2/repository/index", 404, "no route"),
        ("POST", "/v2/models/alpha", 405, "allowed: GET, HEAD"),
    ],
)
def test_errors_have_the_protocols_form(
    started: Started, method: str, path: str, status: int, named: str
) -> None:
    body = {"inputs": [tensor("x")]} if method == "POST" else None
    refused = started[1].request(method, path, json=body)
    assert (refused.status_code, set(refused.json())) == (status, {"error"}), refused.text
    assert named in refused.json()["error"]


def test_another_task_in_the_header_is_refused(started: Started) -> None:
    body = {"inputs": [tensor("x")]}
    asked = [
        started[1].post("/v2/models/alpha/infer", json=body, headers={"x-task-id": task})
        for task in ("alpha", "other")
    ]
    assert [each.status_code for each in asked] == [200, 400]


def test_the_bare_backbone(tmp_path: Path) -> None:
    with connected(make_site(tmp_path, allow_base="yes", served_name="t5")) as http:
        assert http.get("/v2/models/t5/ready").status_code == 200
        named = infer(http, tensor("x", name="prompt"), path="/v2/models/t5")
        assert named.json()["outputs"][0]["data"] == ["base:x"]
        assert http.get("/v2/models/base").json()["versions"] == []
        assert http.get("/v2/models/base/ready").json()["ready"] is True
        told = infer(http, tensor("x", name="prompt"), path="/v2/models/base").json()
        assert told["model_name"] == "base"
        assert "model_version" not in told
