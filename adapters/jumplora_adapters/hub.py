"""A folder of this machine, or the snapshot of a hub repository."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from jumplora_adapters.errors import AdapterError

Fetch = Callable[[str, str | None], str]
"""Hub id and revision to the folder of the snapshot."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_CACHE_FRONT = "models--"  # of a repository's folder in the hub's cache: models--owner--name


def resolve_folder(
    name_or_path: str,
    files: Sequence[str],
    *,
    error: type[AdapterError],
    revision: str | None = None,
    fetch: Fetch | None = None,
) -> Path:
    """A local folder as it is; otherwise the hub repository's snapshot. Raises `error`.

    Only `files` (names with wildcards) are fetched. `fetch` None is the hub's own client.
    """
    folder = Path(name_or_path).expanduser()
    if name_or_path and folder.is_dir():
        return folder
    if name_or_path and folder.exists():
        raise error(f"{name_or_path!r} is not a folder")
    if not _HUB_ID.fullmatch(name_or_path):
        raise error(f"{name_or_path!r} is neither a folder nor a hub id")
    try:
        if fetch is not None:
            return Path(fetch(name_or_path, revision))
        return Path(_fetch(name_or_path, revision, files))
    except (OSError, ValueError, RuntimeError) as cause:  # of the hub's client and its transport
        reason = str(cause).strip().partition("\n")[0]
        raise error(
            f"{name_or_path!r} is not a folder here and could not be fetched: {reason}"
        ) from cause


def name_of(folder: Path) -> str:
    """The hub id of a snapshot's folder, also of one that `name_to_pack` named; else its name."""
    here = Path(os.path.abspath(folder))  # "." and ".." have names; a link keeps its own
    if here.parent.name == "snapshots" and here.parent.parent.name.startswith(_CACHE_FRONT):
        here = here.parent.parent  # models--owner--name/snapshots/<commit>
    if here.name.startswith(_CACHE_FRONT):
        return here.name.removeprefix(_CACHE_FRONT).replace("--", "/")
    return here.name


def name_to_pack(folder: Path) -> str:
    """One part of a path for a copy of the folder, which has the same `name_of`."""
    name = name_of(folder)
    return f"{_CACHE_FRONT}{name.replace('/', '--')}" if "/" in name else name


def _fetch(hub_id: str, revision: str | None, files: Sequence[str]) -> str:
    from huggingface_hub import snapshot_download  # slow to import and rarely needed

    try:
        return snapshot_download(hub_id, revision=revision, allow_patterns=list(files))
    except (OSError, ValueError, RuntimeError):
        raise
    except Exception as error:  # of its transport, whose library and errors change by version
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
