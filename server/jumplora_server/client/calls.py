"""Each call once, for both clients: what is sent, how the answer is read, when it may be repeated.

Nothing here sends. A client sends a Call and gives `result` the Answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from jumplora_adapters.errors import TaskIdInvalid
from jumplora_adapters.manifest import check_task_id
from jumplora_server.api.adapter_schemas import (
    AdapterDetail,
    AdapterList,
    AdapterSummary,
    PutResult,
)
from jumplora_server.api.overview_schemas import Order, Overview, SortKey
from jumplora_server.api.schemas import GenerateResponse, Info, StreamEvent
from jumplora_server.client.answers import Choice
from jumplora_server.client.errors import InputRefused, RequestFailed, broken_off, refusal

T = TypeVar("T")
_Model = TypeVar("_Model", bound=BaseModel)
Parameters = Mapping[str, object]
Repeat = Literal["safe", "unless_begun"]
"""Whether a call may be sent again where the server may have acted on it already."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. `read` makes the result of the answer's JSON, and raises ValueError."""

    method: str
    path: str
    read: Callable[[Any], T]
    body: Mapping[str, object] | None = None
    query: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    repeat: Repeat = "safe"

    @property
    def content(self) -> bytes | None:
        """The body as JSON. Raises InputRefused for what JSON does not have."""
        if self.body is None:
            return None
        try:
            return _json(self.body)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputRefused(
                f"{self.path} cannot be asked, its parameters are not JSON ({error}): give finite "
                "numbers, strings, true, false, null, and lists and objects of these",
                code="input",
            ) from error

    def asked(self, url: str) -> str:
        """What messages say was sent."""
        return f"{self.method} {url}{self.path}"

    def result(self, answer: Answer, url: str) -> T:
        """Raises RequestFailed for an error, and for an answer that is not this server's."""
        if not 200 <= answer.status < 300:
            raise self.refused(answer, url)
        try:
            return self.read(json.loads(answer.body))
        except (ValueError, RecursionError) as error:
            raise self.foreign(answer.status, url, error) from error

    def refused(self, answer: Answer, url: str) -> RequestFailed:
        """The error that an answer tells."""
        if answer.status < 400:  # this server answers none of these
            return self.foreign(answer.status, url, ValueError(f"HTTP {answer.status}"))
        return refusal(answer.status, answer.headers, answer.body, self.asked(url), now=time.time())

    def foreign(self, status: int, url: str, error: Exception) -> RequestFailed:
        """Another server answers there."""
        return RequestFailed(
            f"{url} does not answer {self.path} as a JumpLoRA server would ({_why(error)}): is the"
            " address right?",
            status=status,
        )


def generate(
    task: str | None, text: str | None, inputs: str | None, parameters: Parameters | None
) -> Call[GenerateResponse]:
    """One answer."""
    body = _prompt(task, _one(text, "text"), _one(inputs, "inputs"), parameters)
    return Call("POST", "/generate", _model(GenerateResponse), body)


def generate_all(
    task: str | None,
    text: Sequence[str] | None,
    inputs: Sequence[str] | None,
    parameters: Parameters | None,
) -> Call[list[GenerateResponse]]:
    """An answer for each prompt of a list."""
    body = _prompt(task, _list(text, "text"), _list(inputs, "inputs"), parameters)
    prompts = len(text or inputs or ())

    def read(answers: Any) -> list[GenerateResponse]:
        read_one = _model(GenerateResponse)
        if not isinstance(answers, list):
            raise ValueError("one answer came to a list of prompts")
        if len(answers) != prompts:
            raise ValueError(f"{len(answers)} answers came to {prompts} prompts")
        return [read_one(answer) for answer in answers]

    return Call("POST", "/generate", read, body)


def stream(
    task: str | None, text: str | None, inputs: str | None, parameters: Parameters | None
) -> Call[StreamEvent]:
    """A stream; `read` is for one event's JSON."""
    body = _prompt(task, _one(text, "text"), _one(inputs, "inputs"), parameters)
    return Call("POST", "/generate_stream", _model(StreamEvent), body)


def event_of(call: Call[StreamEvent], data: bytes, url: str) -> StreamEvent:
    """The event of a stream in its JSON. Raises RequestFailed."""
    try:
        fields = json.loads(data)
        if isinstance(fields, dict) and "error" in fields:
            raise broken_off(fields, call.asked(url))
        return call.read(fields)
    except (ValueError, RecursionError) as error:
        raise call.foreign(200, url, error) from error


def choose(
    task: str | None,
    text: str | None,
    inputs: str | None,
    options: Sequence[str] | None,
    min_probability: float | None,
    min_mass: float | None,
) -> Call[Choice]:
    """One of some options; None: those of the adapter's prompt."""
    wishes: dict[str, object] = {"choices": True if options is None else _list(options, "options")}
    floors = {"min_probability": min_probability, "min_mass": min_mass}
    wishes |= {name: floor for name, floor in floors.items() if floor is not None}
    read = _model(GenerateResponse)
    body = _prompt(task, _one(text, "text"), _one(inputs, "inputs"), wishes)
    return Call("POST", "/generate", lambda answer: Choice.of(read(answer)), body)


def adapters() -> Call[list[AdapterSummary]]:
    """All tasks."""
    read = _model(AdapterList)
    return Call("GET", "/v1/adapters", lambda answer: read(answer).adapters)


def adapter(task: str) -> Call[AdapterDetail]:
    """One task."""
    return Call("GET", _path(task), _model(AdapterDetail))


def publish(
    task: str,
    sha256: str,
    length: int,
    if_match: str | None,
    *,
    new: bool = False,
    stage: float | None = None,
) -> Call[PutResult]:
    """An upload, whose content the client sends with it.

    It may be repeated: the server answers "unchanged" to the bytes that it has already, and with
    `if_match` too. As a new task it may not: it would find itself there.
    """
    if new and if_match is not None:
        raise TypeError("give new or if_match, not both: a new task has no version")
    if new and stage is not None:
        raise TypeError("give new or stage, not both: a new task has no version to stand beside")
    headers = {
        "content-type": "application/octet-stream",
        "content-length": str(length),
        "x-content-sha256": sha256,
    }
    if if_match is not None:
        headers["if-match"] = f'"{if_match}"'
    if new:
        headers["if-none-match"] = "*"
    return Call(
        "PUT",
        _path(task),
        _model(PutResult),
        query={} if stage is None else {"stage": str(stage)},
        headers=headers,
        repeat="unless_begun" if new else "safe",
    )


def rollback(task: str, version: str | None) -> Call[AdapterDetail]:
    """Back to a version, which may be repeated, or to the one before, which would go two back."""
    return Call(
        "POST",
        f"{_path(task)}/rollback",
        _model(AdapterDetail),
        {} if version is None else {"version": version},
        repeat="unless_begun" if version is None else "safe",
    )


def stage(
    task: str, version: str, share: float, promote_after: float | None
) -> Call[AdapterDetail]:
    """A share of the task's requests for a version."""
    body: dict[str, object] = {"version": version, "share": share}
    if promote_after is not None:
        body["promote_after"] = promote_after
    return Call("POST", f"{_path(task)}/stage", _model(AdapterDetail), body)


def promote(task: str, version: str | None) -> Call[AdapterDetail]:
    """The staged version becomes current. Repeated, it would find none that is staged."""
    body = {} if version is None else {"version": version}
    path = f"{_path(task)}/promote"
    return Call("POST", path, _model(AdapterDetail), body, repeat="unless_begun")


def unstage(task: str, version: str | None, note: str) -> Call[AdapterDetail]:
    """No requests for the staged version any more; as `promote`."""
    body: dict[str, object] = (
        {"note": note} if version is None else {"version": version, "note": note}
    )
    path = f"{_path(task)}/unstage"
    return Call("POST", path, _model(AdapterDetail), body, repeat="unless_begun")


def alias(task: str, name: str, version: str | None) -> Call[AdapterDetail]:
    """A name for a version, or (None) for nothing."""
    body = {"name": name, "version": version}
    return Call("POST", f"{_path(task)}/alias", _model(AdapterDetail), body)


def load(task: str) -> Call[AdapterDetail]:
    """Into memory."""
    return Call("POST", f"{_path(task)}/load", _model(AdapterDetail))


def pin(task: str, pinned: Literal["pinned", "unpinned"]) -> Call[AdapterDetail]:
    """Keep it there, or no longer."""
    return Call("POST", f"{_path(task)}/pin", _model(AdapterDetail), {"pinned": pinned})


def remove(task: str) -> Call[None]:
    """Away with a task. Repeated, it would say that there is no such task."""
    return Call("DELETE", _path(task), lambda _: None, repeat="unless_begun")


def overview(
    search: str | None, sort: SortKey | None, order: Order | None, offset: int, limit: int | None
) -> Call[Overview]:
    """One look at the whole server."""
    asked = {"search": search, "sort": sort, "order": order, "offset": offset, "limit": limit}
    query = {name: value for name, value in asked.items() if value is not None}
    return Call("GET", "/v1/overview", _model(Overview), query=query)


def info() -> Call[Info]:
    """The backbone and the limits."""
    return Call("GET", "/info", _model(Info))


def readiness() -> Call[None]:
    """An error while the server wants no requests."""
    return Call("GET", "/readyz", lambda _: None)


def _prompt(
    task: str | None, text: object, inputs: object, parameters: Parameters | None
) -> dict[str, object]:
    if (text is None) == (inputs is None):
        given = "neither was" if text is None else "both were"
        raise TypeError(f"give exactly one of text and inputs; {given} given")
    prompt = {"inputs": inputs} if text is None else {"text": text}
    return {"task_id": task, **prompt, "parameters": dict(parameters or {})}


def _one(text: str | None, name: str) -> str | None:
    if text is not None and not isinstance(text, str):
        raise TypeError(
            f"{name} of type {type(text).__name__} given; give one string, or a list to"
            " generate_all or batch"
        )
    return text


def _list(texts: Sequence[str] | None, name: str) -> list[str] | None:
    """A string is a sequence of strings, and never meant as one."""
    if isinstance(texts, str):
        raise TypeError(f"{name} is one string here; give a list of strings")
    return None if texts is None else list(texts)


def _path(task: str) -> str:
    """Raises InputRefused: "." or "" would be another path."""
    try:
        return f"/v1/adapters/{check_task_id(task)}"
    except TaskIdInvalid as error:
        raise InputRefused(error.message, code="input") from error


def _model(model: type[_Model]) -> Callable[[Any], _Model]:
    return model.model_validate


def _json(value: object) -> bytes:
    options: dict[str, Any] = {"separators": (",", ":"), "allow_nan": False}
    try:
        return json.dumps(value, ensure_ascii=False, **options).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which the server refuses by its place
        return json.dumps(value, **options).encode()


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the answer'}: {first['msg']}"
    return "not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
