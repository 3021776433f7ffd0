"""The names of all tasks by pairs of characters: which are close to one that is unknown.

Read without the table's lock, at a cost that does not grow with the number of tasks.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from itertools import islice, pairwise

MAX_LOOKED_AT = 2000  # names, once for each pair of characters that they share with the asked one
MAX_COMPARED = 24
LEAST_ALIKE = 0.4  # of 1; a name of four letters with two exchanged has 0.4


class Names:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._having: dict[str, dict[str, None]] = {}  # pair -> names, in the order of their coming

    def add(self, name: str) -> None:
        """Know a name, from now on or already."""
        with self._lock:
            for pair in _pairs(name):
                self._having.setdefault(pair, {})[name] = None

    def discard(self, name: str) -> None:
        """Know a name no longer."""
        with self._lock:
            for pair in _pairs(name):
                names = self._having.get(pair, {})
                names.pop(name, None)
                if not names:
                    self._having.pop(pair, None)

    def closest(
        self, asked: str, most: int = 3, *, may_name: Callable[[str], bool] | None = None
    ) -> list[str]:
        """Up to `most` names that are like `asked` and may be named, best first."""
        pairs = _pairs(asked)
        shared: Counter[str] = Counter()
        with self._lock:
            # What few names have tells most.
            having = sorted((self._having.get(pair, {}) for pair in pairs), key=len)
            left = MAX_LOOKED_AT
            for names in having:
                shared.update(filter(may_name, islice(names, left)))
                left -= min(left, len(names))
        likeness = {
            name: _likeness(pairs, _pairs(name)) for name, _ in shared.most_common(MAX_COMPARED)
        }
        close = [name for name, like in likeness.items() if like >= LEAST_ALIKE]
        return sorted(close, key=lambda name: (-likeness[name], name))[:most]


def _pairs(name: str) -> frozenset[str]:
    framed = f"^{name.lower()}$"
    return frozenset(first + second for first, second in pairwise(framed))


def _likeness(some: frozenset[str], others: frozenset[str]) -> float:
    return 2 * len(some & others) / (len(some) + len(others))
