"""Fingerprints that were computed before, in a file of the user's cache folder for each backbone.

An entry counts while no file that a fingerprint depends on has another stamp. Losing an entry, or
being unable to write one, costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jumplora_adapters.atomic_file import replace_file
from jumplora_adapters.manifest import is_digest
from jumplora_adapters.regular_file import RACY_NS, Stamp, now_ns, open_regular

MAX_ENTRY_BYTES = 1024 * 1024
_VERSION = 1
_VERSIONS = ("2", "1")  # of the fingerprints in an entry, newest first
_log = logging.getLogger(__name__)

Stamps = Mapping[str, Stamp]
"""File name -> inode, times and size."""


def user_cache() -> Path | None:
    """Where entries lie: below XDG_CACHE_HOME, or ~/.cache. None where there is no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # others do not count, says the XDG specification
        return Path(given) / "jumplora" / "fingerprints"
    try:
        return Path.home() / ".cache" / "jumplora" / "fingerprints"
    except RuntimeError:
        return None


class FingerprintCache:
    """The entries of one folder; several processes may share it."""

    def __init__(self, folder: Path | None, *, clock: Callable[[], int] = now_ns) -> None:
        """Made before the files of a backbone are read, for what is kept of it.

        `clock` gives nanoseconds since 1970, as the stamps of files do.
        """
        self._folder = folder
        self._made_at = clock()

    def find(self, backbone: Path, stamps: Stamps) -> tuple[str, ...] | None:
        """The fingerprints of a backbone's folder, newest version first."""
        path = self._path(backbone)
        if path is None:
            return None
        try:
            descriptor = open_regular(path)
            with os.fdopen(descriptor, "rb") as file:
                if os.fstat(descriptor).st_uid != os.geteuid():
                    return None  # another user's word
                content: Any = json.loads(file.read(MAX_ENTRY_BYTES))
            if content != _entry(backbone, stamps, content["fingerprints"]):
                return None
            found = tuple(content["fingerprints"][version] for version in _VERSIONS)
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        return found if all(isinstance(it, str) and is_digest(it) for it in found) else None

    def keep(self, backbone: Path, stamps: Stamps, fingerprints: tuple[str, ...]) -> None:
        """Write an entry, unless a file changed so shortly before it was read that its stamp may
        say too little: hashing takes longer than a second change under the same stamp."""
        path = self._path(backbone)
        newest = max((max(stamp[1], stamp[2]) for stamp in stamps.values()), default=0)
        if path is None:
            _say_once(None, "this user has no home folder")
        elif self._made_at - newest > RACY_NS:
            named = dict(zip(_VERSIONS, fingerprints, strict=True))
            text = json.dumps(_entry(backbone, stamps, named), sort_keys=True)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, text.encode())
            except OSError as error:
                _say_once(path.parent, error.strerror or str(error))

    def _path(self, backbone: Path) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"{hashlib.sha256(os.fsencode(backbone)).hexdigest()}.json"


def _entry(backbone: Path, stamps: Stamps, fingerprints: object) -> dict[str, object]:
    return {
        "version": _VERSION,
        "backbone": os.fsencode(backbone).hex(),
        "files": {name: list(stamp) for name, stamp in sorted(stamps.items())},
        "fingerprints": fingerprints,
    }


@lru_cache(maxsize=8)
def _say_once(folder: Path | None, reason: str) -> None:
    _log.warning(
        "the backbone's fingerprint is not kept%s (%s), so it is computed at each start: set "
        "XDG_CACHE_HOME to a folder that can be written",
        "" if folder is None else f" in {folder}",
        reason,
    )
