"""When the gate is set and how fast it closes: pure numbers, no tensors."""

from __future__ import annotations

from dataclasses import dataclass

from jumplora_adapters.errors import TaskTooSmall

FEWEST_STEPS = 5


@dataclass(frozen=True, slots=True)
class Schedule:
    """`gate_step` s0 and `full_step` s1 of `steps` S, as counts of optimizer steps done.

    Up to s0 the update is dense, at s0 the threshold is set, at s1 the gate is fully closed.
    """

    steps: int
    gate_step: int
    full_step: int

    @classmethod
    def of(cls, steps: int, set_at: float = 0.2, closed_at: float = 0.8) -> Schedule:
        """s0 = int(set_at S), s1 = int(closed_at S), at least 1 and one apart.

        Raises TaskTooSmall if S leaves no step after s1.
        """
        if steps < FEWEST_STEPS:
            raise TaskTooSmall(
                f"a gated training needs at least {FEWEST_STEPS} optimizer steps, this one has "
                f"{steps}: train longer, use a smaller batch, or train without the gate"
            )
        gate_step = max(1, int(set_at * steps))
        full_step = max(gate_step + 1, int(closed_at * steps))
        if full_step >= steps:
            raise TaskTooSmall(
                f"a gate that closes at {closed_at} of {steps} optimizer steps leaves none to "
                "train fully gated: close it earlier, or train longer"
            )
        return cls(steps, gate_step, full_step)

    def fraction(self, step: int) -> float:
        """f after `step` optimizer steps: 0 up to s0, 1 from s1 on, linear between."""
        linear = (step - self.gate_step) / (self.full_step - self.gate_step)
        return min(1.0, max(0.0, linear))


def learning_rate(base: float, step: int, steps: int, *, warm_up: int, decay: str) -> float:
    """Rate of optimizer step `step` (0-based) of `steps`: linear warm-up, then `decay`.

    `decay` is "constant" or "linear" (down to zero just after the last step).
    """
    if step < warm_up:
        return base * (step + 1) / warm_up
    if decay == "linear":
        return base * (steps - step) / (steps - warm_up)
    return base
