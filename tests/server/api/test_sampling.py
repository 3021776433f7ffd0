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
from jumplora_server.api.ask import ANYBODY
from jumplora_server.api.intake import make_sampling
from jumplora_server.api.schemas import GenerateRequest, Parameters
from jumplora_server.api.tgi import to_ask
from jumplora_server.core import DEFAULT_NEW_TOKENS, EngineLimits, Sampling
from jumplora_server.errors import InvalidInput

LIMITS = EngineLimits(max_rows=4, max_source_tokens=64, max_target_tokens=48, end_token_ids=(1,))
PLAIN, _ = random_adapter(toy_backbone())


def manifest(**generation: Any) -> Manifest:
    return Manifest.model_validate({**PLAIN.model_dump(), "generation": generation})


def make(asked: dict[str, Any] | None = None, **generation: Any) -> Sampling:
    body = GenerateRequest(inputs="x", parameters=Parameters(**(asked or {})))
    return make_sampling(to_ask(ANYBODY, body, "task"), manifest(**generation), LIMITS)


@pytest.mark.parametrize("name", RANGES)
def test_every_parameter_that_is_asked_for_arrives(name: str) -> None:
    values: dict[str, Any] = {"max_new_tokens": 7, "min_new_tokens": 3, "top_k": 5}
    value = values.get(name, 0.75)
    sampling = make({name: value, "do_sample": True})
    assert getattr(sampling, name) == value != getattr(make({"do_sample": True}), name)
    assert getattr(make(**{name: value}), name) == value, "and as an adapter's default"


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
        ({"do_sample": False, "temperature": 0.5}, ["parameters.temperature", "do_sample"]),
        ({"do_sample": False, "seed": 5}, ["parameters.seed", "do_sample"]),
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
    try:
        sampling = make(asked, **generation)
    except InvalidInput:
        assert asked.get("do_sample") is False
        return
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
    if name in ("max_new_tokens", "min_new_tokens", "top_k"):
        number = int(number)
    try:
        Parameters(**{name: number})  # type: ignore[arg-type]
    except ValidationError:
        assert find_out_of_bounds({name: number})
    else:
        assert not find_out_of_bounds({name: number})


@given(st.lists(st.text(max_size=66), max_size=6))
def test_stops_are_held_to_the_one_table(stops: list[str]) -> None:
    try:
        Parameters(stop=stops)
    except ValidationError:
        assert find_out_of_bounds({"stop": stops})
    else:
        assert not find_out_of_bounds({"stop": stops})
