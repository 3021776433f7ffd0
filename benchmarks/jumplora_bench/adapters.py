"""`jumplora bench adapters`: load to ready, bytes by form, and a thousand registered tasks."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_bench.adapters_report import AdaptersFound, Bytes, fill
from jumplora_bench.asking import Asker
from jumplora_bench.backbone import write_backbone
from jumplora_bench.cases.case import Work
from jumplora_bench.cases.ours import make_engine
from jumplora_bench.cases.torch_peers import RANK
from jumplora_bench.choices import AdaptersPart
from jumplora_bench.loading import UPLOADED, Loading, interfere, measure_parts, put
from jumplora_bench.masked import draw
from jumplora_bench.names import DENSITIES
from jumplora_bench.prompts import random_prompts
from jumplora_bench.published import publish_tasks, task_names, write_random
from jumplora_bench.registered import RegisteredPlan, RegisteredRun, measure_registered
from jumplora_bench.report import Report
from jumplora_bench.server_process import served
from jumplora_bench.shapes import VOCABULARY, ShapeName
from jumplora_bench.traffic import Mix
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.memory import trim_memory


@dataclass(frozen=True, slots=True)
class AdaptersPlan:
    """What to run. `shape` is the loaded adapter's; `registered_shape` that of the many tasks."""

    shape: ShapeName = "large"
    registered_shape: ShapeName = "base"
    dtype: str = "int8"
    device: str = "cpu"
    threads: int = 0
    rows: int = 8
    source: int = 128
    new: int = 16
    density: float = DENSITIES[0]
    loads: int = 5
    seconds: float = 20.0
    registered: Sequence[int] = (5, 50, 200, 1000)
    asked: int = 5
    filler_targets: int = 2
    rounds: int = 5
    parts: Sequence[AdaptersPart] = tuple(AdaptersPart)

    def settings(self, **more: object) -> dict[str, object]:
        """Settings of a measured server; the rest are its defaults, the byte budget too."""
        return {
            "dtype": self.dtype,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "max_rows": self.rows,
            "max_source_tokens": max(8, self.source),
            "max_target_tokens": self.new,
            "request_timeout": 600,
            **more,
        }


def measure_adapters(
    plan: AdaptersPlan,
    command: str,
    *,
    on_start: Callable[[int], None],
    on_step: Callable[[str], None],
    on_state: Callable[[str], None],
) -> Report:
    """Run the parts. Raises PeerMissing, ServerEnded.

    `on_start` gets the number of steps, `on_step` the name before each.
    """
    torch.set_num_threads(plan.threads or torch.get_num_threads())
    title = f"Adapters: T5-{plan.shape} shape, density {plan.density:.1%}, {plan.dtype}"
    report = Report("adapters", title, command, plan.device)
    found = AdaptersFound(
        shape=plan.shape,
        density=plan.density,
        registered_shape=plan.registered_shape,
        asked=plan.asked,
        filler_targets=plan.filler_targets,
        threads=torch.get_num_threads(),
    )
    on_start(len(plan.parts))
    with tempfile.TemporaryDirectory(prefix="jumplora-bench-") as name, ExitStack() as held:
        scratch = Path(name)
        if AdaptersPart.LOAD in plan.parts or AdaptersPart.BYTES in plan.parts:
            backbone = read_backbone(write_backbone(scratch / "backbone", plan.shape))
            _in_process(plan, backbone, scratch, found, on_step, on_state)
            if AdaptersPart.LOAD in plan.parts:
                _on_server(plan, backbone, scratch, found, on_state)
        if AdaptersPart.REGISTERED in plan.parts:
            on_step("registered")
            folder = held.enter_context(tempfile.TemporaryDirectory(dir=scratch))
            found.registered = _registered(plan, Path(folder), on_state)
    fill(report, found)
    return report


def _in_process(
    plan: AdaptersPlan,
    backbone: Backbone,
    scratch: Path,
    found: AdaptersFound,
    on_step: Callable[[str], None],
    on_state: Callable[[str], None],
) -> None:
    """Bytes of the forms and the parts of a load, in an engine of our own, gone afterwards."""
    prompts = random_prompts(1, 8, VOCABULARY)
    work = Work(backbone.path, prompts, 1, torch.get_num_threads(), plan.device)
    engine = make_engine(work, plan.dtype)
    if AdaptersPart.BYTES in plan.parts:
        on_step("bytes")
        for density in sorted({plan.density, *DENSITIES}):
            found.bytes.append(bytes_of(engine, backbone, density))
    if AdaptersPart.LOAD in plan.parts:
        on_step("load")
        on_state("load in parts")
        files = _files(scratch / "parts", backbone, plan, first_seed=1)
        found.loading = Loading()
        # The first is a warm-up: what is imported and allocated for the first time.
        measure_parts(engine, backbone, files[:1], Loading())
        measure_parts(engine, backbone, files, found.loading)
    del engine  # no cycles: its weights go at once
    trim_memory()


def bytes_of(engine: Engine, backbone: Backbone, density: float) -> Bytes:
    """What one adapter of that density takes in every form there is."""
    adapter = draw(backbone, "bytes", density=density, seed=0)
    shapes = backbone.targets.values()
    return Bytes(
        density=density,
        packed=engine.pack(adapter).nbytes,
        file=sum(delta.nbytes for delta in adapter.deltas.values()),
        dense=sum(2 * rows * columns for rows, columns in shapes),
        lora=sum(2 * RANK * (rows + columns) for rows, columns in shapes),
    )


def _on_server(
    plan: AdaptersPlan,
    backbone: Backbone,
    scratch: Path,
    found: AdaptersFound,
    on_state: Callable[[str], None],
) -> None:
    """Publish to a server that is idle, then to one that is asked all the time."""
    loading = found.loading
    assert loading is not None
    tasks = task_names(plan.rows)
    on_state("publishing tasks")
    publish_tasks(scratch / "store", backbone, tasks, density=plan.density)
    on_state("starting the server")
    settings = plan.settings(adapter_budget_bytes="4GiB")
    log = scratch / "server.log"
    with served(backbone.path, scratch / "store", log, settings) as server:
        on_state("load on an idle server")
        for file in _files(scratch / "idle", backbone, plan, first_seed=100):
            put(server, file, loading)
        questions = Mix(tasks, 0.0, plan.source).draw([0.0] * plan.rows * 8, random.Random(0))
        found.busy_loading = Loading()
        found.interference = interfere(
            server,
            Asker(server.url, plan.new),
            questions,
            _files(scratch / "busy", backbone, plan, first_seed=200),
            clients=plan.rows,
            seconds=plan.seconds,
            into=found.busy_loading,
            on_state=on_state,
        )


def _files(folder: Path, backbone: Backbone, plan: AdaptersPlan, *, first_seed: int) -> list[Path]:
    """A version a load, each another: what is published already is not loaded again."""
    folder.mkdir()
    return [
        write_random(
            folder / f"{seed}.safetensors", backbone, UPLOADED, density=plan.density, seed=seed
        )
        for seed in range(first_seed, first_seed + plan.loads)
    ]


def _registered(
    plan: AdaptersPlan, scratch: Path, on_state: Callable[[str], None]
) -> list[RegisteredRun]:
    on_state("writing backbone")
    backbone = read_backbone(write_backbone(scratch / "backbone", plan.registered_shape))
    return measure_registered(
        RegisteredPlan(
            counts=plan.registered,
            asked=plan.asked,
            filler_targets=plan.filler_targets,
            density=plan.density,
            rows=plan.rows,
            source=plan.source,
            new=plan.new,
            seconds=plan.seconds,
            rounds=plan.rounds,
            settings=plan.settings(),
        ),
        backbone,
        scratch,
        on_state,
    )
