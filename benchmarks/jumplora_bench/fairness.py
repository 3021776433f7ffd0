"""`jumplora bench fairness`: what a quiet task notices of other tasks' floods.

The quiet task asks four times a second, timed from when each request was due. Its measure is its
own 95th percentile in a full batch: as many steady clients of another task as leave it one row.
"""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from jumplora_adapters.backbone import read_backbone, resolve_backbone
from jumplora_bench.backbone import write_backbone
from jumplora_bench.choices import FairnessScenario
from jumplora_bench.fairness_report import Window, fill
from jumplora_bench.flooding import Flood, at_a_rate, flooded, prepared
from jumplora_bench.published import publish_tasks, task_names
from jumplora_bench.report import Report
from jumplora_bench.server_process import BenchServer, ServerEnded, served
from jumplora_bench.shapes import ShapeName
from jumplora_bench.tokenizer import random_text

ALONE, FULL = "alone", "in a full batch"
LONG = 128  # tokens of a long answer
_RAMP_SECONDS = 1.0  # until a flood fills the queue
_IDLE_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class FairnessPlan:
    """What to run; `backbone` is a folder or hub id that takes the place of the random `shape`."""

    shape: ShapeName = "base"
    backbone: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    rows: int = 16
    source: int = 24
    new: int = 8
    density: float = 0.051
    quiet_rate: float = 4.0
    seconds: float = 20.0
    windows: int = 3
    scenarios: Sequence[FairnessScenario] = tuple(FairnessScenario)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A flood of `tasks` tasks; `load` is its rate as a multiple of the measured capacity.

    `is_a_bar`: whether the quiet task is promised to keep twice its time; an encode cannot be
    interrupted, so beside long prompts it is not.
    """

    name: FairnessScenario
    title: str
    tasks: int
    load: float
    new: int = 0  # tokens of each answer; 0: as the quiet task
    source: int = 0  # tokens of each prompt; 0: as the quiet task
    sampling: dict[str, object] = field(default_factory=dict)
    is_a_bar: bool = True


SAMPLED: dict[str, object] = {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "seed": 1}
SCENARIOS = (
    Scenario(FairnessScenario.ONE_TASK, "one task at 4 x capacity", 1, 4.0),
    Scenario(FairnessScenario.TWO_TASKS, "two tasks together at 4 x", 2, 4.0),
    Scenario(FairnessScenario.EIGHT_TASKS, "eight tasks together at 4 x", 8, 4.0),
    Scenario(FairnessScenario.LONG_GREEDY, f"{LONG} greedy tokens at 1/3", 1, 1 / 3, new=LONG),
    Scenario(
        FairnessScenario.LONG_SAMPLED,
        f"{LONG} sampled tokens at 1/3",
        1,
        1 / 3,
        new=LONG,
        sampling=SAMPLED,
    ),
    Scenario(
        FairnessScenario.LONG_PROMPTS,
        "prompts of 500 tokens at 1/2",
        1,
        0.5,
        source=500,
        is_a_bar=False,
    ),
)
TASKS = 9  # the quiet one, and up to eight that flood


class FairnessBench:
    """One server, one quiet task; each scenario is a flood beside it."""

    def __init__(
        self, plan: FairnessPlan, server: BenchServer, on_state: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._server = server
        self._on_state = on_state
        self._rng = random.Random(0)
        self._quiet, *self._others = task_names(TASKS)
        self.capacity = 0.0

    def prepare(self) -> None:
        """Ask every task once, and measure how many short requests a second one task gets."""
        self._on_state("warming up")
        everyone = tuple(self._request(task) for task in [self._quiet, *self._others])
        seconds = max(1.0, self._plan.seconds / 4)
        self._count(Flood(everyone, clients=self._plan.rows), seconds)
        self._on_state("capacity")
        one = tuple(self._request(self._others[0]) for _ in range(16))
        came = self._count(Flood(one, clients=self._plan.rows), seconds)
        if not came[200]:  # every flood is a multiple of it, and none would come
            raise ServerEnded(f"nothing was answered while capacity was measured, but {dict(came)}")
        self.capacity = came[200] / seconds

    def alone(self) -> Window:
        """Nothing else."""
        return self._window(None)

    def full(self) -> Window:
        """Steady clients of another task, nothing queueing."""
        requests = tuple(self._request(self._others[0]) for _ in range(16))
        return self._window(Flood(requests, clients=self._plan.rows - 1))

    def beside(self, scenario: Scenario) -> Window:
        """A flood."""
        requests = tuple(
            self._request(task, scenario)
            for task in self._others[: scenario.tasks]
            for _ in range(4)
        )
        shuffled = self._rng.sample(requests, len(requests))
        return self._window(Flood(tuple(shuffled), rate=scenario.load * self.capacity))

    def _window(self, flood: Flood | None) -> Window:
        plan = self._plan
        quiet = [self._request(self._quiet) for _ in range(16)]

        def measured() -> list[float]:
            replies = asyncio.run(at_a_rate(self._server.url, quiet, plan.quiet_rate, plan.seconds))
            window.refused = sum(reply.status != 200 for reply in replies)
            return [reply.seconds for reply in replies if reply.status == 200]

        window = Window()
        if flood is None:
            window.seconds = measured()
            return window
        with flooded(self._server.url, flood, plan.seconds + 2 * _RAMP_SECONDS) as counts:
            time.sleep(_RAMP_SECONDS)  # an open loop has no other sign that it is at its height
            window.seconds = measured()
            window.flood = counts()
        self._wait_idle()
        return window

    def _request(self, task: str, scenario: Scenario | None = None) -> bytes:
        new = (scenario.new if scenario else 0) or self._plan.new
        source = (scenario.source if scenario else 0) or self._plan.source
        sampling = scenario.sampling if scenario else {}
        text = random_text(source, self._rng)
        limits = {"min_new_tokens": new, "max_new_tokens": new, "truncate": source}
        return prepared(task, text, **limits, **sampling)

    def _count(self, flood: Flood, seconds: float) -> Counter[int]:
        with flooded(self._server.url, flood, seconds) as counts:
            return counts()

    def _wait_idle(self) -> None:
        for _ in range(int(_IDLE_SECONDS)):
            page = self._server.scrape()
            left = re.findall(
                r"^jumplora_requests_(?:waiting|running)\S* (\S+)", page, re.MULTILINE
            )
            if not any(float(value) for value in left):
                return
            time.sleep(1.0)
        raise TimeoutError("the server did not become idle after a flood")


def measure_fairness(
    plan: FairnessPlan,
    command: str,
    *,
    on_start: Callable[[int], None],
    on_step: Callable[[str], None],
    on_state: Callable[[str], None],
) -> Report:
    """Build store and server, run all windows in turn. Raises PeerMissing, ServerEnded."""
    torch.set_num_threads(plan.threads or torch.get_num_threads())
    chosen = [each for each in SCENARIOS if each.name in plan.scenarios]
    what = f"backbone {plan.backbone}" if plan.backbone else f"T5-{plan.shape} shape"
    title = (
        f"Fairness: {what}, {plan.dtype}, {plan.rows} rows, {plan.source} tokens in, "
        f"{plan.new} out, {plan.quiet_rate:g} quiet requests/s"
    )
    report = Report("fairness", title, command, plan.device)
    with tempfile.TemporaryDirectory(prefix="jumplora-bench-") as folder:
        scratch = Path(folder)
        on_state("writing backbone and tasks")
        path = (
            resolve_backbone(plan.backbone)
            if plan.backbone
            else write_backbone(scratch / "backbone", plan.shape)
        )
        publish_tasks(
            scratch / "store", read_backbone(path), task_names(TASKS), density=plan.density
        )
        on_state("starting the server")
        settings = {
            "dtype": plan.dtype,
            "device": plan.device,
            "threads": torch.get_num_threads(),
            "max_rows": plan.rows,
            "request_timeout": 600,
        }
        with served(path, scratch / "store", scratch / "server.log", settings) as server:
            bench = FairnessBench(plan, server, on_state)
            bench.prepare()
            on_start(plan.windows * (len(chosen) + 2))
            found: dict[str, list[Window]] = {}
            for turn in range(plan.windows):
                steps = {ALONE: bench.alone, FULL: bench.full}
                steps |= {each.title: _beside(bench, each) for each in chosen}
                for name, step in steps.items():
                    on_step(f"{name} {turn + 1}/{plan.windows}")
                    found.setdefault(name, []).append(step())
        bars = frozenset(each.title for each in chosen if each.is_a_bar)
        fill(report, found, bars, full=FULL, capacity=bench.capacity)
    return report


def _beside(bench: FairnessBench, scenario: Scenario) -> Callable[[], Window]:
    return lambda: bench.beside(scenario)
