"""One key as an operator defined it. The key itself is nowhere: only its SHA-256 is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from jumplora_server.access.caller import (
    ADMIN_SCOPES,
    API_SCOPES,
    Caller,
    Quota,
    Scope,
    TaskPatterns,
)

KEY_ID_DIGITS = 12  # of a key's SHA-256: names a key of the environment, and does not give it away


@dataclass(frozen=True, slots=True)
class Key:
    """A name for keys that may do the same; several `hashes` (hex) while one replaces another.

    `tasks` None: all. From `expires` on, a time with a zone, it is refused.
    """

    id: str
    hashes: tuple[str, ...]
    scopes: frozenset[Scope]
    tasks: TaskPatterns | None = None
    expires: datetime | None = None
    quota: Quota = field(default_factory=Quota)

    @property
    def caller(self) -> Caller:
        """Who asks with it."""
        return Caller(self.id, self.scopes, self.tasks, self.quota)

    def is_expired(self, now: float) -> bool:
        """Whether it holds no more at `now`, in Unix seconds."""
        return self.expires is not None and now >= self.expires.timestamp()


def hash_of(secret: str) -> str:
    """SHA-256 hex of a key."""
    return hashlib.sha256(secret.encode("utf-8", errors="replace")).hexdigest()


def environment_keys(admin_hashes: Iterable[str], api_hashes: Iterable[str]) -> Iterator[Key]:
    """The keys of JUMPLORA_ADMIN_KEYS and JUMPLORA_API_KEYS. One in both is an admin's."""
    admins = dict.fromkeys(admin_hashes)
    for each in admins:
        yield Key(each[:KEY_ID_DIGITS], (each,), ADMIN_SCOPES)
    for each in dict.fromkeys(api_hashes):
        if each not in admins:
            yield Key(each[:KEY_ID_DIGITS], (each,), API_SCOPES)
