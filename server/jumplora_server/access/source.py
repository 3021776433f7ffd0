"""Where a server's keys come from: its environment, and a file that an operator may change."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jumplora_adapters.regular_file import Stamp, is_settled, now_ns, open_regular, stamp_of
from jumplora_server.access.keyring import Keyring
from jumplora_server.access.keys import Key, environment_keys
from jumplora_server.access.keys_file import MAX_BYTES, KeysFault, parse_keys
from jumplora_server.settings import Settings


@dataclass(frozen=True, slots=True)
class Text:
    """What a file held. `stamp` is None where it may have changed without another stamp."""

    content: bytes
    mode: int
    stamp: Stamp | None

    @property
    def may_be_written_by_all(self) -> bool:
        """Whether any user of the machine may give keys."""
        return bool(self.mode & stat.S_IWOTH)


def read_text(path: Path) -> Text:
    """A file up to a byte over the most that is allowed; links are followed, as Kubernetes mounts
    Secrets as some. Raises OSError."""
    began = now_ns()
    with open(open_regular(path, follow_links=True), "rb") as file:
        state = os.fstat(file.fileno())
        content = file.read(MAX_BYTES + 1)
        is_sure = is_settled(state, began) and stamp_of(os.fstat(file.fileno())) == stamp_of(state)
    return Text(content, state.st_mode, stamp_of(state) if is_sure else None)


def stamp_at(path: Path) -> Stamp:
    """The stamp of the file that a path leads to now. Raises OSError."""
    return stamp_of(path.stat())


@dataclass(frozen=True, slots=True)
class KeySource:
    """The environment's keys, which stay, and the file's place, if there is a file."""

    of_environment: tuple[Key, ...]
    has_api_keys: bool
    file: Path | None

    @classmethod
    def of(cls, settings: Settings) -> KeySource:
        """What the settings name."""
        return cls.of_hashes(
            settings.key_hashes("admin"), settings.key_hashes("api"), settings.keys_file
        )

    @classmethod
    def of_hashes(
        cls, admin: Sequence[str] = (), api: Sequence[str] = (), file: Path | None = None
    ) -> KeySource:
        """Keys of the environment by their SHA-256, and a file."""
        return cls((*environment_keys(admin, api),), bool(api), file)

    @property
    def is_open(self) -> bool:
        """Whether reading and generating need no key."""
        return self.file is None and not self.has_api_keys

    def keyring(self, content: bytes | None = None) -> Keyring:
        """The keys of the environment and of what the file holds. Raises KeysFault."""
        listed = () if content is None else parse_keys(content, self.of_environment)
        return Keyring((*self.of_environment, *listed), is_open=self.is_open)

    def read(self) -> Text | None:
        """What the file holds now, None where there is none. Raises KeysFault."""
        if self.file is None:
            return None
        try:
            return read_text(self.file)
        except OSError as error:
            raise KeysFault([f"it cannot be read: {error.strerror or error}"]) from error

    def check(self) -> None:
        """Raise KeysFault where a server could not start with these keys."""
        text = self.read()
        self.keyring(None if text is None else text.content)
