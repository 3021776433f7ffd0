"""KServe's v2 protocol (Open Inference Protocol): what KServe, Triton and Seldon clients call.

A task is a model, a version one of its versions. Texts are BYTES tensors, in JSON: the extension
for binary tensors is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from starlette.responses import JSONResponse, Response

from jumplora_server.access.caller import Caller
from jumplora_server.api import health
from jumplora_server.api.answering import answer
from jumplora_server.api.ask import Ask, FieldNames, Origin, Result, record_of
from jumplora_server.api.dialect import Dialect, Fault
from jumplora_server.api.health import WithServices
from jumplora_server.api.kserve_schemas import (
    BINARY_HEADER,
    OUTPUTS,
    TRANSPORT,
    KserveError,
    Live,
    ModelMetadata,
    ModelReady,
    OutputName,
    Ready,
    ServerMetadata,
    TensorMetadata,
    TextInference,
    TextInferred,
)
from jumplora_server.api.parameters import asked_parameters, choices_asked
from jumplora_server.api.route import DialectRoute
from jumplora_server.api.sight import may_ask_base, text_for
from jumplora_server.api.task_names import (
    HEADER,
    TaskHeader,
    check_agreement,
    check_spec,
    check_visible,
)
from jumplora_server.errors import InvalidInput
from jumplora_server.services import Services
from jumplora_server.version import VERSION

PLATFORM = "jumplora_t5"


def _error(fault: Fault) -> dict[str, object]:
    return {"error": fault.message}


KSERVE = Dialect(_error, statuses={"validation": 400})


def to_ask(caller: Caller, body: TextInference, task: str | None) -> Ask:
    """What a request wants."""
    parameters, tensor = body.parameters, body.inputs[0]
    asked = asked_parameters(parameters)
    for name in TRANSPORT:
        asked.pop(name, None)
    if "best_of" in asked:  # its default is as many answers; an output has one for each prompt
        asked["n"] = 1
    return Ask(
        caller=caller,
        task=task,
        prompts=tensor.texts,
        form="texts" if tensor.name == "text" else "prompts",
        shape="list",
        wants="end",
        names=FieldNames(
            "inputs[0].data",
            prefix="parameters.",
            whole='give whole prompts, in a tensor of the name "prompt"',
        ),
        parameters=asked,
        choices=choices_asked(parameters),
        truncate=parameters.truncate,
        timeout_seconds=None if parameters.timeout_ms is None else parameters.timeout_ms / 1000,
    )


class KserveWriter:
    """Writes one tensor an output, of the shape that the input has."""

    def __init__(self, model: str, body: TextInference) -> None:
        self._model = model
        self._id = body.id
        self._shape = body.inputs[0].shape
        self._wanted = body.wanted
        self._results: list[Result] = []

    def piece(self, origin: Origin, index: int, result: Result) -> str:
        """Nothing yet: a tensor holds something of every prompt."""
        del origin, index
        self._results.append(result)
        return ""

    def whole(self, origin: Origin, pieces: Sequence[str]) -> str:
        """The response with its output tensors."""
        del pieces
        body: dict[str, object] = {"model_name": self._model.partition("@")[0]}
        if origin.ref is not None:
            body["model_version"] = origin.ref.version
        if self._id is not None:
            body["id"] = self._id
        body["outputs"] = [self._tensor(name) for name in self._wanted]
        return json.dumps(body)

    def _tensor(self, name: OutputName) -> dict[str, object]:
        return {
            "name": name,
            "datatype": OUTPUTS[name],
            "shape": self._shape,
            "data": [_element(name, result) for result in self._results],
        }


def _element(name: OutputName, result: Result) -> str | float:
    best = result.answers[0]
    if name == "probability":  # wanted with choices only
        assert result.ranking is not None
        return result.ranking.options[0].probability
    return best.text if name == "text" else best.reason.value


ModelName = Annotated[str, Path(description="the task")]
ModelVersion = Annotated[str, Path(description="a version's digest, or 8 or more digits of it")]
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": KserveError} for status in (400, 401, 403, 404, 413, 429, 500, 503, 504)
}
_LOOK: dict[int | str, dict[str, Any]] = {s: {"model": KserveError} for s in (400, 401, 404)}

router = APIRouter(prefix="/v2", tags=["kserve"])


@router.get("", response_model=ServerMetadata, responses={401: {"model": KserveError}})
async def server_metadata() -> ServerMetadata:
    """What runs here."""
    return ServerMetadata(name="jumplora", version=VERSION, extensions=[])


@router.get("/health/live", response_model=Live, responses={503: {"model": Live}})
async def server_live(services: WithServices) -> Response:
    """As /livez."""
    return _health("live", health.thread_checks(services))


@router.get("/health/ready", response_model=Ready, responses={503: {"model": Ready}})
async def server_ready(services: WithServices) -> Response:
    """As /readyz."""
    return _health("ready", health.ready_checks(services))


def _health(name: Literal["live", "ready"], checks: dict[str, str]) -> Response:
    wrong = [f"{check}: {text}" for check, text in checks.items() if text != "ok"]
    if not wrong:
        return JSONResponse({name: True})
    return _not_ready({name: False, "error": "; ".join(wrong)})


def _not_ready(body: dict[str, object]) -> Response:
    return JSONResponse(body, status_code=503, headers={"retry-after": "1"})


@router.get("/models/{model_name}", response_model=ModelMetadata, responses=_LOOK)
async def model_metadata(
    request: Request, services: WithServices, model_name: ModelName
) -> ModelMetadata:
    """A task: its versions, oldest first, and its tensors."""
    return _metadata(request, services, check_spec(model_name))


@router.get(
    "/models/{model_name}/versions/{model_version}", response_model=ModelMetadata, responses=_LOOK
)
async def model_version_metadata(
    request: Request, services: WithServices, model_name: ModelName, model_version: ModelVersion
) -> ModelMetadata:
    """The same of one version."""
    return _metadata(request, services, check_spec(f"{model_name}@{model_version}"))


def _metadata(request: Request, services: Services, spec: str) -> ModelMetadata:
    task, at, _ = spec.partition("@")
    versions: list[str] = []
    has_template = False
    if not _is_base(request, services, spec):
        status = services.residency.status(task)
        versions = [services.residency.version_of(spec)] if at else list(status.history)
        has_template = status.manifest is None or status.manifest.prompt is not None
    return ModelMetadata(
        name=task,
        versions=versions,
        platform=PLATFORM,
        inputs=[TensorMetadata(name="text" if has_template else "prompt", datatype="BYTES")],
        outputs=[TensorMetadata(name=name, datatype=kind) for name, kind in OUTPUTS.items()],
    )


_MODEL_READY: dict[int | str, dict[str, Any]] = {**_LOOK, 503: {"model": ModelReady}}


@router.get("/models/{model_name}/ready", response_model=ModelReady, responses=_MODEL_READY)
async def model_ready(request: Request, services: WithServices, model_name: ModelName) -> Response:
    """Whether the task answers, be it after a load."""
    return _model_ready(request, services, check_spec(model_name))


@router.get(
    "/models/{model_name}/versions/{model_version}/ready",
    response_model=ModelReady,
    responses=_MODEL_READY,
)
async def model_version_ready(
    request: Request, services: WithServices, model_name: ModelName, model_version: ModelVersion
) -> Response:
    """The same of one version."""
    return _model_ready(request, services, check_spec(f"{model_name}@{model_version}"))


def _model_ready(request: Request, services: Services, spec: str) -> Response:
    task, at, _ = spec.partition("@")
    body: dict[str, object] = {"name": task, "ready": True}
    if _is_base(request, services, spec):
        return JSONResponse(body)
    status = services.residency.status(task)
    wanted = services.residency.version_of(spec) if at else None
    if wanted is None:
        is_ready = status.version is not None
    else:  # an older one is loaded when it is asked for
        is_ready = wanted == status.version or wanted != status.desired
    if is_ready:
        return JSONResponse(body)
    caller, failure = record_of(request.scope).caller, status.failure
    why = "it is being loaded" if failure is None else text_for(caller, failure)
    return _not_ready({**body, "ready": False, "error": f"task {task!r} does not answer: {why}"})


def _is_base(request: Request, services: Services, spec: str) -> bool:
    """Whether the bare backbone is meant. Raises UnknownTask for a task of others."""
    record, task = record_of(request.scope), spec.partition("@")[0]
    is_open = may_ask_base(services.settings, record.caller)
    if spec in services.backbone_names and is_open:
        record.task = None
        return True
    record.task = task
    check_visible(record.caller, task)
    return False


class KserveRoute(DialectRoute):
    """Inference. Triton's client sends JSON without a content-type."""

    dialect = KSERVE
    body = TextInference
    typed = "or not at all"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Refuse binary tensors, which stand behind the JSON of the body, before it is read."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            if BINARY_HEADER in request.headers:
                raise InvalidInput(
                    f"{BINARY_HEADER}: binary tensors are not read here; give data as JSON strings,"
                    " with Triton's client by set_data_from_numpy(..., binary_data=False)"
                )
            return await handle(request)

        return handler


inference = APIRouter(prefix="/v2", tags=["kserve"], route_class=KserveRoute)


@inference.post("/models/{model_name}/infer", response_model=TextInferred, responses=_ERRORS)
async def model_infer(
    request: Request,
    services: WithServices,
    model_name: ModelName,
    body: TextInference,
    x_task_id: TaskHeader = None,
) -> Response:
    """Answer a tensor of texts or of whole prompts with one text each."""
    return await _infer(request, services, check_spec(model_name), body, x_task_id)


@inference.post(
    "/models/{model_name}/versions/{model_version}/infer",
    response_model=TextInferred,
    responses=_ERRORS,
)
async def model_version_infer(
    request: Request,
    services: WithServices,
    model_name: ModelName,
    model_version: ModelVersion,
    body: TextInference,
    x_task_id: TaskHeader = None,
) -> Response:
    """The same by one version."""
    spec = check_spec(f"{model_name}@{model_version}")
    return await _infer(request, services, spec, body, x_task_id)


async def _infer(
    request: Request, services: Services, spec: str, body: TextInference, header: str | None
) -> Response:
    if header is not None:
        check_agreement({"the path": spec, HEADER: header})
    task = services.settings.base_name if spec == services.served_name else spec
    ask = to_ask(record_of(request.scope).caller, body, task)
    return await answer(request, services, ask, KserveWriter(spec, body))
