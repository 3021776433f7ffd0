"""POST /generate over a real connection, with the real loop and residency.

The fake engine answers with the versions that computed a row and the row's prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from fakes import EOS
from jumplora_server.api import answering
from jumplora_server.errors import Draining
from serving import Site, connected, make_site, slow_down, wait_for

Started = tuple[Site, httpx.Client, str]
MILLISECONDS = (
    "x-queue-time",
    "x-inference-time",
    "x-time-per-token",
    "x-total-time",
    "x-time-to-first-token",
)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    site = make_site(tmp_path_factory.mktemp("site"), allow_base="yes", max_inputs=8)
    with connected(site) as http:
        version = site.publish("alpha")
        site.publish("beta", prompt=None)
        yield site, http, version


def ask(started: Started, **body: Any) -> httpx.Response:
    return started[1].post("/generate", json=body)


def test_inputs_are_the_raw_prompt(started: Started) -> None:
    answer = ask(started, task_id="alpha", inputs="hello")
    version = started[2]
    assert answer.status_code == 200
    assert answer.json() == {
        "generated_text": f"{version[:8]}:hello",
        "details": {
            "finish_reason": "eos_token",
            "prompt_tokens": 6,
            "generated_tokens": 15,
            "seed": None,
            "task_id": "alpha",
            "adapter_version": version,
            "score": None,
            "prefill": [],
            "tokens": [],
            "best_of_sequences": [],
        },
    }


def test_text_goes_through_the_template_of_the_version(started: Started) -> None:
    # What a text contains is never substituted again.
    parameters = {"max_new_tokens": 99}
    answer = ask(started, task_id="alpha", text="{instruction}", parameters=parameters).json()
    assert answer["generated_text"].endswith(":do {text}|{instruction}>")


def test_headers(started: Started) -> None:
    headers = ask(started, task_id="alpha", inputs="hello").headers
    assert headers["x-task-id"] == headers["x-adapter-id"] == "alpha"
    assert headers["x-adapter-version"] == started[2]
    assert (headers["x-prompt-tokens"], headers["x-generated-tokens"]) == ("6", "15")
    assert all(int(headers[name]) >= 0 for name in MILLISECONDS)
    assert int(headers["x-total-time"]) >= int(headers["x-time-to-first-token"])


def test_a_request_id_is_kept_if_it_is_harmless(started: Started) -> None:
    def sent(given: str) -> str:
        body = {"task_id": "alpha", "inputs": "x"}
        answer = started[1].post("/generate", json=body, headers={"x-request-id": given})
        return answer.headers["x-request-id"]

    assert sent("abc-1.2:3") == "abc-1.2:3"
    assert len(sent('a"b')) == 16
    assert len(sent("a" * 65)) == 16


def test_a_list_gets_a_list_in_its_order(started: Started) -> None:
    texts = ["one", "a much longer prompt than the others", "x" * 3, "z"]
    answer = ask(started, task_id="alpha", inputs=texts, parameters={"max_new_tokens": 99})
    assert [each["generated_text"].partition(":")[2] for each in answer.json()] == texts
    assert answer.headers["x-prompt-tokens"] == str(sum(len(text) + 1 for text in texts))


def test_a_list_of_one_gets_a_list(started: Started) -> None:
    assert len(ask(started, task_id="alpha", text=["one"]).json()) == 1


def test_a_long_list_waits_for_rows(started: Started) -> None:
    assert len(ask(started, task_id="alpha", inputs=["x"] * 8).json()) == 8


def test_tokens_with_log_probabilities(started: Started) -> None:
    parameters = {"details": True, "max_new_tokens": 3}
    details = ask(started, task_id="alpha", inputs="hi", parameters=parameters).json()["details"]
    version = started[2]
    assert details["finish_reason"] == "length"
    assert details["timing"].keys() == {
        f"{part}_seconds" for part in ("queue", "encode", "decode", "total")
    }
    assert details["tokens"] == [
        {"id": ord(c), "text": c, "logprob": -0.5, "special": False} for c in version[:3]
    ]


def test_the_last_token_is_the_control_token(started: Started) -> None:
    answer = ask(started, task_id="alpha", inputs="hi", parameters={"details": True}).json()
    assert answer["details"]["tokens"][-1] == {
        "id": EOS,
        "text": "",
        "logprob": -0.5,
        "special": True,
    }


def test_a_stop_string(started: Started) -> None:
    answer = ask(started, task_id="alpha", inputs="a.b", parameters={"stop": ["."]}).json()
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert "b" not in answer["generated_text"].partition(":")[2]


@pytest.mark.parametrize("field", ["adapter_id", "model"])
def test_aliases(started: Started, field: str) -> None:
    answer = ask(started, **{field: "alpha"}, inputs="x")
    assert answer.headers["x-task-id"] == "alpha"


def test_the_parameters_alias(started: Started) -> None:
    answer = ask(started, inputs="x", parameters={"adapter_id": "alpha"})
    assert answer.headers["x-task-id"] == "alpha"


def test_the_header_alone(started: Started) -> None:
    answer = started[1].post("/generate", json={"inputs": "x"}, headers={"x-task-id": "alpha"})
    assert answer.headers["x-adapter-version"] == started[2]


def test_the_path(started: Started) -> None:
    answer = started[1].post("/v1/tasks/alpha/generate", json={"inputs": "x"})
    assert answer.json()["details"]["task_id"] == "alpha"


def test_a_version_may_be_named(started: Started) -> None:
    site, _, first = started
    second = site.publish("gamma")
    third = site.publish("gamma")
    assert ask(started, task_id="gamma", inputs="x").headers["x-adapter-version"] == third
    old = ask(started, task_id=f"gamma@{second[:10]}", inputs="x")
    assert old.headers["x-adapter-version"] == second
    assert old.json()["generated_text"].startswith(second[:8])
    assert first not in (second, third)


def test_the_bare_backbone_by_name_and_by_null(started: Started) -> None:
    for task in ("base", None):
        answer = ask(started, task_id=task, inputs="x")
        assert answer.json()["generated_text"] == "base:x"
        assert answer.json()["details"]["adapter_version"] is None
        assert "x-adapter-version" not in answer.headers


def test_a_chosen_seed_is_told(started: Started) -> None:
    def seed(**parameters: Any) -> Any:
        answer = ask(started, task_id="alpha", inputs="x", parameters=parameters)
        return answer.json()["details"]["seed"]

    assert seed(do_sample=True, seed=7) == 7
    assert seed(do_sample=True) != seed(do_sample=True)
    assert seed() is None


def test_truncate_cuts_the_prompt(started: Started) -> None:
    answer = ask(started, task_id="alpha", inputs="x" * 100, parameters={"truncate": 10}).json()
    assert answer["generated_text"].endswith(":" + "x" * 9)
    assert answer["details"]["prompt_tokens"] == 10


def test_truncate_cuts_the_text_and_not_the_template(started: Started) -> None:
    answer = ask(started, task_id="alpha", text="y" * 100, parameters={"truncate": 20}).json()
    assert answer["generated_text"].endswith(":do {text}|" + "y" * 8 + ">")
    assert answer["details"]["prompt_tokens"] == 20


def test_no_silent_truncation_at_the_limit(started: Started) -> None:
    assert ask(started, task_id="alpha", inputs="x" * 63).status_code == 200
    assert ask(started, task_id="alpha", inputs="x" * 64).status_code == 413


def test_many_at_once_get_their_own_answers(started: Started) -> None:
    tasks = ["alpha", "beta", "base", "alpha@" + started[2][:8]]

    def one(number: int) -> bool:
        answer = ask(started, task_id=tasks[number % 4], inputs=f"prompt {number}")
        text: str = answer.json()["generated_text"]
        return text.endswith(f":prompt {number}")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(40)))


# Failures


def test_a_deadline(started: Started) -> None:
    site = started[0]
    before = site.outcomes("alpha").get("client_deadline", 0)
    with slow_down(site):
        answer = ask(started, task_id="alpha", inputs="x" * 60, parameters={"timeout_ms": 50})
    assert answer.status_code == 504
    assert answer.json()["error_type"] == "timeout"
    assert "timeout_ms" in answer.json()["error"]
    assert site.outcomes("alpha")["client_deadline"] == before + 1


def test_a_step_that_hangs_does_not_hang_the_client(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "_LAST_RESORT_SECONDS", 0.1)
    site = started[0]
    before = site.outcomes("alpha").get("client_deadline", 0)
    with site.engine.steps_held():
        answer = ask(started, task_id="alpha", inputs="x", parameters={"timeout_ms": 50})
        assert (answer.status_code, answer.json()["error_type"]) == (504, "timeout")
    wait_for(lambda: site.outcomes("alpha").get("client_deadline", 0) == before + 1)


def test_a_failed_step_fails_its_requests_only(started: Started) -> None:
    site = started[0]
    site.engine.fail_step = lambda batch: MemoryError("secret detail")
    try:
        answer = ask(started, task_id="alpha", inputs=["x", "y"])
    finally:
        site.engine.fail_step = lambda batch: None
    assert answer.status_code == 500
    assert answer.json()["error_type"] == "generation"
    assert "secret" not in answer.text
    assert ask(started, task_id="alpha", inputs="x").status_code == 200


def test_a_queue_that_is_full_and_a_task_over_its_share(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    site = make_site(tmp_path_factory.mktemp("small"), max_queued_requests=5, task_share=0.5)
    with connected(site) as http:
        site.publish("alpha")
        site.publish("beta")

        def fill(task: str) -> httpx.Response:
            return http.post("/generate", json={"task_id": task, "inputs": "x"})

        with ThreadPoolExecutor(16) as pool, site.engine.steps_held() as gate:
            running = [pool.submit(fill, "alpha")]
            gate.wait_for_someone()
            # One row is computed and stays so; what comes now waits.
            reserve = site.parts.services.loop.admission.reserve
            places = reserve("alpha", [0, 0])
            over_share = fill("alpha")
            for other in ("gamma", "delta", "epsilon"):
                places += reserve(other, [0])
            full = fill("beta")
            pair = http.post("/generate", json={"task_id": "alpha", "inputs": ["x", "y"]})
            for place in places:
                place.release()
        assert running[0].result().status_code == 200
        assert (over_share.status_code, over_share.json()["error_type"]) == (429, "task_quota")
        assert (full.status_code, full.json()["error_type"]) == (503, "queue_full")
        assert pair.status_code == 429
        for answer in (over_share, full):
            assert int(answer.headers["retry-after"]) >= 1
        wait_for(lambda: site.outcomes("alpha") == {"ok": 1, "shed": 2})
        assert site.metric("jumplora_admission_rejections_total", reason="task_quota") == 2
        assert fill("alpha").status_code == 200


def test_a_list_is_admitted_whole_or_not_at_all(tmp_path_factory: pytest.TempPathFactory) -> None:
    site = make_site(tmp_path_factory.mktemp("small"), max_queued_requests=4, task_share=1.0)
    with connected(site) as http:
        site.publish("alpha")
        admission = site.parts.services.loop.admission
        (place,) = admission.reserve("alpha", [0])
        answer = http.post("/generate", json={"task_id": "alpha", "inputs": ["x"] * 4})
        assert answer.status_code == 503
        assert admission.requests == 1
        place.release()
        answer = http.post("/generate", json={"task_id": "alpha", "inputs": ["x"] * 4})
        assert answer.status_code == 200
        too_long = http.post("/generate", json={"task_id": "alpha", "inputs": ["x", "y" * 64]})
        assert too_long.status_code == 413
        assert "inputs[1]" in too_long.json()["error"]
        assert admission.requests == 0


def test_a_list_that_draining_cuts_in_two_was_shed(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(tmp_path_factory.mktemp("cut"))
    loop = site.parts.services.loop
    submit = loop.submit_all
    submitted: list[int] = []

    def submit_one(*wanted: Any, **options: Any) -> tuple[int, ...]:
        if submitted:
            raise Draining("the server is shutting down")
        submitted.extend(submit(*wanted, **options))
        return tuple(submitted)

    with connected(site) as http:
        site.publish("alpha")
        with slow_down(site), monkeypatch.context() as patched:
            patched.setattr(loop, "submit_all", submit_one)
            cut = http.post("/generate", json={"task_id": "alpha", "inputs": ["x" * 40] * 2})
        assert (cut.status_code, cut.json()["error_type"]) == (503, "draining")
        wait_for(lambda: site.outcomes("alpha") == {"shed": 1})
        assert loop.admission.requests == 0


def test_what_the_framework_refuses_is_counted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    site = make_site(tmp_path_factory.mktemp("refused"), max_body_bytes=2048)
    with connected(site) as http:
        assert http.post("/generate", content=b"x" * 3000).status_code == 413
        assert http.get("/generate").status_code == 405
        assert http.get("/v1/tasks/alpha/nothing").status_code == 404
        # Neither a path that no route has nor another method asks for a text.
        wait_for(lambda: site.outcomes("_unknown") == {"client_invalid": 1})


def test_draining(tmp_path_factory: pytest.TempPathFactory) -> None:
    site = make_site(tmp_path_factory.mktemp("draining"))
    with connected(site) as http:
        site.publish("alpha")
        site.parts.services.loop.drain()
        answer = http.post("/generate", json={"task_id": "alpha", "inputs": "x"})
    assert (answer.status_code, answer.json()["error_type"]) == (503, "draining")
    assert answer.headers["retry-after"] == "1"


def test_a_hang_up_frees_the_row_and_is_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    site = make_site(tmp_path_factory.mktemp("hang-up"))
    with connected(site) as http:
        site.publish("alpha")
        body = {"task_id": "alpha", "inputs": ["x" * 60, "y" * 60]}
        with slow_down(site):
            with pytest.raises(httpx.ReadTimeout):
                http.post("/generate", json=body, timeout=0.3)
            wait_for(lambda: site.outcomes("alpha") == {"client_disconnect": 2})
        assert site.engine.steps < 60  # an answer would have taken more
        assert not site.engine.live
        assert site.metric("jumplora_requests_in_flight", task_id="alpha") == 0
        assert site.parts.services.residency.status("alpha").in_flight == 0
