"""What vLLM's operators call: adapters that are loaded and unloaded by name, the version, tokens.

To load is to publish, and to unload is to remove: what is loaded survives a restart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BaseModel, Field, model_validator
from starlette.responses import PlainTextResponse, Response

from jumplora_adapters.errors import OtherTask, TaskExists
from jumplora_server.access.caller import Caller
from jumplora_server.api.adapters import publication
from jumplora_server.api.ask import record_of
from jumplora_server.api.audit import begin_change
from jumplora_server.api.fields import Received, check_unicode
from jumplora_server.api.health import WithServices
from jumplora_server.api.load_folder import LoadFolder
from jumplora_server.api.metering import take_one
from jumplora_server.api.openai.answers import OpenAiError
from jumplora_server.api.openai.errors import OF_ADAPTERS, OPENAI
from jumplora_server.api.prompts import SMALL_BYTES
from jumplora_server.api.route import READING, JsonRoute
from jumplora_server.api.task_names import check_spec, check_visible
from jumplora_server.errors import Forbidden, InputTooLong, InvalidInput
from jumplora_server.services import Services
from jumplora_server.version import VERSION

if TYPE_CHECKING:
    from jumplora_server.engine.tokenizer import Tokenizer

MAX_PATH_CHARS = 4096


class LoadRequest(Received):
    """An adapter file or a PEFT folder, and the task that it becomes."""

    lora_name: str = Field(min_length=1, description="the task")
    lora_path: str = Field(
        min_length=1,
        max_length=MAX_PATH_CHARS,
        description="a file or folder in JUMPLORA_LOAD_FOLDER, where relative paths begin",
    )
    load_inplace: bool = Field(default=False, description="whether it may replace a version")
    base_model_name: str | None = Field(
        default=None, description="has no effect: an adapter says itself what it was made for"
    )
    is_3d_lora_weight: Literal[False] | None = None


class UnloadRequest(Received):
    """A task that is removed with all its versions."""

    lora_name: str = Field(min_length=1, description="the task")
    lora_int_id: int | None = Field(default=None, description="has no effect, as in vLLM")


class Version(BaseModel):
    """What runs here."""

    version: str


Text = Annotated[str, AfterValidator(check_unicode)]


class TokenizeRequest(Received):
    """A whole prompt: `prompt` as vLLM has it, or `inputs` as TGI has it."""

    model: str | None = Field(default=None, description="a task: all read prompts in the same way")
    prompt: Text | None = None
    inputs: Text | None = None
    add_special_tokens: bool = Field(default=True, description="whether the end token is added")
    return_token_strs: bool | None = Field(default=None, description="of vLLM's form")

    @model_validator(mode="after")
    def _one_of_prompt_and_inputs(self) -> Self:
        if (self.prompt is None) == (self.inputs is None):
            raise ValueError("give exactly one of prompt (as for vLLM) and inputs (as for TGI)")
        if self.inputs is not None and self.return_token_strs is not None:
            raise ValueError("return_token_strs: has no effect with inputs, whose tokens have text")
        return self

    @property
    def text(self) -> str:
        """What is read."""
        return self.prompt or self.inputs or ""


class Tokenized(BaseModel):
    """The tokens of a prompt. `max_model_len` is how many a prompt may have."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class TokenOfText(BaseModel):
    """A token, and where its characters begin and end."""

    id: int
    text: str
    start: int
    stop: int


class DetokenizeRequest(Received):
    """Token ids."""

    model: str | None = Field(default=None, description="a task: all write texts in the same way")
    tokens: list[Annotated[int, Field(ge=0)]]


class Detokenized(BaseModel):
    """The text of the tokens, control tokens left out."""

    prompt: str


FORMS = {
    **dict.fromkeys(("/version", "/tokenize", "/detokenize"), OPENAI),
    **dict.fromkeys(("/v1/load_lora_adapter", "/v1/unload_lora_adapter"), OF_ADAPTERS),
}
router = APIRouter(tags=["vllm"], route_class=JsonRoute)
_ERRORS: dict[int | str, dict[str, Any]] = {s: {"model": OpenAiError} for s in (400, 401, 404, 429)}
_WRITE: dict[int | str, dict[str, Any]] = {
    s: {"model": OpenAiError} for s in (400, 401, 403, 404, 409, 503, 507)
}


@router.post("/v1/load_lora_adapter", response_class=PlainTextResponse, responses=_WRITE)
async def load_lora_adapter(
    request: Request, services: WithServices, body: LoadRequest
) -> PlainTextResponse:
    """Publish an adapter of the server's own folder. Answers once the version is READY.

    It is checked as an upload is, and kept in the store: the folder is read once.
    """
    task, caller = body.lora_name, record_of(request.scope).caller
    try:
        with publication(request, services, task) as change:
            pieces = _pieces(services, caller, body)
            async with services.publishing.incoming() as incoming:
                change.version = await services.publishing.fill(incoming, pieces)
                release = await services.publishing.publish(
                    task, incoming, only_new=not body.load_inplace, witness=change
                )
    except OtherTask as error:
        message = f"lora_name: this adapter's manifest names the task {error.found!r}, not {task!r}"
        raise InvalidInput(
            f'{message}; give "lora_name": "{error.found}"',
            reason=error.code,
            narrow=None
            if caller.may_see(error.found)
            else f"lora_name: this adapter's manifest names another task than {task!r}",
        ) from error
    except TaskExists as error:  # another load of it was faster
        raise _duplicate(task) from error
    return PlainTextResponse(
        f"Success: LoRA adapter '{task}' added successfully.",
        headers={"x-adapter-version": release.published.digest},
    )


def _pieces(services: Services, caller: Caller, body: LoadRequest) -> Iterator[bytes]:
    """Of the file, from the folder that may be read."""
    task, root = body.lora_name, services.settings.load_folder
    if root is None:
        raise Forbidden(
            "loading by path is switched off: start the server with JUMPLORA_LOAD_FOLDER, or send "
            f"the file by PUT /v1/adapters/{task}"
        )
    most = services.settings.max_adapter_bytes
    pieces = LoadFolder(root, most, caller).pieces(body.lora_path)
    return pieces if body.load_inplace else _of_new_task(services, task, pieces)


def _of_new_task(services: Services, task: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of a file, if the task is new. A wrong path is refused first, by the first piece:
    with load_inplace it would be wrong still."""
    first = next(pieces, b"")
    if services.residency.knows(task):
        raise _duplicate(task)
    yield first
    yield from pieces


def _duplicate(task: str) -> InvalidInput:
    return InvalidInput(
        f"lora_name: task {task!r} has an adapter; set load_inplace to true to replace it",
        reason="duplicate",
    )


@router.post("/v1/unload_lora_adapter", response_class=PlainTextResponse, responses=_WRITE)
async def unload_lora_adapter(
    request: Request, services: WithServices, body: UnloadRequest
) -> PlainTextResponse:
    """Remove a task with all its versions, as DELETE does. The load folder stays as it is."""
    task = body.lora_name
    change = begin_change(request, services, task)
    await services.publishing.remove(task, witness=change)
    return PlainTextResponse(f"Success: LoRA adapter '{task}' removed successfully.")


@router.get("/version", response_model=Version)
async def get_version() -> Version:
    """The server's own version."""
    return Version(version=VERSION)


@router.post("/tokenize", response_model=Tokenized | list[TokenOfText], responses=_ERRORS)
async def tokenize(request: Request, services: WithServices, body: TokenizeRequest) -> Response:
    """The tokens of a whole prompt, as the encoder gets them."""
    _check_model(request, services, body.model)
    size, allowed = len(body.text.encode()), services.settings.max_text_bytes
    if size > allowed:
        name = "prompt" if body.inputs is None else "inputs"
        raise InputTooLong(f"{name}: {size} bytes given; at most {allowed} are allowed")
    take_one(services.quotas, record_of(request.scope).caller)
    lane = services.lanes.small if size <= SMALL_BYTES else services.lanes.large
    most = services.limits.max_source_tokens
    content = await lane.run(READING, partial(_tokenized, services.tokenizer, body, most))
    return Response(content, media_type="application/json")


def _tokenized(tokenizer: Tokenizer, body: TokenizeRequest, most: int) -> bytes:
    found = tokenizer.pieces(body.text, special=body.add_special_tokens)
    shown: object
    if body.inputs is not None:
        shown = [
            {"id": each.id, "text": each.token, "start": each.start, "stop": each.stop}
            for each in found
        ]
    else:
        strings = [each.token for each in found] if body.return_token_strs else None
        ids = [each.id for each in found]
        shown = {
            "count": len(ids), "max_model_len": most, "tokens": ids, "token_strs": strings
        }  # fmt: skip
    return json.dumps(shown).encode()


@router.post("/detokenize", response_model=Detokenized, responses=_ERRORS)
async def detokenize(
    request: Request, services: WithServices, body: DetokenizeRequest
) -> Detokenized:
    """The text of tokens."""
    _check_model(request, services, body.model)
    highest = services.tokenizer.highest_id
    for index, token in enumerate(body.tokens):
        if token > highest:
            raise InvalidInput(f"tokens.{index}: {token} is not a token; ids are 0 to {highest}")
    take_one(services.quotas, record_of(request.scope).caller)
    work = partial(_text_of, services.tokenizer, body.tokens)
    return Detokenized(prompt=await services.lanes.small.run(READING, work))


def _text_of(tokenizer: Tokenizer, tokens: list[int]) -> str:
    return tokenizer.decode([token for token in tokens if tokenizer.has_text(token)])


def _check_model(request: Request, services: Services, spec: str | None) -> None:
    """Raise UnknownTask where a name means neither a task of the caller's nor the backbone."""
    if spec is None or spec in services.backbone_names:
        return
    task = check_spec(spec).partition("@")[0]
    services.residency.status(check_visible(record_of(request.scope).caller, task))
