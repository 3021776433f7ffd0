"""What an adapter says about itself: the one JSON document inside its file.

Everything here is checked data from outside. It knows names, numbers and text, never tensors.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from jumplora_adapters.errors import FormatError, TaskIdInvalid
from jumplora_adapters.json_text import parse_json
from jumplora_adapters.printable import shown
from jumplora_adapters.prompt_size import PromptSize

TASK_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
MAX_MANIFEST_BYTES = 256 * 1024
MAX_TARGETS = 2048
MAX_LINEAGE = 64
MAX_OPTIONS = 1024
MAX_CANARIES = 32
MAX_CALIBRATIONS = 6  # three dtypes, folded or not
MAX_PROFILE_WIDTH = 8192
MAX_PROFILE_TOKENS = 1 << 24
MAX_DEV_TEXTS = 256
MAX_DEV_LENGTH = 512
FORMAT_VERSION = 2
# Of a prompt with an empty text, in bytes. A template that names each of its fields once stays
# below this in any manifest; what is published has to stay below less (bounds.py).
MAX_READ_FRAME_BYTES = MAX_MANIFEST_BYTES
MAX_FAULTS = 3
MAX_PLACE_CHARS = 80
MAX_FAULT_CHARS = 400

_TASK_ID = re.compile(TASK_ID, re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_task_id(text: str) -> bool:
    """Whether `text` may name a task. One linear pattern, ASCII only."""
    return _TASK_ID.fullmatch(text) is not None


def check_task_id(task: str) -> str:
    """Return `task` unchanged, or raise TaskIdInvalid."""
    if not is_task_id(task):
        raise TaskIdInvalid(
            f"task id {task[:80]!r} is not allowed: 1 to 64 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit"
        )
    return task


def is_digest(text: str) -> bool:
    """Whether `text` is a whole version digest: 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def _task_id(task: str) -> str:
    try:
        return check_task_id(task)
    except TaskIdInvalid as error:
        raise ValueError(str(error)) from error


def _readable(version: int) -> int:
    if version > FORMAT_VERSION:
        raise ValueError(
            f"version {version} given; this program reads 1 to {FORMAT_VERSION}: a newer one may "
            "read it"
        )
    return version


TaskId = Annotated[str, AfterValidator(_task_id)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,200}$")]
ShortText = Annotated[str, StringConstraints(max_length=1024)]
LongText = Annotated[str, StringConstraints(max_length=65536)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Frozen(BaseModel):
    # A traceback must not show a canary's prompt.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )


class BackboneRef(_Frozen):
    """Which backbone an adapter belongs to; only the fingerprint decides."""

    fingerprint: Digest
    name: ShortText
    architecture: dict[str, JsonValue] = {}


class PromptSpec(_Frozen):
    """How a text becomes a prompt (prompt.render)."""

    template: LongText
    instruction: LongText = ""
    options: Annotated[tuple[ShortText, ...], Field(max_length=MAX_OPTIONS)] = ()

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        size = PromptSize.measure(self.template, self.instruction, self.options)
        if size.frame_bytes > MAX_READ_FRAME_BYTES:
            raise ValueError(
                f"the template makes prompts of {size.frame_bytes} bytes with an empty text; at "
                f"most {MAX_READ_FRAME_BYTES} are allowed"
            )
        return self


def options_digest(prompt: PromptSpec) -> str:
    """SHA-256 of a prompt section's canonical JSON: which labels a calibration is for."""
    text = json.dumps(
        prompt.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


class GenerationDefaults(TypedDict, total=False):
    """Generation parameters for requests that name none; a parameter not listed is not allowed.

    What is read may be more than what is written or published, which `sampling_bounds` says.
    """

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )

    max_new_tokens: Annotated[int, Field(ge=1, le=8192)]
    min_new_tokens: Annotated[int, Field(ge=0, le=8192)]
    temperature: Annotated[float, Field(gt=0.0, le=100.0)]
    top_k: Annotated[int, Field(ge=1, le=1_000_000)]
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]
    repetition_penalty: Annotated[float, Field(gt=0.0, le=100.0)]
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=8192)]
    num_beams: Annotated[int, Field(ge=1, le=1024)]
    length_penalty: Annotated[float, Field(ge=-100.0, le=100.0)]
    early_stopping: bool | Literal["never"]
    stop: Annotated[tuple[ShortText, ...], Field(max_length=16)]


class Canary(_Frozen):
    """A raw prompt and the text that this adapter is to give for it, greedily."""

    prompt: LongText
    expected: LongText


class ProfileSpec(_Frozen):
    """The section of a profile: what its numbers are of, and how large its tensors are."""

    features: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
    width: Annotated[int, Field(ge=1, le=MAX_PROFILE_WIDTH)]
    texts: Annotated[int, Field(ge=1, le=(1 << 31) - 1)]
    tokens: Annotated[int, Field(ge=1, le=MAX_PROFILE_TOKENS)]
    dev_texts: Annotated[int, Field(ge=0, le=MAX_DEV_TEXTS)]
    dev_length: Annotated[int, Field(ge=0, le=MAX_DEV_LENGTH)]
    embedding: Digest
    group: TaskId | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        numbers = self.width + self.width * (self.width + 1) // 2 + 2 * self.tokens
        return 4 * (numbers + self.dev_texts * (self.width + self.dev_length))


class Calibration(_Frozen):
    """How sure one form of a version is of its choices: what its probabilities are divided by.

    A log-probability is divided by `temperature` before those of all options are compared.
    `options` is the digest of the prompt section that it was fitted with: with other labels it says
    nothing.
    """

    dtype: Literal["float32", "bfloat16", "int8"]
    is_folded: bool
    options: Digest
    temperature: Annotated[float, Field(ge=0.05, le=20.0)]
    rows: Annotated[int, Field(ge=1, le=(1 << 31) - 1)]
    error: Share  # expected calibration error on these rows, with the temperature
    error_before: Share  # and without


class ChoicesSpec(_Frozen):
    """What holds for requests with choices that do not say it themselves."""

    min_probability: Share | None = None
    min_mass: Share | None = None
    calibrations: Annotated[tuple[Calibration, ...], Field(max_length=MAX_CALIBRATIONS)] = ()

    @model_validator(mode="after")
    def _check_once(self) -> Self:
        forms = [(each.dtype, each.is_folded) for each in self.calibrations]
        if len(set(forms)) != len(forms):
            raise ValueError("calibrations: one dtype and form is listed twice")
        return self


Kind = Literal["masked", "lowrank", "combined"]


class Manifest(_Frozen):
    """The manifest of FORMAT.md. `lineage` lists ancestors only, oldest first.

    A file that does not say its version is of version 1. Writing fills in the newest.
    """

    # No Literal: true and 1.0 equal 1, and would pass.
    format_version: Annotated[int, Field(ge=1, strict=True), AfterValidator(_readable)] = 1
    kind: Kind
    task: TaskId
    backbone: BackboneRef
    targets: Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=MAX_TARGETS)]
    rank: Annotated[int, Field(ge=1, le=65536)] | None = None
    alpha: FiniteFloat | None = None
    thresholds: dict[ShortText, Annotated[float, Field(ge=0.0)]] | None = None
    method: ShortText
    lineage: Annotated[tuple[Digest, ...], Field(max_length=MAX_LINEAGE)] = ()
    density: dict[ModuleName, Share] = {}
    mask_digest: Digest | None = None
    training: dict[str, JsonValue] = {}
    scores: dict[ShortText, FiniteFloat] = {}
    prompt: PromptSpec | None = None
    generation: GenerationDefaults = {}
    canaries: Annotated[tuple[Canary, ...], Field(max_length=MAX_CANARIES)] = ()
    profile: ProfileSpec | None = None
    choices: ChoicesSpec | None = None
    created: ShortText = ""

    @model_validator(mode="after")
    def _check_consistent(self) -> Self:
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("targets: a module is listed twice")
        if len(set(self.lineage)) != len(self.lineage):
            raise ValueError("lineage: a digest is listed twice")
        if self.density and set(self.density) != set(self.targets):
            raise ValueError("density: must name exactly the targets")
        if self.kind == "lowrank":
            if self.rank is None:
                raise ValueError("rank: is needed when kind is lowrank")
            if self.thresholds is not None or self.mask_digest is not None:
                raise ValueError("thresholds, mask_digest: not allowed when kind is lowrank")
        return self


def canonical_json(manifest: Manifest) -> str:
    """The manifest as JSON with sorted keys, no spaces and no escapes of printable characters.

    Raises FormatError (manifest) when that takes more than MAX_MANIFEST_BYTES in UTF-8.
    """
    sections = manifest.model_dump(mode="json")
    if manifest.choices is None:  # so that programs that do not know the section read the others
        del sections["choices"]
    try:
        text = json.dumps(
            sections,
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
    except ValueError as error:
        raise FormatError(f"the manifest cannot be written: {error}", code="manifest") from error
    _check_size(text)
    return text


def parse_manifest(text: str) -> Manifest:
    """Read a manifest. Raises FormatError: duplicate_key, or manifest with the first few faults."""
    _check_size(text)
    parse_json(text, code="manifest")  # pydantic's own parser would let a key come twice
    try:
        manifest = Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise FormatError(
            f"the manifest is not valid: {first_faults(error)}", code="manifest"
        ) from (error)
    _check_version(manifest)
    _check_facts_are_there(manifest)
    return manifest


def first_faults(error: ValidationError) -> str:
    """The first few faults, each with its place, in one line that may be shown anywhere."""
    faults = []
    for fault in error.errors(include_url=False, include_input=False)[:MAX_FAULTS]:
        # A key of the document is part of the place.
        place = ".".join(shown(str(part), MAX_PLACE_CHARS) for part in fault["loc"])
        message = str(fault["msg"]).removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "this program does not know it: a newer version may"
        faults.append(f"{place or 'manifest'}: {shown(message, MAX_FAULT_CHARS)}")
    return "; ".join(faults)


def _check_version(manifest: Manifest) -> None:
    """What version 1 did not have. A manifest being made has no version yet."""
    newer = ["kind combined"] if manifest.kind == "combined" else []
    newer += [name for name in ("profile", "choices") if name in manifest.model_fields_set]
    if manifest.format_version == 1 and newer:
        raise FormatError(
            f"the manifest is not valid: {' and '.join(newer)} given in format_version 1; 2 is "
            "needed",
            code="manifest",
        )


def _check_facts_are_there(manifest: Manifest) -> None:
    """What FORMAT.md requires in a file and a writer fills in; a manifest being made has it not."""
    missing = [] if manifest.density else ["density"]
    if manifest.kind == "masked" and manifest.mask_digest is None:
        missing.append("mask_digest")
    if missing:
        raise FormatError(
            f"the manifest is not valid: {' and '.join(missing)} required with kind "
            f"{manifest.kind}",
            code="manifest",
        )


def _check_size(text: str) -> None:
    size = len(text.encode("utf-8", errors="surrogatepass"))
    if size > MAX_MANIFEST_BYTES:
        raise FormatError(
            f"the manifest has {size} bytes; at most {MAX_MANIFEST_BYTES} are allowed",
            code="manifest",
        )
