"""`jumplora bench serving`: a real server under load, beside its own engine on the same machine."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_bench.answers import Slo, percentile, summarize, tokens_per_second
from jumplora_bench.asking import (
    Asker,
    How,
    closed_loop,
    cpu_share,
    one_by_one,
    open_loop,
)
from jumplora_bench.backbone import write_backbone
from jumplora_bench.cases.case import Work
from jumplora_bench.choices import ServingPart
from jumplora_bench.disturbance import Disturbance, disturb
from jumplora_bench.offline import OfflineEngine
from jumplora_bench.prompts import random_prompts
from jumplora_bench.published import publish_tasks, task_names
from jumplora_bench.report import Report
from jumplora_bench.server_process import BenchServer, served
from jumplora_bench.serving_report import LowLoad, RateRun, Saturation, ServingFound, fill
from jumplora_bench.shapes import VOCABULARY, ShapeName
from jumplora_bench.traffic import Mix, Question, poisson_arrivals

DEFAULT_SLO = Slo(ttft=2.0, tpot=0.25)


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """What to run. Seconds are of each window; rates are shares of the measured saturation."""

    shape: ShapeName = "base"
    dtype: str = "int8"
    device: str = "cpu"
    threads: int = 0
    rows: int = 8
    source: int = 128
    new: int = 16
    tasks: int = 16
    density: float = 0.051
    zipf: float = 1.0
    loads: Sequence[float] = (0.3, 0.6, 0.8, 0.95)
    rates: Sequence[float] = ()
    seconds: float = 60.0
    rounds: int = 5
    slo: Slo = DEFAULT_SLO
    upload_bytes: int = 30_000_000
    seed: int = 0
    parts: Sequence[ServingPart] = tuple(ServingPart)


class ServingBench:
    """One server, one engine, one mix of tasks; each part is a method."""

    def __init__(
        self,
        plan: ServingPlan,
        backbone: Backbone,
        server: BenchServer,
        offline: OfflineEngine,
        on_state: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._backbone = backbone
        self._server = server
        self._offline = offline
        self._on_state = on_state
        self._asker = Asker(server.url, plan.new)
        self._mix = Mix(task_names(plan.tasks), plan.zipf, plan.source)
        self._rng = random.Random(plan.seed)

    def warm_up(self) -> None:
        """Every task once, so that no first time is measured."""
        self._on_state("warming up")
        drawn = self._draw(len(self._mix.tasks))
        once = [replace(q, task=task) for q, task in zip(drawn, self._mix.tasks, strict=True)]
        one_by_one(self._asker, once)
        self._offline.seconds(self._draw(self._plan.rows))

    def saturation(self) -> Saturation:
        """In turn: full batches of the engine, then a server that always has twice its rows asked,
        for whole answers and for streamed ones.

        A window's first fifth is not counted: until then the rows fill up.
        """
        plan = self._plan
        found = Saturation()
        for turn in range(plan.rounds):
            self._on_state(f"saturation {turn + 1}/{plan.rounds}")
            batch_seconds = self._offline.seconds(self._draw(plan.rows))
            batches = [
                self._draw(plan.rows) for _ in range(max(1, round(plan.seconds / batch_seconds)))
            ]
            found.engine.append(self._offline.tokens_per_second(batches))
            for how, speeds in found.served.items():
                with cpu_share() as share:
                    answers = asyncio.run(
                        closed_loop(
                            replace(self._asker, how=how),
                            self._draw(plan.rows * 8),
                            clients=2 * plan.rows,
                            seconds=plan.seconds,
                        )
                    )
                speeds.append(tokens_per_second(answers, plan.seconds / 5, plan.seconds))
                found.client_cpu.append(share.value)
                found.failed[how] += sum(answer.error is not None for answer in answers)
        return found

    def low_load(self, how: How) -> LowLoad:
        """In turn: one request on the idle server, the same one on the idle engine."""
        engine: list[float] = []
        questions = self._draw(8 * self._plan.rounds)

        def before(question: Question) -> None:
            self._on_state(f"low load, {how} {len(engine) + 1}/{len(questions)}")
            engine.append(self._offline.seconds([question]))

        answers = one_by_one(replace(self._asker, how=how), questions, before=before)
        failed = sum(answer.error is not None for answer in answers)
        return LowLoad(how, engine, [answer.total for answer in answers], failed)

    def rate(self, rate: float) -> RateRun:
        """Open-loop arrivals of `rate` requests a second."""
        plan = self._plan
        questions = self._mix.draw(poisson_arrivals(rate, plan.seconds, self._rng), self._rng)
        done = 0

        def on_answer() -> None:
            nonlocal done
            done += 1
            self._on_state(f"{rate:.2f} requests/s: {done}/{len(questions)}")

        with cpu_share() as share:
            answers = asyncio.run(open_loop(self._asker, questions, on_answer))
        return RateRun(rate, summarize(answers, plan.slo, plan.seconds), share.value, answers)

    def disturbed(self, scratch: Path) -> Disturbance:
        """Step times with scrapes and an upload, and without."""
        return disturb(
            self._server,
            self._backbone,
            self._asker,
            self._draw(self._plan.rows * 8),
            clients=2 * self._plan.rows,
            seconds=self._plan.seconds,
            rounds=self._plan.rounds,
            upload_bytes=self._plan.upload_bytes,
            scratch=scratch,
            on_state=self._on_state,
        )

    def _draw(self, count: int) -> list[Question]:
        return self._mix.draw([0.0] * count, self._rng)


def measure_serving(
    plan: ServingPlan,
    command: str,
    *,
    on_start: Callable[[int], None],
    on_step: Callable[[str], None],
    on_state: Callable[[str], None],
) -> Report:
    """Build store and server, run the parts. Raises PeerMissing, ServerEnded.

    `on_start` gets the number of steps, `on_step` the name before each.
    """
    torch.set_num_threads(plan.threads or torch.get_num_threads())
    title = (
        f"Serving: T5-{plan.shape} shape, {plan.dtype}, {plan.rows} rows, {plan.tasks} tasks, "
        f"{plan.source} tokens in, {plan.new} out, {plan.device}"
    )
    report = Report("serving", title, command, plan.device)
    with ExitStack() as held:
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="jumplora-bench-")))
        bench = _set_up(plan, scratch, held, on_state)
        rates = len(plan.rates or plan.loads) if ServingPart.RATES in plan.parts else 0
        on_start(len([part for part in plan.parts if part != ServingPart.RATES]) + rates)
        found = ServingFound(plan.slo, torch.get_num_threads())
        if ServingPart.SATURATION in plan.parts:
            on_step("saturation")
            found.saturation = bench.saturation()
        if ServingPart.LOW_LOAD in plan.parts:
            on_step("low load")
            found.low_load = [bench.low_load("whole"), bench.low_load("streamed")]
        for rate in _rates(plan, found) if rates else ():
            on_step(f"{rate:.2f} requests/s")
            found.rates.append(bench.rate(rate))
        if ServingPart.DISTURBED in plan.parts:
            on_step("disturbed")
            found.disturbance = bench.disturbed(scratch)
        fill(report, found)
    return report


def _set_up(
    plan: ServingPlan, scratch: Path, held: ExitStack, on_state: Callable[[str], None]
) -> ServingBench:
    on_state("writing backbone and tasks")
    backbone = read_backbone(write_backbone(scratch / "backbone", plan.shape))
    tasks = task_names(plan.tasks)
    publish_tasks(scratch / "store", backbone, tasks, density=plan.density)
    prompts = random_prompts(plan.rows, plan.source, VOCABULARY)
    work = Work(backbone.path, prompts, plan.new, torch.get_num_threads(), plan.device)
    on_state("building the engine")
    offline = OfflineEngine(backbone, scratch / "store", tasks, dtype=plan.dtype, work=work)
    on_state("starting the server")
    settings = {
        "dtype": plan.dtype,
        "device": plan.device,
        "threads": torch.get_num_threads(),
        "max_rows": plan.rows,
        "max_source_tokens": max(8, plan.source),
        "max_target_tokens": plan.new,
        "request_timeout": 600,
    }
    server = held.enter_context(
        served(backbone.path, scratch / "store", scratch / "server.log", settings)
    )
    bench = ServingBench(plan, backbone, server, offline, on_state)
    bench.warm_up()
    return bench


def _rates(plan: ServingPlan, found: ServingFound) -> list[float]:
    """Requests a second: as given, or shares of what the server did at saturation."""
    if plan.rates:
        return list(plan.rates)
    if found.saturation is None:
        raise ValueError("shares of the saturation need the part saturation; or give rates")
    most = percentile(found.saturation.served["streamed"], 0.5) / plan.new
    return [share * most for share in plan.loads]
