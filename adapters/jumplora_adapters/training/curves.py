"""What a training's log tells step by step, for a plot. No tensor and no figure is known here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

_MEAN_OF = 20  # a running mean is over this part of the steps

Points = Sequence[tuple[int, float]]
"""Step and value, by ascending step."""


@dataclass(frozen=True, slots=True)
class Curves:
    """`tau` by threshold group. `gate_step` is where the thresholds were set, `full_step` where the
    gate was closed; None in a training without a gate, or one that stopped before.
    """

    loss: Points
    dev: Points
    density: Points
    tau: Mapping[str, Points]
    gate_step: int | None
    full_step: int | None

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]]) -> Curves:
        """Of the journal's lines."""
        steps = [line for line in lines if "loss" in line]
        tau: dict[str, list[tuple[int, float]]] = {}
        for line in steps:
            for group, value in line.get("tau", {}).items():
                tau.setdefault(group, []).append((line["step"], value))
        return cls(
            loss=_points(steps, "loss"),
            dev=[
                (line["step"], value)
                for line in steps
                for name, value in line.items()
                if name.startswith("dev_")
            ],
            density=_points(steps, "density"),
            tau=tau,
            gate_step=min(map(min, tau.values()))[0] if tau else None,
            full_step=next((line["step"] for line in steps if line["fraction"] >= 1), None),
        )


def read_curves(work: Path) -> Curves:
    """Of the `train.jsonl` in a training's work folder."""
    text = (work / "train.jsonl").read_text(encoding="utf-8")
    return Curves.of([json.loads(line) for line in text.splitlines()])


def running_mean(points: Points) -> tuple[int, Points]:
    """Over how many steps up to each, and the means."""
    window = max(1, len(points) // _MEAN_OF)
    values = [value for _, value in points]
    return window, [
        (step, mean(values[max(0, n + 1 - window) : n + 1])) for n, (step, _) in enumerate(points)
    ]


def _points(steps: Sequence[Mapping[str, Any]], name: str) -> Points:
    return [(line["step"], line[name]) for line in steps if name in line]
