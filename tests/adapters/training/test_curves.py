"""What a log tells step by step, and the picture of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grey import check_figure
from jumplora_adapters.training.curves import Curves, read_curves, running_mean
from jumplora_adapters.training.plot import draw_training, write_training


def log(groups: int = 1, *, dev: bool = True, gate: bool = True) -> list[dict[str, Any]]:
    """Forty steps: set after 8, closed after 32, scored at 32 and 40."""
    lines: list[dict[str, Any]] = [{"step": 0, "prompts_cut": {"train": 3}}]
    for step in range(1, 41):
        line: dict[str, Any] = {"step": step, "loss": 4 / step, "seconds": 0.1}
        line["fraction"] = min(1.0, max(0.0, (step - 8) / 24)) if gate else 0.0
        if gate and step >= 8 and step % 4 == 0:
            line["density"] = step / 100
            line["tau"] = {f"group{n}": 0.002 + n / 1000 for n in range(groups)}
        if dev and step in (32, 40):
            line["dev_exact_match"] = step / 50
        lines.append(line)
    return lines


def test_curves_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log(2)))
    curves = read_curves(tmp_path)
    assert (curves.gate_step, curves.full_step) == (8, 32)
    assert curves.loss[:2] == [(1, 4.0), (2, 2.0)]
    assert curves.dev == [(32, 0.64), (40, 0.8)]
    assert curves.density[-1] == (40, 0.4)
    assert {group: points[0] for group, points in curves.tau.items()} == {
        "group0": (8, 0.002),
        "group1": (8, 0.003),
    }


def test_a_running_mean() -> None:
    window, points = running_mean([(step, float(step)) for step in range(1, 61)])
    assert window == 3
    assert points[:3] == [(1, 1.0), (2, 1.5), (3, 2.0)]
    assert points[-1] == (60, 59.0)


@pytest.mark.parametrize(
    ("lines", "panels"),
    [
        (log(), ["loss", "dev exact match, %", "density, %", "threshold tau"]),
        (log(6), ["loss", "dev exact match, %", "density, %", "threshold tau"]),
        (log(24, dev=False), ["loss", "density, %", "threshold tau"]),
        (log(gate=False), ["loss", "dev exact match, %"]),
        (log(gate=False, dev=False)[:3], ["loss"]),
    ],
    ids=["global", "block", "many blocks", "plain LoRA", "two steps"],
)
def test_a_panel_for_each_that_was_measured(lines: list[dict[str, Any]], panels: list[str]) -> None:
    figure = draw_training(Curves.of(lines), "a task", 40, "exact_match")
    assert [axes.get_ylabel() for axes in figure.axes] == panels
    check_figure(figure)


def test_the_state_that_was_kept_is_ringed() -> None:
    figure = draw_training(Curves.of(log()), "a task", 32, "exact_match")
    (kept,) = [line for line in figure.axes[1].lines if line.get_label() == "kept"]
    assert np.array_equal(kept.get_xdata(), [32])


def test_a_task_of_odd_signs_is_written(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log()))
    write_training(tmp_path, tmp_path / "plot.png", "$a$b_{", 40, "exact_match")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
