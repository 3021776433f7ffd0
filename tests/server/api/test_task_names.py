"""One task out of body, path and header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_server.api.schemas import GenerateRequest
from jumplora_server.api.task_names import check_spec, check_task, with_version
from jumplora_server.api.tgi import named_task
from jumplora_server.errors import InvalidInput
from serving import connected, make_site


def name(
    path: str | None = None, header: str | None = None, default: str | None = None, **body: Any
) -> str | None:
    request = GenerateRequest.model_validate({"inputs": "x", **body})
    return named_task(request, path=path, header=header, default=default)


@pytest.mark.parametrize(
    "given",
    [
        {"task_id": "a"},
        {"adapter_id": "a"},
        {"model": "a"},
        {"parameters": {"adapter_id": "a"}},
        {"path": "a"},
        {"header": "a"},
        {"task_id": "a", "model": "a", "header": "a", "path": "a"},
    ],
    ids=str,
)
def test_every_place_may_name_it(given: dict[str, Any]) -> None:
    assert name(**given) == "a"


def test_null_is_the_bare_backbone() -> None:
    assert name(task_id=None) is None
    assert name(parameters={"adapter_id": None}) is None


@pytest.mark.parametrize("given", [{"task_id": "a"}, {"path": "a"}, {"header": "a"}], ids=str)
def test_the_null_of_loraxs_client_yields_to_a_name(given: dict[str, Any]) -> None:
    assert name(**given, parameters={"adapter_id": None}) == "a"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"task_id": "a", "header": "b"}, ["x-task-id", "task_id", "'a'", "'b'"]),
        ({"task_id": "a", "path": "b"}, ["the path", "task_id"]),
        ({"task_id": "a", "parameters": {"adapter_id": "b"}}, ["parameters.adapter_id"]),
        ({"task_id": None, "header": "b"}, ["null", "'b'"]),
        ({"task_id": "a", "model": "a@12345678"}, ["model", "'a@12345678'"]),
    ],
    ids=str,
)
def test_two_places_must_agree(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidInput, match="disagree") as caught:
        name(**given)
    assert all(word in caught.value.message for word in words)


def test_none_named() -> None:
    with pytest.raises(InvalidInput, match=r"task_id: is missing.*JUMPLORA_DEFAULT_TASK"):
        name()


def test_a_server_without_tasks_gives_no_example(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    asked = {"/generate": {"inputs": "a"}, "/v1/completions": {"prompt": "a"}}
    with connected(site) as http:
        for route, body in asked.items():
            said = http.post(route, json=body).text
            assert "is missing, and this server has no task yet: `jumplora publish`" in said
        site.publish("alpha")
        for route, body in asked.items():
            assert "agnews" in http.post(route, json=body).text


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "usual"),
        ({"parameters": {"adapter_id": None}}, "usual"),
        ({"task_id": "a"}, "a"),
        ({"header": "a"}, "a"),
        ({"path": "a"}, "a"),
        ({"parameters": {"adapter_id": "a"}}, "a"),
        ({"task_id": None}, None),
        ({"model": None, "parameters": {"adapter_id": None}}, None),
    ],
    ids=str,
)
def test_the_default_is_the_task_of_what_names_none(
    given: dict[str, Any], named: str | None
) -> None:
    assert name(**given, default="usual") == named


ODD = ["../etc/passwd", "/etc/passwd", "", ".hidden", "a b", "a\n", "é", "a" * 65, "a/b", "a\x00"]


@pytest.mark.parametrize("task", ODD, ids=ascii)
def test_odd_names(task: str) -> None:
    with pytest.raises(InvalidInput, match="1 to 64"):
        check_task(task)
    with pytest.raises(InvalidInput):
        check_spec(f"{task}@12345678")


@pytest.mark.parametrize(
    "version", ["", "1234567", "1BCDEF12", "a" * 65, "1" * 65, "1234567 ", "@"]
)
def test_odd_versions(version: str) -> None:
    with pytest.raises(InvalidInput, match="8 to 64"):
        check_spec(f"task@{version}")


@given(st.text())
def test_what_passes_is_a_plain_name(spec: str) -> None:
    try:
        passed = check_spec(spec)
    except InvalidInput:
        return
    assert passed.isascii()
    assert not {"/", "\\", "\n", "\0", ".."} & {passed, *passed}


@pytest.mark.parametrize(
    ("task", "header", "spec"),
    [
        ("a", None, "a"),
        ("a", "staged", "a@staged"),
        ("a@best", "best", "a@best"),
        ("a", "12345678", "a@12345678"),
        (None, None, None),
    ],
)
def test_a_header_may_name_the_version(
    task: str | None, header: str | None, spec: str | None
) -> None:
    assert with_version(task, header) == spec


@pytest.mark.parametrize(
    ("task", "header", "says"),
    [
        ("a@best", "staged", "'staged' disagrees with 'a@best'"),
        ("a", "no such", "is not allowed"),
        (None, "staged", "the bare backbone has no versions"),
    ],
)
def test_a_header_that_cannot_be_followed(task: str | None, header: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        with_version(task, header)
