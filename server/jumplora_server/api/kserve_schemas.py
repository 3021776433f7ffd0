"""What clients of KServe's v2 protocol send and get: names, types and shapes. Nothing here acts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator

from jumplora_server.api.fields import Prompts, Received
from jumplora_server.api.parameters import Parameters

BINARY_HEADER = "Inference-Header-Content-Length"  # of the extension for binary tensors
TRANSPORT = ("content_type", "binary_data_output")  # parameters that say how tensors are sent
OutputName = Literal["text", "finish_reason", "probability"]
OUTPUTS: Mapping[OutputName, Literal["BYTES", "FP32"]] = MappingProxyType(
    {"text": "BYTES", "finish_reason": "BYTES", "probability": "FP32"}
)
MAX_ID_CHARS = 256


def _flat(value: object) -> object:
    """Rows of one element, of a tensor [n, 1], may be lists."""
    if not isinstance(value, list):
        raise ValueError("must be a list of strings")
    return [row[0] if isinstance(row, list) and len(row) == 1 else row for row in value]


Texts = Annotated[
    Prompts,
    BeforeValidator(_flat),
    WithJsonSchema({"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}),
]


class TensorParameters(Received):
    """What a tensor may say of itself: that its bytes are UTF-8 (Seldon), or that it may come as
    JSON (Triton)."""

    content_type: Literal["str"] | None = None
    binary_data: bool | None = Field(default=None, description="outputs come as JSON in any case")


class InputTensor(Received):
    """Texts, or whole prompts."""

    name: Literal["text", "prompt"] = Field(
        description="text: for the task's prompt template; prompt: whole ones"
    )
    shape: list[int] = Field(min_length=1, max_length=2, description="[n] or [n, 1]")
    datatype: Literal["BYTES"]
    parameters: TensorParameters = TensorParameters()
    data: Texts

    @property
    def texts(self) -> list[str]:
        """One for each element."""
        return self.data if isinstance(self.data, list) else [self.data]

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.shape[1:] not in ([], [1]):
            raise ValueError(f"shape {self.shape} is not allowed: give [n] or [n, 1]")
        if math.prod(self.shape) != len(self.texts):
            raise ValueError(
                f"shape {self.shape} is of {math.prod(self.shape)} elements, and data has "
                f"{len(self.texts)}"
            )
        return self


class RequestedOutput(Received):
    """An output to answer with."""

    name: OutputName
    parameters: TensorParameters = TensorParameters()


class InferParameters(Parameters):
    """How to generate, by the names of /generate."""

    unlisted: ClassVar[frozenset[str]] = Parameters.unlisted | {"details", "adapter_id"}

    content_type: Literal["str"] | None = None
    binary_data_output: bool | None = Field(
        default=None, description="Triton's client sends it; outputs come as JSON in any case"
    )

    @model_validator(mode="after")
    def _refuse_what_has_no_output(self) -> Self:
        for name in ("details", "adapter_id"):
            if name in self.model_fields_set:
                raise ValueError(f"{name} is not allowed here; /generate has it")
        for name in ("n", "num_return_sequences"):
            if (getattr(self, name) or 1) > 1:
                raise ValueError(f"{name}: an output has one answer for each prompt; set it to 1")
        return self


class TextInference(Received):
    """One tensor of texts."""

    id: str | None = Field(default=None, max_length=MAX_ID_CHARS, description="comes back")
    parameters: InferParameters = InferParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] | None = Field(
        default=None, max_length=len(OUTPUTS), description="default: all"
    )

    @model_validator(mode="after")
    def _check_outputs(self) -> Self:
        if len({*self.wanted}) < len(self.wanted):
            raise ValueError("outputs: one is listed twice; list each once")
        if "probability" in self.wanted and self.parameters.choices is None:
            raise ValueError("outputs: probability is an output of requests with choices only")
        return self

    @property
    def wanted(self) -> list[OutputName]:
        """The outputs to answer with."""
        if self.outputs:
            return [each.name for each in self.outputs]
        has_choices = self.parameters.choices is not None
        return [name for name in OUTPUTS if name != "probability" or has_choices]


class OutputTensor(BaseModel):
    """As many elements as the input has."""

    name: OutputName
    datatype: Literal["BYTES", "FP32"]
    shape: list[int]
    data: list[str | float]


class TextInferred(BaseModel):
    """The answers. `model_version` is missing where the bare backbone answered."""

    model_name: str
    model_version: str | None = None
    id: str | None = None
    outputs: list[OutputTensor]


class TensorMetadata(BaseModel):
    """A tensor of any number of elements."""

    name: str
    datatype: str
    shape: list[int] = [-1]


class ModelMetadata(BaseModel):
    """A task."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """What runs here. No extension of the protocol does."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """`error` says what is wrong."""

    live: bool
    error: str | None = None


class Ready(BaseModel):
    """`error` says what is wrong."""

    ready: bool
    error: str | None = None


class ModelReady(BaseModel):
    """`error` says why the task does not answer."""

    name: str
    ready: bool
    error: str | None = None


class KserveError(BaseModel):
    """Every error below /v2."""

    error: str
