"""A folder of this machine, or the snapshot of a hub repository."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from jumplora_adapters.errors import AdapterError

Fetch = Callable[[str, str | None], str]
"""Hub id and revision to the folder of the snapshot."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


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
    """The hub id of a snapshot's folder, else the folder's name."""
    # A hub snapshot lies in models--owner--name/snapshots/<commit>.
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return folder.name


def _fetch(hub_id: str, revision: str | None, files: Sequence[str]) -> str:
    from huggingface_hub import snapshot_download  # slow to import and rarely needed

    try:
        return snapshot_download(hub_id, revision=revision, allow_patterns=list(files))
    except (OSError, ValueError, RuntimeError):
        raise
    except Exception as error:  # of its transport, whose library and errors change by version
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
