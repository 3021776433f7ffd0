"""From converted numbers to an adapter file: the manifest around them, and what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue, ValidationError

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.delta import Delta
from jumplora_adapters.density import pooled_density
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.format import Adapter, Factors, kind_of, read_adapter, write_adapter
from jumplora_adapters.manifest import (
    Canary,
    GenerationDefaults,
    Manifest,
    PromptSpec,
    check_task_id,
    first_faults,
)


@dataclass(frozen=True, slots=True)
class Draft:
    """What a foreign checkpoint does not say about the adapter that is made of it."""

    task: str
    created: str  # ISO 8601
    prompt: PromptSpec | None = None
    generation: GenerationDefaults = field(default_factory=lambda: GenerationDefaults())
    lineage: tuple[str, ...] = ()  # digests of the ancestors, oldest first
    scores: Mapping[str, float] = field(default_factory=dict)
    canaries: tuple[Canary, ...] = ()

    def __post_init__(self) -> None:
        check_task_id(self.task)


@dataclass(frozen=True, slots=True)
class Converted:
    """One adapter file that was written and read back."""

    path: Path
    digest: str
    manifest: Manifest
    nonzeros: int
    nbytes: int  # of the deltas, in memory
    density: float  # stored entries over all entries of the targets
    warnings: tuple[str, ...] = ()  # what its maker should look at; each a text of one line


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the numbers came from: the parts of the manifest that differ between formats."""

    method: str
    rank: int | None = None
    alpha: float | None = None
    thresholds: Mapping[str, float] | None = None
    notes: Mapping[str, JsonValue] = field(default_factory=dict)  # for the manifest's `training`
    factors: Factors | None = None
    warnings: tuple[str, ...] = ()


def write_converted(
    path: Path, draft: Draft, backbone: Backbone, deltas: Mapping[str, Delta], origin: Origin
) -> Converted:
    """Write the adapter to `path`, whose folder is made if need be, and read it back.

    Raises ConvertError where there is nothing to write or the manifest would not be valid.
    """
    if not deltas:
        raise ConvertError("the checkpoint has no module at all")
    # The order of the network, whatever the order in the checkpoint.
    ordered = {name: deltas[name] for name in backbone.sites if name in deltas}
    warnings = (*origin.warnings, *_idle(ordered))
    training: dict[str, JsonValue] = dict(origin.notes)
    if warnings:  # for those who look at the adapter later
        training["warnings"] = list(warnings)
    try:
        manifest = Manifest(
            kind=kind_of(ordered.values()),
            task=draft.task,
            backbone=backbone.ref(),
            targets=tuple(ordered),
            rank=origin.rank,
            alpha=origin.alpha,
            thresholds=None if origin.thresholds is None else dict(origin.thresholds),
            method=origin.method,
            lineage=draft.lineage,
            training=training,
            scores=dict(draft.scores),
            prompt=draft.prompt,
            generation=draft.generation,
            canaries=draft.canaries,
            created=draft.created,
        )
    except ValidationError as error:
        raise ConvertError(f"the adapter is not valid: {first_faults(error)}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = write_adapter(path, manifest, ordered, origin.factors)
    return read_back(path, digest, backbone, origin.warnings)


def read_back(
    path: Path, digest: str, backbone: Backbone, warnings: Sequence[str] = ()
) -> Converted:
    """What lies at `path`, after every check that a server would make."""
    adapter: Adapter = read_adapter(path, backbone, expect_digest=digest)
    return Converted(
        path=path,
        digest=digest,
        manifest=adapter.manifest,
        nonzeros=sum(delta.nnz for delta in adapter.deltas.values()),
        nbytes=sum(delta.nbytes for delta in adapter.deltas.values()),
        density=pooled_density(adapter.deltas),
        warnings=(*warnings, *_idle(adapter.deltas)),
    )


def _idle(deltas: Mapping[str, Delta]) -> Iterator[str]:
    """A warning where modules change nothing."""
    idle = [name for name, delta in deltas.items() if not delta.changes_anything]
    if len(idle) == len(deltas):
        yield "it changes nothing: it is the bare backbone"
    elif idle:
        yield f"{len(idle)} of its {len(deltas)} modules change nothing, such as {idle[0]}"


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; ConvertError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConvertError(f"{path} cannot be read: {error.strerror}") from error
