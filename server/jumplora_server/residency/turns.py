"""Whose turn it is: how a share of a task's requests is spread over them.

Error diffusion, as an image of few colours is drawn: what a request is owed of its share and does
not get is added to what the next one is owed. So of any number of requests in a row the share is
kept to within one request, without a random generator and the same way each time.
"""

from __future__ import annotations

from jumplora_adapters.routing import Staged

_WHOLE = 1_000_000  # whole numbers: sums of floats would drift
_HALF = _WHOLE // 2


class Turns:
    """Of each task what its staged version is owed. Knows no lock."""

    def __init__(self) -> None:
        self._owed: dict[str, tuple[Staged, int]] = {}

    def is_due(self, task: str, staged: Staged) -> bool:
        """Whether the next request belongs to the staged version; counts nothing."""
        return self._next(task, staged) >= _WHOLE

    def take(self, task: str, staged: Staged) -> None:
        """A request was answered by whose turn it was."""
        owed = self._next(task, staged)
        self._owed[task] = staged, owed - _WHOLE if owed >= _WHOLE else owed

    def forget(self, task: str) -> None:
        """Begin anew."""
        self._owed.pop(task, None)

    def _next(self, task: str, staged: Staged) -> int:
        before, owed = self._owed.get(task, (staged, _HALF))
        return (owed if before == staged else _HALF) + round(staged.share * _WHOLE)
