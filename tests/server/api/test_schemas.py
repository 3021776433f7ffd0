"""Requests as they are parsed: bounds, strictness, and the words of a refusal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jumplora_server.api.errors import validation_message
from jumplora_server.api.kserve_schemas import InferParameters, TextInference
from jumplora_server.api.parameters import Parameters
from jumplora_server.api.schemas import GenerateRequest


def refusal(body: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        GenerateRequest.model_validate(body)
    return validation_message(caught.value.errors())


BAD: list[tuple[str, Any, str]] = [
    ("both", {"inputs": "a", "text": "b"}, "exactly one of inputs and text; both"),
    ("neither", {"task_id": "a"}, "exactly one of inputs and text; neither"),
    ("unknown field", {"inputs": "a", "prompt": "b"}, "unknown field 'prompt'; allowed are task_"),
    (
        "unknown parameter",
        {"inputs": "a", "parameters": {"temprature": 1}},
        "parameters: unknown field 'temprature' (did you mean temperature?); allowed are max_new_",
    ),
    (
        "parameter outside",
        {"inputs": "a", "choices": True},
        'choices belongs in parameters: {"parameters": {"choices": ...}}',
    ),
    ("list as parameters", {"inputs": "a", "parameters": [1]}, "parameters: must be an object"),
    ("number as inputs", {"inputs": 5}, "inputs: must be a string, or the whole a list"),
    ("mixed list", {"inputs": ["a", 5]}, "inputs: item 1 must be a string"),
    ("empty list", {"text": []}, "text: the list is empty"),
    ("empty string", {"text": ""}, "text: is empty"),
    ("empty item", {"text": ["a", ""]}, "text: item 1 is empty"),
    ("half a surrogate", {"inputs": "a\ud800"}, "inputs: is not valid Unicode"),
    ("object as inputs", {"inputs": {"a": 1}}, "inputs: must be a string"),
    ("number as task", {"task_id": 3, "inputs": "a"}, "task_id: must be a string"),
    ("list as body", [], "the body must be a JSON object"),
    ("null as parameters", {"inputs": "a", "parameters": None}, "parameters: "),
]
OUT_OF_RANGE: list[tuple[str, Any, str]] = [
    ("max_new_tokens", 0, "at least 1 (given: 0)"),
    ("max_new_tokens", 10**9, "at most"),
    ("max_new_tokens", "5", 'must be an integer (given: "5")'),
    ("max_new_tokens", True, "must be an integer (given: true)"),
    ("max_new_tokens", 1.5, "must be an integer"),
    ("min_new_tokens", -1, "at least 0"),
    ("do_sample", 1, "must be true or false"),
    ("temperature", 0.001, "0 or 0.01 to 100 is allowed"),
    ("temperature", False, "must be a number"),
    ("temperature", 101, "0 or 0.01 to 100 is allowed"),
    ("temperature", float("nan"), "finite number"),
    ("temperature", float("inf"), "finite number"),
    ("top_k", 0, "at least 1"),
    ("top_p", 0, "more than 0"),
    ("top_p", 1.01, "at most 1"),
    ("repetition_penalty", 0, "at least 0.1"),
    ("seed", -1, "at least 0"),
    ("seed", 2**63, "at most"),
    ("stop", ["a"] * 5, "at most 4"),
    ("stop", ["a" * 65], "at most 64"),
    ("stop", [""], "at least 1"),
    ("stop", "a", "must be a list"),
    ("truncate", 0, "at least 1"),
    ("details", "yes", "must be true or false"),
    ("typical_p", 0, "more than 0"),
    ("typical_p", 1.5, "at most 1"),
    ("timeout_ms", 0, "at least 1"),
]


@pytest.mark.parametrize(
    ("body", "words"), [(b, w) for _, b, w in BAD], ids=[name for name, _, _ in BAD]
)
def test_bad_requests(body: Any, words: str) -> None:
    assert words in refusal(body)


@pytest.mark.parametrize(
    ("name", "value", "words"), OUT_OF_RANGE, ids=[f"{n}={v!r:.12}" for n, v, _ in OUT_OF_RANGE]
)
def test_parameters_out_of_range(name: str, value: Any, words: str) -> None:
    message = refusal({"inputs": "a", "parameters": {name: value}})
    assert message.startswith(f"parameters.{name}")
    assert words in message


@pytest.mark.parametrize("form", [Parameters, InferParameters])
def test_a_message_lists_the_parameters_that_ask_for_something(form: type[Parameters]) -> None:
    with pytest.raises(ValidationError) as caught:
        form.model_validate({"min_probabilty": 0.5, "flow": 1})
    message = validation_message(caught.value.errors())
    assert message.startswith(
        "unknown field 'min_probabilty' (did you mean min_probability?), 'flow'; allowed are "
    )
    listed = message.partition("allowed are ")[2].split(", ")
    assert {"choices", "min_mass", "max_new_tokens", "timeout_ms"} <= {*listed}
    assert not {"watermark", "grammar", "api_token"} & {*listed}
    assert ("details" in listed) == (form is Parameters)


def test_a_missing_field_and_bounds_in_plain_words() -> None:
    with pytest.raises(ValidationError) as caught:
        TextInference.model_validate({"parameters": {"choices": True, "min_mass": 50}})
    message = validation_message(caught.value.errors())
    assert message == "parameters.min_mass: must be at most 1 (given: 50); inputs: is missing"


def test_many_faults_are_told_up_to_five() -> None:
    wrong = dict.fromkeys(("seed", "top_k", "top_p", "truncate", "temperature"), -1)
    message = refusal({"inputs": "a", "parameters": wrong | {"timeout_ms": 0, "stop": 1}})
    assert message.count("; ") == 5
    assert message.endswith("and 2 more")


def test_a_long_value_is_not_repeated() -> None:
    assert "x" * 70 not in refusal({"inputs": "a", "parameters": {"seed": "x" * 10_000}})


@pytest.mark.parametrize(
    ("body", "prompts", "shape"),
    [
        ({"inputs": "a"}, ["a"], "one"),
        ({"inputs": ["a"]}, ["a"], "list"),
        ({"text": ["a", "b"]}, ["a", "b"], "list"),
    ],
)
def test_prompts(body: dict[str, Any], prompts: list[str], shape: str) -> None:
    request = GenerateRequest.model_validate(body)
    assert (request.prompts, request.shape) == (prompts, shape)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.dictionaries(st.sampled_from([*GenerateRequest.model_fields, "x"]), json_values)
    | json_values
)
def test_any_json_is_parsed_or_refused_in_words(body: Any) -> None:
    try:
        told = "".join(GenerateRequest.model_validate(body).prompts)
    except ValidationError as error:
        told = validation_message(error.errors())
    assert told


@given(st.dictionaries(st.sampled_from(sorted(Parameters.model_fields)), json_values))
def test_any_parameters_are_parsed_or_refused_by_name(values: dict[str, Any]) -> None:
    faults: list[Any] = []
    try:
        Parameters.model_validate(values)
    except ValidationError as error:
        faults = list(error.errors())
    # What is wrong with several together has no place of its own: its message names them.
    assert all(
        fault["loc"][0] in values if fault["loc"] else any(name in fault["msg"] for name in values)
        for fault in faults
    )
    assert bool(validation_message(faults)) == bool(faults)
