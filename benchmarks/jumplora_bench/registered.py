"""The same traffic with a few tasks registered and with many: throughput, memory, /metrics.

All servers are started before anything is measured, and all but one are stopped in each turn: what
an idle server does every half second must not be another one's time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from jumplora_adapters.backbone import Backbone
from jumplora_bench.answers import tokens_per_second
from jumplora_bench.asking import Asker, closed_loop
from jumplora_bench.published import publish_tasks, task_names
from jumplora_bench.server_process import BenchServer, served
from jumplora_bench.traffic import Mix, Question


@dataclass(slots=True)
class RegisteredRun:
    """One server with `tasks` registered, of which the first few are asked."""

    tasks: int
    tokens_per_second: list[float] = field(default_factory=list)
    resident_bytes: int = 0
    scrape_bytes: int = 0
    scrape_seconds: list[float] = field(default_factory=list)
    start_seconds: float = 0.0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class RegisteredPlan:
    """`counts` of registered tasks, ascending; `asked` of them get the traffic.

    The others target only `filler_targets` modules (0: all), so that a thousand fit on a disk;
    registration, routing and metrics cost the same whatever an adapter's size.
    """

    counts: Sequence[int]
    asked: int
    filler_targets: int
    density: float
    rows: int
    source: int
    new: int
    seconds: float
    rounds: int
    settings: dict[str, object]


def measure_registered(
    plan: RegisteredPlan,
    backbone: Backbone,
    scratch: Path,
    on_state: Callable[[str], None],
) -> list[RegisteredRun]:
    """A server for each count, measured in turn."""
    rng = random.Random(0)
    questions = Mix(task_names(plan.asked), 0.0, plan.source).draw([0.0] * plan.rows * 8, rng)
    runs = [RegisteredRun(count) for count in plan.counts]
    with ExitStack() as held:
        servers: list[BenchServer] = []
        for run in runs:
            on_state(f"publishing {run.tasks} tasks")
            store = scratch / f"store-{run.tasks}"
            _publish(plan, backbone, store, run.tasks)
            on_state(f"starting with {run.tasks} tasks")
            began = time.perf_counter()
            servers.append(
                held.enter_context(
                    served(backbone.path, store, scratch / f"server-{run.tasks}.log", plan.settings)
                )
            )
            run.start_seconds = time.perf_counter() - began
        for turn in range(plan.rounds + 1):  # the first is a warm-up
            for run, server in zip(runs, servers, strict=True):
                on_state(f"{run.tasks} registered, {turn}/{plan.rounds}")
                with ExitStack() as others:
                    for other in servers:
                        if other is not server:
                            others.enter_context(other.stopped())
                    _measure(plan, run, server, questions, is_kept=turn > 0)
    return runs


def _publish(plan: RegisteredPlan, backbone: Backbone, store: Path, count: int) -> None:
    tasks = task_names(count)
    publish_tasks(store, backbone, tasks[: plan.asked], density=plan.density)
    names = list(backbone.targets)
    publish_tasks(
        store,
        backbone,
        tasks[plan.asked :],
        density=plan.density,
        first_seed=plan.asked,
        targets=names[: plan.filler_targets] if plan.filler_targets else names,
    )


def _measure(
    plan: RegisteredPlan,
    run: RegisteredRun,
    server: BenchServer,
    questions: Sequence[Question],
    *,
    is_kept: bool,
) -> None:
    answers = asyncio.run(
        closed_loop(
            Asker(server.url, plan.new), questions, clients=2 * plan.rows, seconds=plan.seconds
        )
    )
    if not is_kept:
        return
    run.tokens_per_second.append(tokens_per_second(answers, plan.seconds / 5, plan.seconds))
    run.failed += sum(answer.error is not None for answer in answers)
    began = time.perf_counter()
    page = httpx.get(f"{server.url}/metrics", timeout=60).raise_for_status().content
    run.scrape_seconds.append(time.perf_counter() - began)
    run.scrape_bytes = len(page)
    run.resident_bytes = server.resident_bytes()
