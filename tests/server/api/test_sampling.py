"""Merging what was asked with the manifest's defaults and the server's limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from factories import random_adapter, toy_backbone
from jumplora_adapters.manifest import Manifest
from jumplora_adapters.sampling_bounds import RANGES, find_out_of_bounds
from jumplora_server.access.caller import ANYBODY
from jumplora_server.api.parameters import Parameters
from jumplora_server.api.schemas import GenerateRequest
from jumplora_server.api.tgi import to_ask
from jumplora_server.api.wishes import Wishes, make_wishes
from jumplora_server.core import DEFAULT_NEW_TOKENS, Beams, EngineLimits, Sampling
from jumplora_server.errors import InvalidInput

LIMITS = EngineLimits(max_rows=4, max_source_tokens=64, max_target_tokens=48, end_token_ids=(1,))
WHOLE = ("max_new_tokens", "min_new_tokens", "top_k", "no_repeat_ngram_size", "num_beams")
OF_BEAMS = ("num_beams", "length_penalty", "early_stopping")
PLAIN, _ = random_adapter(toy_backbone())


def manifest(**generation: Any) -> Manifest:
    return Manifest.model_validate({**PLAIN.model_dump(), "generation": generation})


def make(asked: dict[str, Any] | None = None, **generation: Any) -> Sampling:
    (sampling,) = wishes(asked, **generation).samplings
    return sampling


def wishes(
    asked: dict[str, Any] | None = None, *, is_streamed: bool = False, **generation: Any
) -> Wishes:
    body = GenerateRequest(inputs="x", parameters=Parameters(**(asked or {})))
    ask = to_ask(ANYBODY, body, "task", is_streamed=is_streamed)
    return make_wishes(ask, manifest(**generation), LIMITS, max_beams=4)


@pytest.mark.parametrize("name", [name for name in RANGES if name not in OF_BEAMS])
def test_every_parameter_that_is_asked_for_arrives(name: str) -> None:
    value = 3 if name in WHOLE else 0.75
    sampling = make({name: value, "do_sample": True})
    assert getattr(sampling, name) == value != getattr(make({"do_sample": True}), name)
    assert getattr(make(None, **{name: value}), name) == value, "and as an adapter's default"


def test_nothing_asked_is_greedy() -> None:
    assert make() == Sampling(max_new_tokens=DEFAULT_NEW_TOKENS)


def test_the_manifests_defaults_count_where_nothing_is_asked() -> None:
    sampling = make({"min_new_tokens": 2}, max_new_tokens=8, min_new_tokens=1, stop=["."])
    assert sampling == Sampling(max_new_tokens=8, min_new_tokens=2, stop=(".",))


def test_a_default_over_the_limit_means_the_limit() -> None:
    assert make(max_new_tokens=1000).max_new_tokens == 48


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"max_new_tokens": 49}, ["parameters.max_new_tokens", "49", "48"]),
        ({"truncate": 65}, ["parameters.truncate", "65", "64"]),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, ["min_new_tokens", "4", "3"]),
        ({"typical_p": 0.5}, ["parameters.typical_p", "do_sample"]),
        ({"best_of": 2, "temperature": 0}, ["parameters.best_of", "do_sample"]),
        ({"best_of": 1, "n": 2}, ["parameters.n", "best_of"]),
    ],
    ids=str,
)
def test_contradictions(asked: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        make(asked)
    assert all(word in caught.value.message for word in words)


def test_a_default_minimum_bows_to_an_asked_maximum() -> None:
    assert make({"max_new_tokens": 2}, min_new_tokens=4).min_new_tokens == 2


@pytest.mark.parametrize("asked", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}], ids=str)
def test_a_sampling_parameter_means_sampling(asked: dict[str, Any]) -> None:
    assert make(asked).mode == "sample"


def test_do_sample_false_turns_the_manifests_sampling_off() -> None:
    sampling = make({"do_sample": False}, temperature=0.7, top_k=3, repetition_penalty=1.2)
    assert sampling == Sampling(max_new_tokens=DEFAULT_NEW_TOKENS, repetition_penalty=1.2)


SAMPLED = {"temperature": 0.7, "top_k": 3, "top_p": 0.9, "typical_p": 0.95, "seed": 5}


def test_without_sampling_its_parameters_have_no_effect() -> None:
    greedy = make({"max_new_tokens": 8})
    assert make({"max_new_tokens": 8, "do_sample": False, **SAMPLED}) == greedy
    assert make({"max_new_tokens": 8, "do_sample": False, "best_of": 1, **SAMPLED}) == greedy
    with_beams = make({"num_beams": 2, "do_sample": False, "best_of": 1, **SAMPLED})
    assert with_beams == make({"num_beams": 2})


@pytest.mark.parametrize("zero", [0, 0.0, -0.0], ids=repr)
@pytest.mark.parametrize("beside", [{}, {"do_sample": True}, SAMPLED], ids=["", "do", "all"])
def test_temperature_zero_is_greedy(zero: float, beside: dict[str, Any]) -> None:
    assert make({**beside, "temperature": zero}, top_k=3) == make()


def test_neutral_values_beside_sampling() -> None:
    sampled = make({"do_sample": True, "seed": 5, "typical_p": 1, "best_of": 1, "api_token": "x"})
    assert sampled == make({"do_sample": True, "seed": 5})


def test_a_seed_alone_keeps_greedy() -> None:
    assert make({"seed": 7}).mode == "greedy"


def test_seeds() -> None:
    assert make({"do_sample": True, "seed": 7}).seed == 7
    seeds = {make({"do_sample": True}).seed for _ in range(8)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**53 for seed in seeds)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "max_new_tokens": st.integers(1, 48),
            "do_sample": st.booleans(),
            "temperature": st.floats(0.01, 100),
            "top_k": st.integers(1, 100),
            "details": st.booleans(),
        },
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "max_new_tokens": st.integers(1, 4096),
            "min_new_tokens": st.integers(0, 4096),
            "top_p": st.floats(0.1, 1),
        },
    ),
)
def test_what_comes_out_is_always_within_the_limits(
    asked: dict[str, Any], generation: dict[str, Any]
) -> None:
    sampling = make(asked, **generation)
    assert 0 <= sampling.min_new_tokens <= sampling.max_new_tokens <= 48
    assert sampling.mode == "sample" or (sampling.top_k, sampling.top_p) == (None, None)
    assert sampling.logprobs == ("chosen" if asked.get("details") else "none")


# Defaults that a version of format 1 may have and no request may ask for.
WIDE: dict[str, Any] = {
    "temperature": 0.001,
    "repetition_penalty": 50.0,
    "stop": ("a", "b", "c", "d", "e"),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_default_that_no_request_may_ask_for_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make({}, **{name: WIDE[name]})
    message = caught.value.message
    assert message.startswith(f"parameters.{name}: the adapter's own default")
    assert f"set parameters.{name} in the request" in message
    assert "allowed" in message


@pytest.mark.parametrize(
    ("name", "asked"), [("temperature", 0.5), ("repetition_penalty", 1.5), ("stop", ["x"])]
)
def test_a_request_that_sets_the_field_itself_works(name: str, asked: Any) -> None:
    sampling = make({name: asked}, **{name: WIDE[name]})
    assert getattr(sampling, name) == (tuple(asked) if name == "stop" else asked)


def test_a_default_that_does_not_count_is_not_refused() -> None:
    assert make({"do_sample": False}, temperature=0.001).mode == "greedy"


@given(
    name=st.sampled_from(sorted(RANGES)),
    number=st.one_of(st.integers(-2, 10**7), st.floats(-1, 200, allow_subnormal=False)),
)
def test_requests_are_held_to_the_one_table(name: str, number: float) -> None:
    if name in WHOLE:
        number = int(number)
    try:
        Parameters(**{name: number})  # type: ignore[arg-type]
    except ValidationError:
        assert find_out_of_bounds({name: number})
    else:
        is_greedy = name == "temperature" and number == 0  # a request's own way to say so
        assert is_greedy or not find_out_of_bounds({name: number})


@given(st.lists(st.text(max_size=66), max_size=6))
def test_stops_are_held_to_the_one_table(stops: list[str]) -> None:
    try:
        Parameters(stop=stops)
    except ValidationError:
        assert find_out_of_bounds({"stop": stops})
    else:
        assert not find_out_of_bounds({"stop": stops})


def test_beams() -> None:
    asked = {"num_beams": 3, "length_penalty": 0.5, "early_stopping": "never", "n": 2}
    assert make(asked).beams == Beams(3, 0.5, "never", answers=2)
    assert make({**asked, "num_return_sequences": 2}) == make(asked)
    assert make({"num_beams": 2}).beams == Beams(2)
    assert make({"num_beams": 1}) == make()


def test_beams_as_an_adapters_default() -> None:
    defaults: dict[str, Any] = {"num_beams": 2, "length_penalty": 2.0, "early_stopping": True}
    defaults["top_k"] = 5
    assert make(None, **defaults).beams == Beams(2, 2.0, early_stopping=True)
    assert make({"n": 2}, **defaults).beams == Beams(2, 2.0, early_stopping=True, answers=2)
    drawn = make({"num_beams": 1}, **defaults)
    assert (drawn.beams, drawn.mode) == (None, "sample"), "the other default counts then"


def test_several_sampled_answers_have_a_seed_each() -> None:
    wanted = wishes({"best_of": 4, "n": 2, "seed": 7, "temperature": 0.5})
    assert [sampling.seed for sampling in wanted.samplings] == [7, 8, 9, 10]
    assert wanted.answers == 2
    assert {sampling.logprobs for sampling in wanted.samplings} == {"chosen"}, "to find the best"
    last = wishes({"n": 2, "seed": 2**63 - 1, "do_sample": True})
    assert [sampling.seed for sampling in last.samplings] == [2**63 - 1, 0]


def test_best_of_alone_answers_with_all_as_tgi_does() -> None:
    assert wishes({"best_of": 3, "top_k": 2}).answers == 3
    assert len(wishes({"num_return_sequences": 3, "top_k": 2}).samplings) == 3


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"num_beams": 5}, ["num_beams", "5", "4"]),
        ({"num_beams": 2, "do_sample": True}, ["do_sample", "num_beams to 1"]),
        ({"num_beams": 2, "top_p": 0.5}, ["top_p", "leave it out", "num_beams to 1"]),
        ({"num_beams": 2, "stop": ["x"]}, ["stop", "[]"]),
        ({"num_beams": 2, "best_of": 2}, ["best_of", "no effect"]),
        ({"num_beams": 2, "seed": 1}, ["seed", "no effect"]),
        ({"num_beams": 2, "n": 3}, ["parameters.n", "3", "num_beams"]),
        ({"num_beams": 3, "n": 2, "num_return_sequences": 3}, ["num_return_sequences", "differs"]),
        ({"length_penalty": 0.5}, ["length_penalty", "no effect"]),
        ({"early_stopping": True, "num_beams": 1}, ["early_stopping", "no effect"]),
        ({"n": 2}, ["parameters.n", "same", "do_sample"]),
        ({"best_of": 2, "do_sample": False}, ["best_of", "same"]),
        ({"n": 3, "best_of": 2, "top_k": 1}, ["parameters.n", "3", "best_of, 2"]),
    ],
)
def test_contradictions_about_several_answers(asked: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        wishes(asked)
    assert [word for word in words if word not in caught.value.message] == []


@pytest.mark.parametrize(
    ("asked", "generation"),
    [
        ({"num_beams": 2}, {}),
        ({"n": 2, "top_k": 3}, {}),
        ({"best_of": 2, "n": 1, "top_k": 3}, {}),
        ({}, {"num_beams": 2}),
    ],
)
def test_a_stream_has_one_answer(asked: dict[str, Any], generation: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="a stream shows the tokens of one answer"):
        wishes(asked, is_streamed=True, **generation)


def test_a_default_stop_that_beams_cannot_have_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"parameters\.stop.*\[\]"):
        make({"num_beams": 2}, stop=["x"])
    assert make({"num_beams": 2, "stop": []}, stop=["x"]).beams == Beams(2)
