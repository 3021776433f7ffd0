"""Which versions of a task are asked beside its current one: a staged one, and those with a name.

Owns the file `routing.json` of a task's folder and what may stand in it. Who is asked when is the
server's business.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jumplora_adapters.errors import AliasInvalid, StoreError
from jumplora_adapters.json_text import read_json
from jumplora_adapters.manifest import is_digest
from jumplora_adapters.regular_file import open_regular

ROUTING = "routing.json"
STAGED_NAME, CURRENT_NAME = "staged", "current"  # name the two versions of a task that may change
MAX_ALIASES = 32
MAX_SECONDS = 10 * 365 * 86400.0
MAX_ROUTING_BYTES = 64 * 1024
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,31}", re.ASCII)
_DIGITS = re.compile(r"[0-9a-f]{8,}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Staged:
    """A version that gets a share of its task's requests, 0 to 1, and since when (ISO 8601, UTC).

    With a share of 0 it is asked only by those that name it. A server makes it current by itself
    once it was staged for `promote_after` seconds without a fault; None: it does not.
    """

    version: str
    share: float
    at: str
    promote_after: float | None = None


@dataclass(frozen=True, slots=True)
class Routing:
    """The versions that a task's requests may get beside the current one. `aliases`: by name."""

    staged: Staged | None = None
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __bool__(self) -> bool:
        return self.staged is not None or bool(self.aliases)

    def staging(self, staged: Staged | None) -> Routing:
        """The same with another staged version, or none."""
        return replace(self, staged=staged)

    def naming(self, name: str, version: str | None) -> Routing:
        """The same where `name` means `version`, or nothing. Raises AliasInvalid."""
        aliases = {n: v for n, v in self.aliases.items() if n != name}
        if version is not None:
            aliases[check_alias(name)] = version
        if len(aliases) > MAX_ALIASES:
            raise AliasInvalid(f"a task may have {MAX_ALIASES} aliases; take one away first")
        return replace(self, aliases=MappingProxyType(dict(sorted(aliases.items()))))

    def names_of(self, version: str) -> tuple[str, ...]:
        """What a version is called here: its aliases, and `staged`."""
        names = tuple(name for name, named in self.aliases.items() if named == version)
        is_staged = self.staged is not None and self.staged.version == version
        return (*names, STAGED_NAME) if is_staged else names


NO_ROUTING = Routing()


def is_alias(name: str) -> bool:
    """Whether a version may be called that: not what could be a digest's beginning."""
    return (
        _ALIAS.fullmatch(name) is not None
        and _DIGITS.fullmatch(name) is None
        and name not in (STAGED_NAME, CURRENT_NAME)
    )


def check_alias(name: str) -> str:
    """Return a name that a version may have. Raises AliasInvalid."""
    if is_alias(name):
        return name
    raise AliasInvalid(
        f"alias {name[:80]!r} is not allowed: 1 to 32 letters, digits and . _ - that begin with a "
        f"letter, but not {STAGED_NAME!r}, {CURRENT_NAME!r} or only digits of a version"
    )


def routing_text(routing: Routing) -> bytes:
    """The content of the file."""
    staged = routing.staged
    content: dict[str, Any] = {
        "aliases": dict(routing.aliases),
        "staged": None
        if staged is None
        else {"at": staged.at, "share": staged.share, "version": staged.version},
    }
    if staged is not None and staged.promote_after is not None:
        content["staged"]["promote_after"] = staged.promote_after
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def read_routing(folder: Path) -> Routing:
    """What a task's folder says; nothing where it has no such file. Raises StoreError."""
    path = folder / ROUTING
    try:
        descriptor = open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return NO_ROUTING
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        try:
            content = file.read(MAX_ROUTING_BYTES + 1)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_ROUTING_BYTES:
        raise StoreError(f"{path} has more than {MAX_ROUTING_BYTES} bytes, which are allowed")
    try:
        return _parsed(read_json(content.decode("utf-8")))
    except (ValueError, AliasInvalid) as error:
        raise StoreError(f"{path} cannot be used: {error}") from error


def _parsed(value: object) -> Routing:
    if not isinstance(value, dict) or not value.keys() <= {"aliases", "staged"}:
        raise ValueError('it must be an object with "aliases" and "staged"')
    given = value.get("aliases", {})
    if not isinstance(given, dict):
        raise ValueError('"aliases" must be an object of names and versions')
    routing = Routing(_staged(value.get("staged")))
    for name, version in given.items():
        routing = routing.naming(name, _version(version))
    return routing


def _staged(value: object) -> Staged | None:
    if value is None:
        return None
    required = {"at", "share", "version"}
    if not isinstance(value, dict) or value.keys() - {"promote_after"} != required:
        raise ValueError('"staged" must be an object with "at", "share" and "version"')
    at, share = value["at"], value["share"]
    if not isinstance(at, str):
        raise ValueError('"at" of "staged" must be a time')
    after = check_seconds(value.get("promote_after"))
    return Staged(_version(value["version"]), check_share(share), at, after)


def _version(value: object) -> str:
    if not isinstance(value, str) or not is_digest(value):
        raise ValueError("a version must be 64 hexadecimal digits")
    return value


def check_share(share: object) -> float:
    """Return a share of requests. Raises ValueError."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(f"a share must be a number from 0 to 1; {share!r} was given")
    return float(share)


def check_seconds(seconds: object) -> float | None:
    """Return a number of seconds, or None for none. Raises ValueError."""
    if seconds is None:
        return None
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if isinstance(seconds, int | float) and is_number and 0 <= seconds < MAX_SECONDS:
        return float(seconds)
    raise ValueError(f"promote_after must be a number of seconds; {seconds!r} was given")
