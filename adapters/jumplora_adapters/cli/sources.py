"""What an argument stands for: SPEC is an adapter file, or `task` / `task@version` of a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jumplora_adapters.errors import FormatError, StoreError

if TYPE_CHECKING:
    from jumplora_adapters.catalogue import Catalogue
    from jumplora_adapters.manifest import Manifest
    from jumplora_adapters.store import Store

SUFFIX = ".safetensors"
SPEC_HELP = "Adapter file (.safetensors), or task or task@version of --store."


@dataclass(frozen=True, slots=True)
class Source:
    """One adapter on disk. `digest` is the version a store says it is; None for a plain file."""

    spec: str
    path: Path
    digest: str | None


def open_catalogue(root: Path) -> Catalogue:
    """The store in an existing folder, to be read; quicker to import than one to be changed."""
    from jumplora_adapters.catalogue import Catalogue

    _require_folder(root)
    return Catalogue(root)


def open_store(root: Path) -> Store:
    """The store in an existing folder. Raises StoreError for a folder that is not there."""
    from jumplora_adapters.store import Store

    _require_folder(root)
    return Store(root)


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        raise StoreError(
            f"no store at {root}: the folder does not exist; give another by --store (or "
            "JUMPLORA_STORE), or make one with `jumplora publish`"
        )


def find_source(spec: str, store: Path | None) -> Source:
    """The adapter that `spec` means: a file if it ends in .safetensors, else a version in `store`.

    Raises StoreError without a store, UnknownTask, UnknownVersion.
    """
    if spec.endswith(SUFFIX):
        return Source(spec, Path(spec), None)
    if store is None:
        raise StoreError(
            f"{spec!r} is not a {SUFFIX} file, so it is looked up in a store: give --store FOLDER"
        )
    opened = open_catalogue(store)
    _, digest = opened.resolve(spec)
    return Source(spec, opened.path_of(digest), digest)


def read_head(path: Path, *, follow_links: bool = True) -> Manifest:
    """The manifest of a file that somebody typed; FormatError names the file."""
    from jumplora_adapters.header import read_manifest

    try:
        return read_manifest(path, follow_links=follow_links)
    except FormatError as error:
        raise FormatError(f"{path} is not a JumpLoRA adapter ({error})", code=error.code) from error


def every_source(store: Path, versions: str) -> tuple[Source, ...]:
    """Every adapter of a store; `versions` is "current" (one a task) or "all"."""
    opened = open_catalogue(store)
    sources: list[Source] = []
    for task, current in sorted(opened.pointers().items()):
        digests = (current,) if versions == "current" else opened.versions(task)
        sources += [
            Source(task if digest == current else f"{task}@{digest[:12]}", path, digest)
            for digest in digests
            if (path := opened.path_of(digest))
        ]
    return tuple(sources)
