"""What a continual run notes in an adapter's manifest, under `training.continual`.

The state of the run right after this task was learned, on every task learned so far. It is free
JSON in a manifest, so anything may stand there: what is not as described is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from jumplora_adapters.manifest import is_task_id

KEY = "continual"


@dataclass(frozen=True)
class ContinualRecord:
    """One place of one run. Empty texts and None: not noted, or not as it should be.

    `order` has the run's tasks, `position` counts from 1, `split` is what was scored. Accuracies
    are shares by task: now, and when the task was the newest. `backward_transfer` is the mean of
    their differences over the earlier tasks, -1 to 1, below 0 where they were forgotten; None for
    the first task.
    """

    run: str
    order: tuple[str, ...]
    position: int | None
    method: str
    gate: str
    split: str
    accuracy: Mapping[str, float]
    accuracy_when_learned: Mapping[str, float]
    backward_transfer: float | None

    @cached_property
    def run_digest(self) -> str:
        """Names the run: equal for what has its name, its order and the same ways."""
        named = (self.run, self.method, self.gate, self.split, self.order)
        return hashlib.sha256(repr(named).encode(errors="backslashreplace")).hexdigest()


def continual_record(training: Mapping[str, object]) -> ContinualRecord | None:
    """Of a manifest's `training`; None where no continual run made it."""
    noted = training.get(KEY)
    if not isinstance(noted, Mapping):
        return None
    order = noted.get("order")
    tasks = order if isinstance(order, list) else []
    return ContinualRecord(
        run=_text(noted.get("run")),
        order=tuple(task for task in tasks if _is_task(task)),
        position=_place(noted.get("position"), len(tasks)),
        method=_text(noted.get("method")),
        gate=_text(noted.get("gate")),
        split=_text(noted.get("split")),
        accuracy=_shares(noted.get("accuracy")),
        accuracy_when_learned=_shares(noted.get("accuracy_when_learned")),
        backward_transfer=_number(noted.get("backward_transfer"), -1.0),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _place(value: object, places: int) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 1 <= value <= places else None


def _shares(value: object) -> Mapping[str, float]:
    noted = value if isinstance(value, Mapping) else {}
    shares = {task: _number(share, 0.0) for task, share in noted.items() if _is_task(task)}
    return MappingProxyType({task: share for task, share in shares.items() if share is not None})


def _is_task(value: object) -> bool:
    return isinstance(value, str) and is_task_id(value)


def _number(value: object, least: float) -> float | None:
    """A number from `least` to 1. JSON's true is a number to Python, not to us."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if least <= value <= 1.0 else None
