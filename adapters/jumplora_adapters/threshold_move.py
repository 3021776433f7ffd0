"""How far a training moved a gate's threshold: read of a manifest, or of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThresholdMove:
    """tau of one group when the gate was set and in the state that was kept; both above 0."""

    group: str
    start: float
    end: float

    def numbers(self) -> dict[str, float]:
        """For programs."""
        return {"start": self.start, "end": self.end, "ratio": self.end / self.start}

    def __str__(self) -> str:
        return f"{self.start:.6g} -> {self.end:.6g} (x {self.end / self.start:.4g})"


def threshold_moves(start: object, end: object) -> tuple[ThresholdMove, ...]:
    """By group, of `training.tau_start` and `training.tau_end`; anything but a number is left out.

    They are free JSON in a manifest, so anything may stand there.
    """
    if not isinstance(start, Mapping) or not isinstance(end, Mapping):
        return ()
    return tuple(
        ThresholdMove(str(group), float(start[group]), float(value))
        for group, value in end.items()
        if _is_positive(value) and _is_positive(start.get(group))
    )


def _is_positive(value: object) -> bool:
    # The limits: a whole number of JSON may not fit a float, nor may a ratio of two floats.
    return isinstance(value, int | float) and not isinstance(value, bool) and 1e-150 < value < 1e150
