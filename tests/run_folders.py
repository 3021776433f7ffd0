"""Folders of continual runs as `jumplora continual run` leaves them, with made-up numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TASKS = ("dbpedia", "amazon", "yahoo", "agnews")
BACKBONE = {"name": "tiny-t5", "fingerprint": "a" * 64, "weights": "0" * 64}
GATED_STEPS = (8, 20, 30, 38)


def write_run(
    folder: Path,
    *,
    method: str = "inclora",
    gate: str = "jumprelu",
    prune: Sequence[float] | None = None,
    seed: int = 0,
    tasks: Sequence[str] = TASKS,
    order: str = "order1",
    backbone: Mapping[str, str] = BACKBONE,
    own: float = 0.8,
    loss: float = 0.1,
    options: float | None = 0.05,
    hyper_parameters: Mapping[str, object] | None = None,
    density: float = 0.12,
    warnings: Sequence[str] = (),
) -> Path:
    """A finished run; returns its folder.

    Right after its training a task scores `own`, and `loss` less after each later task; among the
    options `options` more, or nothing where that is None. The bare backbone scores 0.1, zero-shot
    scores are 0.15.
    """
    gate_settings = {"threshold_scope": "global", "estimator": "mean", "bandwidth": 0.001}
    joint, gated = method == "joint", gate == "jumprelu"
    has_supports = gated or prune is not None

    def cell(score: float) -> dict[str, float | None]:
        return {
            "exact_match": round(score, 6),
            "best_option": None if options is None else round(min(1.0, score + options), 6),
        }

    def stage(position: int) -> dict[str, dict[str, float | None]]:
        if joint:
            return {task: cell(own) for task in tasks}
        if method == "independent":
            return {tasks[position - 1]: cell(own)}
        learned = {
            task: cell(max(0.0, own - loss * (position - j)))
            for j, task in enumerate(tasks[:position], start=1)
        }
        return learned | {task: cell(0.15) for task in tasks[position : position + 1]}

    stages = 1 if joint else len(tasks)
    _write(
        folder / "config.json",
        {
            "format": 1,
            "run": hashlib.sha256(folder.name.encode()).hexdigest()[:12],
            "method": method,
            "gate": gate,
            "prune": None if prune is None else {"density": list(prune)},
            "order": {"name": order, "tasks": list(tasks)},
            "seed": seed,
            "backbone": dict(backbone),
            "split": "test",
            "data": {task: {"train": "1" * 64, "test": "2" * 64} for task in tasks},
            "created": f"2026-01-0{seed + 1}",
            "hyper_parameters": {
                "rank": 8,
                "alpha": 32.0,
                "learning_rate": 0.001,
                "epochs": 1,
                "batch_size": 32,
                "train_rows": 1200,
                "score_rows": 500,
                "targets": ["q", "v"],
                **(gate_settings if gated else {}),
                **({"ella_lambda": 30000.0} if method == "ella" else {}),
                **({"ella_reaches": "factors"} if method == "ella" and gated else {}),
                **(hyper_parameters or {}),
            },
        },
    )
    _write(
        folder / "environment.json",
        {
            "python": "3.11.9",
            "torch": "2.10.0",
            "transformers": "5.20.0",
            "platform": "Linux",
            "cpu": "a processor",
            "cores": 2,
            "threads": 1,
            "device": "cpu",
            "processes": 2,
        },
    )
    chained = method in ("inclora", "ella", "olora")
    _write(
        folder / "matrix.json",
        {
            "tasks": list(tasks),
            "rows": dict.fromkeys(tasks, 500),
            "bare": {task: cell(0.1) for task in tasks},
            "after": [stage(position) for position in range(1, stages + 1)],
            "alone": {task: cell(own - 0.2) for task in tasks} if chained else {},
        },
    )
    trained = ("joint",) if joint else tuple(tasks)
    for position, task in enumerate(trained, start=1):
        _write(
            folder / "tasks" / f"{position}-{task}" / "result.json",
            {
                "position": position,
                "task": task,
                "version": "f" * 64,
                "density": density if gated else (prune or [1.0] * stages)[position - 1],
                "module_density": {
                    "encoder.block.0.layer.0.SelfAttention.q": density / 2 if gated else 1.0,
                    "encoder.block.1.layer.0.SelfAttention.q": density / 2 if gated else 1.0,
                    "decoder.block.0.layer.1.EncDecAttention.v": 3 * density if gated else 1.0,
                },
                "density_by_step": [
                    [step, density * step / 38 + 0.001 * seed] for step in GATED_STEPS
                ]
                if gated
                else [],
                "tau_start": {"global": 0.002} if gated else {},
                "tau_end": {"global": 0.003} if gated else {},
                "tau_by_step": [
                    [step, {"global": 0.002 + 0.001 * (step - 8) / 30}] for step in GATED_STEPS
                ]
                if gated
                else [],
                "steps": 38,
                "seconds": 30.0 + seed,
                "cpu_seconds": 58.0,
                "seconds_per_step": 0.75,
                "peak_memory_bytes": 400_000_000 + position,
                "warnings": list(warnings) if position == 1 else [],
            },
        )
    pairs = [
        {
            "first": first,
            "second": second,
            "first_density": density,
            "second_density": density,
            "jaccard": round(0.08 + 0.01 * j, 6),
            "chance": 0.064,
        }
        for j, second in enumerate(tasks)
        for first in tasks[:j]
    ]
    _write(folder / "overlap.json", {"pairs": pairs if has_supports and not joint else []})
    return folder


def change(folder: Path, file: str, **values: Any) -> Path:
    """Replace top-level values of one of the folder's JSON files; returns the folder."""
    path = folder / file
    _write(path, json.loads(path.read_text(encoding="utf-8")) | values)
    return folder


def stop_after(folder: Path, stages: int) -> Path:
    """Make the run one that was stopped when `stages` stages were done; returns its folder."""
    matrix = json.loads((folder / "matrix.json").read_text(encoding="utf-8"))
    change(folder, "matrix.json", after=matrix["after"][:stages])
    (folder / "overlap.json").unlink()
    return folder


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
