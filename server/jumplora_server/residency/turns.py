"""Whose turn it is: how a share of a task's requests is spread over them.

With a share of a tenth, one of each ten requests is drawn; any other share is cut in the same way,
into lengths that hold one turn each at a place that is drawn evenly. So the share is kept to within
two requests of any number in a row, and no order in which clients ask, as short and long prompts by
turns, gives one version other requests than the other gets.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from jumplora_adapters.routing import Staged

_WHOLE = 1_000_000  # whole numbers: sums of floats would drift


@dataclass(slots=True)
class _Course:
    """The turns of the version that has fewer, on a line of which each request takes `rate`, and
    each `_WHOLE` holds one `point`, a turn. `is_due`: what was drawn for the next request."""

    staged: Staged
    passed: int = 0
    end: int = 0  # of the last length of which the point was drawn
    point: int = 0
    is_due: bool | None = None

    def draw(self, rng: random.Random) -> bool:
        """Whether the next request is the staged version's."""
        share = round(self.staged.share * _WHOLE)
        rate = min(share, _WHOLE - share)
        before, self.passed = self.passed, self.passed + rate
        is_turn = before < self.point <= self.passed
        if self.passed > self.end:
            # The request lies in two lengths and can be the turn of one of them. That it is the
            # next one's has a probability of `within`, given that it is not the last one's.
            within = self.passed - self.end
            if not is_turn and rng.randrange(_WHOLE - (self.end - before)) < within:
                is_turn, self.point = True, self.passed
            else:
                self.point = self.passed + rng.randint(1, _WHOLE - within)
            self.end += _WHOLE
        return is_turn == (rate == share)


class Turns:
    """Of each task what its staged version is owed. Knows no lock."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._courses: dict[str, _Course] = {}

    def is_due(self, task: str, staged: Staged) -> bool:
        """Whether the next request belongs to the staged version; the same until `take`."""
        course = self._courses.get(task)
        if course is None or course.staged != staged:
            course = self._courses[task] = _Course(staged)
        if course.is_due is None:
            course.is_due = course.draw(self._rng)
        return course.is_due

    def take(self, task: str) -> None:
        """A request was answered by whose turn it was."""
        self._courses[task].is_due = None

    def forget(self, task: str) -> None:
        """Begin anew."""
        self._courses.pop(task, None)
