"""Texts of which one is to be the answer: what may be one, and as the engine takes them."""

from __future__ import annotations

import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from jumplora_adapters.folding import folded
from jumplora_adapters.manifest import Calibration, Manifest, options_digest
from jumplora_server.trie import Trie

MOST_OPTIONS = 256
LONGEST_OPTION = 1024  # characters
NODE_BYTES = 400  # of a trie, with its edge
Key = tuple[str | None, tuple[str, ...] | None]


@dataclass(frozen=True, slots=True)
class Fault:
    """What keeps the option at `index` from being one."""

    index: int
    what: str


def find_fault(texts: Sequence[object]) -> Fault | None:
    """The first text that cannot be an option, or is one twice. Knows no tokens."""
    seen = dict[str, int]()
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            return Fault(index, "must be a text")
        if len(text) > LONGEST_OPTION:
            return Fault(index, f"has {len(text)} characters; at most {LONGEST_OPTION} are allowed")
        try:
            text.encode()
        except UnicodeEncodeError:
            return Fault(index, "is not valid Unicode: half a surrogate pair")
        plain = folded(unicodedata.normalize("NFKC", text))
        if not plain:
            return Fault(index, "is empty; give at least one character that is not white space")
        first = seen.setdefault(plain, index)
        if first != index:
            return Fault(
                index,
                f"{shown(text)} is the one at {first} again, but for case, white space or forms of "
                "characters; leave one out",
            )
    return None


def shown(text: str) -> str:
    """A text's beginning, as a message may show it."""
    return ascii(text[:40])


@dataclass(frozen=True, slots=True)
class Options:
    """Different texts, and the trie of their tokens in the same order.

    `calibrations` are those of an adapter that hold for these options, in this server's dtype.
    """

    texts: tuple[str, ...]
    trie: Trie
    calibrations: tuple[Calibration, ...] = ()

    @property
    def highest_temperature(self) -> float:
        """Of all forms that the adapter may be served in."""
        return max((each.temperature for each in self.calibrations), default=1.0)

    def calibration(self, *, is_folded: bool) -> Calibration | None:
        """That of one form of the version; None where it was fitted for others only."""
        return next((each for each in self.calibrations if each.is_folded == is_folded), None)

    @property
    def nbytes(self) -> int:
        """About what they take."""
        return NODE_BYTES * len(self.trie) + sum(4 * len(text) + 100 for text in self.texts)


def calibrations_for(
    manifest: Manifest | None, texts: Sequence[str], dtype: str
) -> tuple[Calibration, ...]:
    """The calibrations of an adapter that hold: for exactly its own options, as they are now."""
    if manifest is None or manifest.prompt is None or manifest.choices is None:
        return ()
    found = [each for each in manifest.choices.calibrations if each.dtype == dtype]
    if not found or {*texts} != {*manifest.prompt.options}:
        return ()
    digest = options_digest(manifest.prompt)
    return tuple(each for each in found if each.options == digest)


@dataclass(slots=True)
class RecentOptions:
    """Options by version and texts (None: the version's own), as many as were used last.

    Bounded in number and in bytes, of which one may take all. Thread-safe.
    """

    most: int = 256
    most_bytes: int = 16 * 1024 * 1024
    _kept: OrderedDict[Key, Options] = field(default_factory=OrderedDict)
    _nbytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: Key) -> Options | None:
        """What was put there, unless others took its place."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Key, options: Options) -> None:
        """Keep these, and forget those that were not used for longest."""
        with self._lock:
            replaced = self._kept.pop(key, None)
            self._kept[key] = options
            self._nbytes += options.nbytes - (0 if replaced is None else replaced.nbytes)
            while len(self._kept) > self.most or self._nbytes > self.most_bytes:
                _, forgotten = self._kept.popitem(last=False)
                self._nbytes -= forgotten.nbytes

    @property
    def nbytes(self) -> int:
        """About what all take."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._kept)
