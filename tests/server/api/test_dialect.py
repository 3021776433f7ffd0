"""A second dialect is a file: this one, in its own words, on the same server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import httpx
import pytest
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from jumplora_server.access.caller import API_SCOPES, Caller, TaskPatterns
from jumplora_server.api.answering import answer, stream
from jumplora_server.api.ask import Ask, FieldNames, Origin, Result, record_of
from jumplora_server.api.dialect import Dialect, Fault
from jumplora_server.api.health import WithServices
from jumplora_server.api.route import DialectRoute, add_dialect
from jumplora_server.core import Sampling, TokenEvent
from jumplora_server.errors import ServerError
from serving import Site, connected, make_site, wait_for


class Question(BaseModel):
    """What this dialect takes."""

    who: str
    say: list[str]
    most: int = 32
    flow: bool = False


def _ask(question: Question, caller: Caller) -> Ask:
    return Ask(
        caller=caller,
        task=question.who,
        prompts=question.say,
        form="prompts",
        shape="list",
        wants="tokens" if question.flow else "end",
        streamed="several" if question.flow else "no",
        names=FieldNames("say", renamed={"max_new_tokens": "most"}),
        parameters={"max_new_tokens": question.most},
    )


class ToyWriter:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def piece(self, origin: Origin, index: int, result: Result) -> str:
        assert origin.ref is not None
        return f"{index} {origin.ref.task} {result.answers[0].text}"

    def whole(self, origin: Origin, pieces: Sequence[str]) -> str:
        return json.dumps({self._ask.name(index): piece for index, piece in enumerate(pieces)})

    def event(
        self, origin: Origin, number: int, sampling: Sampling, index: int, event: TokenEvent
    ) -> bytes:
        return f"data:{number}.{index} {event.token.text if event.token else ''}\n\n".encode()

    def ending(self, origin: Origin) -> bytes:
        return b"data:over\n\n"

    def broken_off(self, error: ServerError) -> bytes:
        return f"data:{error.code}\n\n".encode()


def _error(fault: Fault) -> dict[str, object]:
    return {"wrong": fault.code, "because": fault.message, "check": fault.reason}


class ToyRoute(DialectRoute):
    dialect = Dialect(_error, statuses={"validation": 400})
    body = Question


router = APIRouter(route_class=ToyRoute)


@router.post("/toy")
async def toy(request: Request, services: WithServices, body: Question, **_: object) -> Response:
    ask = _ask(body, record_of(request.scope).caller)
    work = stream if body.flow else answer
    return await work(request, services, ask, ToyWriter(ask))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = make_site(tmp_path_factory.mktemp("site"), api_keys="key-of-tests")
    add_dialect(made.app, router)
    return made


@pytest.fixture(scope="module")
def http(site: Site) -> Iterator[httpx.Client]:
    with connected(site, headers={"authorization": "Bearer key-of-tests"}) as client:
        site.publish("alpha")
        yield client


def test_answers(http: httpx.Client) -> None:
    answered = http.post("/toy", json={"who": "alpha", "say": ["a", "b"]}).json()
    assert list(answered) == ["say[0]", "say[1]"]
    assert [text.split()[:2] for text in answered.values()] == [["0", "alpha"], ["1", "alpha"]]


def test_events(http: httpx.Client) -> None:
    body = {"who": "alpha", "say": ["a"], "flow": True, "most": 3}
    events = http.post("/toy", json=body).text.split("\n\n")
    names = [event.split()[0] for event in events if event]
    assert names == ["data:0.0", "data:0.1", "data:0.2", "data:over"]


def test_events_of_several_prompts(http: httpx.Client) -> None:
    body = {"who": "alpha", "say": ["a", "b", "c"], "flow": True, "most": 2}
    *events, over, _ = http.post("/toy", json=body).text.split("\n\n")
    names = [event.split()[0] for event in events]
    assert sorted(names) == [f"data:{number}.{index}" for number in range(3) for index in range(2)]
    for number in range(3):  # each one's in its order
        assert names.index(f"data:{number}.0") < names.index(f"data:{number}.1")
    assert over == "data:over"


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"who": "alpha", "say": ["a"], "most": 10**6}, 400, "validation", "most: 1000000 is more"),
        ({"who": "alpha", "say": ["a" * 10**5] * 2}, 413, "input_too_long", "say[0]: 100000 bytes"),
        ({"who": "nobody", "say": ["a"]}, 404, "unknown_task", "nobody"),
        ({"who": "alpha", "say": 3}, 400, "validation", "say"),
    ],
)
def test_errors_are_in_its_form(
    http: httpx.Client, site: Site, body: dict[str, object], status: int, code: str, words: str
) -> None:
    answered = http.post("/toy", json=body)
    assert (answered.status_code, answered.json()["wrong"]) == (status, code)
    assert words in answered.json()["because"]
    plain = http.post("/generate", json={"task_id": "nobody", "inputs": "a"}).json()
    assert plain["error_type"] == "unknown_task"


def test_what_is_refused_before_its_route_is_too(http: httpx.Client, site: Site) -> None:
    before = site.outcomes("_unknown").get("client_auth", 0)
    refused = http.post("/toy", json={}, headers={"authorization": "Bearer no"})
    assert (refused.status_code, refused.json()["wrong"]) == (401, "unauthorized")
    # It is counted once the answer is out.
    wait_for(lambda: site.outcomes("_unknown").get("client_auth", 0) == before + 1)


def test_a_caller_finds_only_its_own_tasks(http: httpx.Client, site: Site) -> None:
    of_one = APIRouter(route_class=ToyRoute)

    @of_one.post("/toy-of-beta")
    async def of_beta(
        request: Request, services: WithServices, body: Question, **_: object
    ) -> Response:
        ask = _ask(body, Caller("k", API_SCOPES, TaskPatterns.of({"beta"})))
        return await answer(request, services, ask, ToyWriter(ask))

    add_dialect(site.app, of_one)
    site.publish("beta")
    assert http.post("/toy-of-beta", json={"who": "beta", "say": ["a"]}).status_code == 200
    for task in ("alpha", "nothing"):
        refused = http.post("/toy-of-beta", json={"who": task, "say": ["a"]})
        assert (refused.status_code, refused.json()["wrong"]) == (404, "unknown_task")


def test_a_router_in_a_router_is_refused(site: Site) -> None:
    """Its routes would not count as the dialect's."""
    outer = APIRouter()
    outer.include_router(router)
    with pytest.raises(ValueError, match="add each by itself"):
        add_dialect(site.app, outer)


def test_paths_below_a_prefix_have_its_form(site: Site, http: httpx.Client) -> None:
    add_dialect(site.app, APIRouter(), {"/toys": ToyRoute.dialect, "/toys/plain": None})
    assert http.get("/toys/none").json()["wrong"] == "not_found"
    assert http.get("/toysnone").json()["error_type"] == "not_found"
    assert http.get("/toys/plain/none").json()["error_type"] == "not_found"
