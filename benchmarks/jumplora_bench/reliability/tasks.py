"""Many registered tasks: until the server listens, answers one of them, has loaded all; the list.

The store is published once. Each interpreter's server is measured on the same files.
"""

from __future__ import annotations

import random
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.store import Store
from jumplora_bench.published import publish_tasks, task_names
from jumplora_bench.reliability.site import Site, commit_of, wait_until
from jumplora_bench.report import Grid, Report

TARGETS = {"listening": 3.0, "first answer": 2.0, "all ready": 25.0, "list": 1.0}
"""Seconds that a server should not need more than; the first answer from listening."""
START_SECONDS = 600.0
_LOOK_SECONDS = 0.5  # between two looks at all statuses, which cost the server time


@dataclass(frozen=True, slots=True)
class TasksPlan:
    """`pythons`: whose servers are measured; `store`: made there, or taken as it is."""

    backbone: Path
    pythons: tuple[Path, ...]
    count: int
    density: float
    asks: int
    rounds: int
    seed: int
    store: Path | None


@dataclass(slots=True)
class Start:
    """Seconds of one start. `answers` run from when each was asked for; the first at listening."""

    listening: float = 0.0
    answers: list[float] = field(default_factory=list)
    ready: float = 0.0
    all_ready: float = 0.0
    list_seconds: float = 0.0
    failed: int = 0


def measure_tasks(plan: TasksPlan, command: str, on_state: Callable[[str], None]) -> Report:
    """All rounds of all interpreters, in turn."""
    backbone = read_backbone(plan.backbone)
    report = Report("reliability-tasks", f"{plan.count} registered tasks", command)
    starts: dict[str, list[Start]] = {}
    with TemporaryDirectory(prefix="jumplora-tasks-") as name:
        scratch = Path(name)
        store = plan.store or scratch / "store"
        publish(store, backbone, plan, on_state)
        names = {python: commit_of(python) for python in plan.pythons}
        for turn in range(plan.rounds):
            for python, name_of in names.items():
                on_state(f"{name_of}, {turn + 1}/{plan.rounds}")
                folder = scratch / f"{name_of}-{turn}"
                folder.mkdir()
                settings = {"adapter_budget_bytes": "12GiB", "max_task_labels": plan.count}
                site = Site(backbone, folder, settings, python=python, store=store)
                starts.setdefault(name_of, []).append(_measure(site, plan, turn))
    report.grids = [_grid(starts, plan)]
    report.notes += [
        "First answer and answers: from the moment of asking; the first is asked as soon as the "
        "port listens, the others one after another, each a random task that was not asked before. "
        "All READY and the first /readyz: from the start of the process. List: `jumplora list "
        "--store`, wall time.",
    ]
    report.data["starts"] = {
        name: [
            {
                "listening": one.listening,
                "answers": one.answers,
                "ready": one.ready,
                "all_ready": one.all_ready,
                "list": one.list_seconds,
                "failed": one.failed,
            }
            for one in each
        ]
        for name, each in starts.items()
    }
    return report


def publish(
    store: Path, backbone: Backbone, plan: TasksPlan, on_state: Callable[[str], None]
) -> None:
    """Publish what the store lacks."""
    there = Store(store).pointers() if store.is_dir() else {}
    missing = [name for name in task_names(plan.count) if name not in there]
    done = 0

    def on_task() -> None:
        nonlocal done
        done += 1
        on_state(f"publishing {done}/{len(missing)}")

    if missing:
        publish_tasks(store, backbone, missing, density=plan.density, on_task=on_task)


def _measure(site: Site, plan: TasksPlan, turn: int) -> Start:
    found = Start()
    rng = random.Random(plan.seed + turn)
    asked = rng.sample(task_names(plan.count), min(plan.asks, plan.count))
    began = time.perf_counter()
    try:
        site.begin()
        wait_until(lambda: _listens(site.port) or not site.is_alive, START_SECONDS)
        found.listening = time.perf_counter() - began
        for task in asked:
            found.answers.append(_answer_seconds(site, task, found))
        wait_until(lambda: _is_ready(site) or not site.is_alive, START_SECONDS)
        found.ready = time.perf_counter() - began
        while _ready_tasks(site) < plan.count and site.is_alive:
            if time.perf_counter() - began > START_SECONDS:
                break
            time.sleep(_LOOK_SECONDS)
        found.all_ready = time.perf_counter() - began
        if not site.is_alive:
            raise RuntimeError(f"the server ended: {site.log.read_text()[-500:]}")
    finally:
        site.close()
    began = time.perf_counter()
    arguments: list[str | Path] = [
        site.python,
        "-m",
        "jumplora_server",
        "list",
        "--store",
        site.store,
    ]
    subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)
    found.list_seconds = time.perf_counter() - began
    return found


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answer_seconds(site: Site, task: str, found: Start) -> float:
    """Until the task answers; a client asks again when it is refused for now."""
    began = time.perf_counter()
    body = {"task_id": task, "inputs": "a short text", "parameters": {"max_new_tokens": 1}}

    def is_answered() -> bool:
        response = site.try_request("POST", "/generate", json=body, seconds=START_SECONDS)
        found.failed += response is None or response.status_code != 200
        return response is not None and response.status_code == 200

    wait_until(lambda: is_answered() or not site.is_alive, START_SECONDS)
    return time.perf_counter() - began


def _is_ready(site: Site) -> bool:
    response = site.try_request("GET", "/readyz")
    return response is not None and response.status_code == 200


def _ready_tasks(site: Site) -> int:
    response = site.try_request("GET", "/v1/adapters")
    if response is None or response.status_code != 200:
        return 0
    return sum(each["state"] == "READY" for each in response.json()["adapters"])


def _grid(starts: dict[str, list[Start]], plan: TasksPlan) -> Grid:
    def row(name: str, of: Callable[[Start], float], target: str) -> list[str]:
        cells = [name]
        for each in starts.values():
            values = [of(one) for one in each]
            cells.append(f"{statistics.median(values):.1f} ({max(values):.1f})")
        return [*cells, target]

    rows = [
        row("listening", lambda one: one.listening, f"{TARGETS['listening']:.0f}"),
        row("first answer", lambda one: one.answers[0], f"{TARGETS['first answer']:.0f}"),
        row("answers, median", lambda one: statistics.median(one.answers), ""),
        row("answers, slowest", lambda one: max(one.answers), f"{TARGETS['first answer']:.0f}"),
        row("ready (/readyz)", lambda one: one.ready, ""),
        row("all READY", lambda one: one.all_ready, f"{TARGETS['all ready']:.0f}"),
        row("jumplora list", lambda one: one.list_seconds, f"{TARGETS['list']:.0f}"),
    ]
    title = f"Seconds with {plan.count} tasks: median (most) of {plan.rounds} starts"
    return Grid(title, ("", *starts, "target"), rows)
