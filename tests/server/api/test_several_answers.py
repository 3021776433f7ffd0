"""Several answers to one prompt over HTTP: TGI's best_of_sequences, sampled or by beam search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes import EOS
from serving import Site, connected, make_site, wait_for


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"), spare_rows=0, max_queued_requests=12)


@pytest.fixture(scope="module")
def http(site: Site) -> Iterator[httpx.Client]:
    with connected(site) as http:
        site.publish("alpha")
        site.publish("beams", generation={"num_beams": 2, "length_penalty": 0.0})
        yield http


def ask(
    http: httpx.Client, inputs: str | list[str] = "x", task: str = "alpha", **asked: object
) -> httpx.Response:
    return http.post("/generate", json={"task_id": task, "inputs": inputs, "parameters": asked})


def test_beams_answer_as_tgi_does(http: httpx.Client) -> None:
    body = ask(http, num_beams=3, num_return_sequences=3, details=True).json()
    details = body["details"]
    others = details["best_of_sequences"]
    assert len(others) == 2
    assert len({body["generated_text"], *(other["generated_text"] for other in others)}) == 3
    scores = [details["score"], *(other["score"] for other in others)]
    assert scores == sorted(scores, reverse=True)
    for answer in (details, *others):
        tokens = answer["tokens"]
        assert answer["generated_tokens"] == len(tokens)
        assert answer["finish_reason"] == "eos_token"
        assert tokens[-1]["id"] == EOS
        assert answer["score"] == pytest.approx(sum(t["logprob"] for t in tokens) / len(tokens))
        assert answer["seed"] is None
    assert "".join(token["text"] for token in details["tokens"]) == body["generated_text"]


def test_the_time_is_that_of_the_sequence_that_took_longest(http: httpx.Client) -> None:
    answer = ask(http, best_of=5, n=2, temperature=1.0, details=True)  # more than there are rows
    timing = answer.json()["details"]["timing"]
    assert str(round(timing["total_seconds"] * 1000)) == answer.headers["x-total-time"]
    assert "timing" not in answer.json()["details"]["best_of_sequences"][0]
    parts = [timing[f"{part}_seconds"] for part in ("queue", "encode", "decode")]
    assert sum(parts) == pytest.approx(timing["total_seconds"])
    assert min(parts) >= 0


def test_tokens_are_shown_with_the_details_only(http: httpx.Client) -> None:
    details = ask(http, num_beams=2, n=2).json()["details"]
    assert details["tokens"] == []
    assert details["best_of_sequences"][0]["tokens"] == []
    assert details["best_of_sequences"][0]["score"] is not None


def test_an_adapters_own_beams(http: httpx.Client) -> None:
    assert ask(http, task="beams").json()["details"]["score"] is not None
    assert ask(http, task="beams", num_beams=1).json()["details"]["score"] is None


def test_a_list_of_prompts(http: httpx.Client) -> None:
    answers = ask(http, ["x", "y"], num_beams=2, n=2).json()
    assert [len(answer["details"]["best_of_sequences"]) for answer in answers] == [1, 1]
    assert answers[0]["generated_text"].endswith(":x")
    assert answers[1]["generated_text"].endswith(":y")


def test_best_of(http: httpx.Client) -> None:
    body = ask(http, best_of=3, n=2, temperature=1.0, seed=5, details=True).json()
    (other,) = body["details"]["best_of_sequences"]
    assert {body["details"]["seed"], other["seed"]} < {5, 6, 7}
    assert body["details"]["score"] == pytest.approx(-0.5)
    assert len(other["tokens"]) == other["generated_tokens"]


def test_every_hypothesis_has_a_place_in_the_queue(http: httpx.Client, site: Site) -> None:
    reserved: list[int] = []
    admission = site.parts.services.loop.admission
    reserve = admission.reserve
    with pytest.MonkeyPatch.context() as patched:

        def watched(*given: object, **options: object) -> object:
            places = reserve(*given, **options)  # type: ignore[arg-type]
            reserved.append(admission.requests)
            return places

        patched.setattr(admission, "reserve", watched)
        assert ask(http, ["x", "y"], num_beams=3).status_code == 200
        assert ask(http, ["x", "y"], n=4, top_k=2).status_code == 200
    assert reserved == [6, 8]
    wait_for(lambda: admission.requests == 0)


@pytest.mark.parametrize("asked", [{"num_beams": 3}, {"n": 3, "top_k": 2}])
def test_the_tokens_of_a_prompt_are_counted_once(
    http: httpx.Client, site: Site, asked: dict[str, int]
) -> None:
    def counted() -> float:
        page = http.get("/metrics").text
        name = 'jumplora_prompt_tokens_total{task_id="counted"}'
        return sum(float(line.split()[1]) for line in page.splitlines() if line.startswith(name))

    site.publish("counted")
    before = counted()
    answer = ask(http, ["x", "yz"], task="counted", **asked)
    sent = int(answer.headers["x-prompt-tokens"])
    wait_for(lambda: counted() >= before + sent)
    assert counted() == before + sent


def test_more_rows_than_may_wait_are_refused(http: httpx.Client) -> None:
    answer = ask(http, ["x"] * 4, num_beams=4)
    assert answer.status_code == 422
    assert "16 rows; at most 12" in answer.json()["error"]


def test_more_beams_than_rows_are_refused(http: httpx.Client) -> None:
    answer = ask(http, num_beams=5)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")
    assert (
        "parameters.num_beams: 5 is more than this server has rows for, 4" in answer.json()["error"]
    )


@pytest.mark.parametrize("name", ["do_sample", "temperature", "top_k", "top_p"])
def test_the_advice_where_beams_and_a_draw_are_asked_for_helps(
    http: httpx.Client, name: str
) -> None:
    asked: dict[str, Any] = {"num_beams": 2, name: True if name == "do_sample" else 1}
    answer = ask(http, **asked)
    assert answer.status_code == 422
    assert f"parameters.{name}: beams draw nothing; leave it out" in answer.json()["error"]
    asked.pop(name)
    assert ask(http, **asked).status_code == 200


@pytest.mark.parametrize("given", [1, 0, "always", "True", [], 0.5])
def test_early_stopping_has_one_message(http: httpx.Client, given: object) -> None:
    answer = ask(http, num_beams=2, early_stopping=given)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error.startswith('parameters.early_stopping: must be true, false or "never"'), error


def test_an_adapters_own_beams_that_there_are_no_rows_for(http: httpx.Client, site: Site) -> None:
    site.publish("wide", generation={"num_beams": 8})
    answer = ask(http, task="wide")
    assert answer.status_code == 422
    expected = "num_beams: 8, the adapter's own default, is more than this server has rows for, 4"
    assert expected in answer.json()["error"]
    assert ask(http, task="wide", num_beams=4).status_code == 200


@pytest.mark.parametrize("asked", [{"num_beams": 2}, {"n": 2, "top_k": 2}])
def test_a_stream_has_one_answer(http: httpx.Client, asked: dict[str, int]) -> None:
    body = {"task_id": "alpha", "inputs": "x", "parameters": asked}
    answer = http.post("/generate_stream", json=body)
    assert answer.status_code == 422
    assert "a stream shows the tokens of one answer" in answer.json()["error"]


def test_a_failure_of_one_hypothesis_fails_the_search(http: httpx.Client, site: Site) -> None:
    version = site.publish("broken")
    site.engine.nonfinite.add(version)
    answer = ask(http, task="broken", num_beams=2)
    assert (answer.status_code, answer.json()["reason"]) == (500, "nonfinite")
