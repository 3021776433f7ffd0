"""All keys of one moment, found by what a client sends. Never changes; a reload makes another."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable

from jumplora_server.access.caller import Scope
from jumplora_server.access.keys import Key, hash_of


class Keyring:
    """`is_open`: without a key one may read and generate all the same."""

    def __init__(self, keys: Iterable[Key], *, is_open: bool, salt: bytes | None = None) -> None:
        self.keys = tuple(keys)
        self.is_open = is_open
        # Looked up by another hash, under a salt that no client knows: how long that takes says
        # nothing of a key, and it takes as long for one key as for a thousand.
        self._salt = salt or secrets.token_bytes(32)
        self._by_mark = {
            self._mark(digest): (digest, key) for key in self.keys for digest in key.hashes
        }

    def find(self, secret: str) -> Key | None:
        """The key that was sent, expired or not; None where it is not known."""
        given = hash_of(secret)
        known, key = self._by_mark.get(self._mark(given), ("", None))
        return key if hmac.compare_digest(given, known) else None

    @property
    def ids(self) -> frozenset[str]:
        """Of all keys."""
        return frozenset(key.id for key in self.keys)

    def has(self, scope: Scope) -> bool:
        """Whether any key has it."""
        return any(scope in key.scopes for key in self.keys)

    def _mark(self, digest: str) -> bytes:
        return hmac.digest(self._salt, digest.encode(), "sha256")
