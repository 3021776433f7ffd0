"""Who asks: the scopes, the tasks and the quota of a key. Knows neither HTTP nor where keys are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Literal

Scope = Literal["infer", "read", "metrics", "admin"]
"""`infer` generates, `read` sees adapters and the overview, `metrics` scrapes, `admin` changes
adapters and sees what `read` sees."""
API_SCOPES: frozenset[Scope] = frozenset({"infer", "read", "metrics"})  # of JUMPLORA_API_KEYS
ADMIN_SCOPES: frozenset[Scope] = API_SCOPES | {"admin"}  # of JUMPLORA_ADMIN_KEYS


@dataclass(frozen=True, slots=True)
class TaskPatterns:
    """Task ids, and patterns of them in which `*` stands for any characters and `?` for one.

    All tasks of a server are looked up for a list of them, so ids are a set, and the patterns one
    expression.
    """

    patterns: tuple[str, ...]
    _ids: frozenset[str] = field(init=False, repr=False, compare=False)
    _others: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        others = [pattern for pattern in self.patterns if any(c in pattern for c in "*?[")]
        found = re.compile("|".join(map(translate, others))) if others else None
        object.__setattr__(self, "_ids", frozenset(self.patterns) - {*others})
        object.__setattr__(self, "_others", found)

    @classmethod
    def of(cls, patterns: Iterable[str]) -> TaskPatterns:
        """Patterns in any order."""
        return cls(tuple(sorted(set(patterns))))

    def __contains__(self, task: str) -> bool:
        return task in self._ids or (
            self._others is not None and self._others.match(task) is not None
        )


@dataclass(frozen=True, slots=True)
class Quota:
    """What one key may use; None: as much as the server has.

    `requests_per_minute` counts prompts, `tokens_per_minute` the tokens of prompts and answers,
    and `rows` is how many sequences may wait or be computed at a time; a beam search is as many as
    it has beams. Each is 1 or more.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; 1 and more are allowed")


_NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `key_id` names the key in logs and metrics, None where no key was checked.

    `tasks` are those that the caller may see; None: all.
    """

    key_id: str | None = None
    scopes: frozenset[Scope] = frozenset()
    tasks: TaskPatterns | None = None
    quota: Quota = field(default_factory=Quota)

    @property
    def is_metered(self) -> bool:
        """Whether a key with a quota asks."""
        return self.key_id is not None and self.quota != _NO_QUOTA

    def may_see(self, task: str) -> bool:
        """Whether the task exists for this caller."""
        return self.tasks is None or task in self.tasks


ANYBODY = Caller()
