"""`jumplora bench engine`: the engine offline, beside those it is compared with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_bench.backbone import write_backbone
from jumplora_bench.cases.case import Case, Tokens, Work
from jumplora_bench.cases.ct2_merged import MergedCase, convert_merged
from jumplora_bench.cases.ct2_restricted import RestrictedCase
from jumplora_bench.cases.hub_split import HubCase
from jumplora_bench.cases.torch_peers import (
    ALL_LINEAR,
    BARE,
    BEAMS_CASE,
    load_model,
    peft_all_linear,
    peft_mixed,
    transformers_bare,
    transformers_beams,
)
from jumplora_bench.engine_report import Measured, Sanity, report_of
from jumplora_bench.fleet import Fleet
from jumplora_bench.floors import Floors
from jumplora_bench.machine import processor_flags
from jumplora_bench.names import (
    all_linear_name,
    bare_name,
    beams_name,
    ct2_avx2_name,
    ct2_name,
    label_of,
)
from jumplora_bench.prompts import random_prompts
from jumplora_bench.report import Report
from jumplora_bench.roofs import shrink_of
from jumplora_bench.rounds import Laps, run_rounds, same_share
from jumplora_bench.shapes import ShapeName, config_of
from jumplora_server.core import Kernels
from jumplora_server.engine.memory import trim_memory


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What to run. `cases` are shell patterns of case names, any of which takes a case in."""

    shape: ShapeName = "base"
    rows: int = 8
    source: int = 128
    new: int = 16
    rounds: int = 7
    dtypes: Sequence[str] = ("float32", "int8")
    device: str = "cpu"
    threads: int = 0
    cases: Sequence[str] = ("*",)
    hub_python: Path | None = None
    kernels: Kernels = "auto"

    def wants(self, name: str) -> bool:
        """Whether the case is to run."""
        return any(fnmatch(name, pattern) for pattern in self.cases)


def measure_engine(
    plan: EnginePlan,
    command: str,
    *,
    on_start: Callable[[int], None],
    on_lap: Callable[[str], None],
) -> Report:
    """Build everything, run the rounds, compare tokens. Raises PeerMissing.

    `on_start` gets the number of laps once all is built, `on_lap` the case before each.
    """
    torch.set_num_threads(plan.threads or torch.get_num_threads())
    report = Report("engine", _title(plan), command, plan.device)
    with ExitStack() as held:
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="jumplora-bench-")))
        work = Work(
            backbone=write_backbone(scratch / "backbone", plan.shape),
            prompts=random_prompts(plan.rows, plan.source, config_of(plan.shape)["vocab_size"]),
            new=plan.new,
            threads=torch.get_num_threads(),
            device=plan.device,
        )
        backbone = read_backbone(work.backbone)
        # Before anything else has the memory.
        floors = _floors(plan, backbone, work)
        fleet = Fleet(work, backbone, plan.dtypes, plan.wants, plan.kernels)
        cases: list[Case] = [*_peers(plan, work, fleet, scratch, held), *fleet.cases()]
        on_start(len(cases) * (plan.rounds + 1))
        laps = run_rounds(cases, plan.rounds, on_lap)
        sanity = list(_sanity(_last_tokens(laps), fleet, work.rows))
        hub = next((case for case in cases if isinstance(case, HubCase)), None)
        report_of(
            report,
            Measured(
                title=_title(plan),
                shape=plan.shape,
                device=plan.device,
                threads=work.threads,
                laps=laps,
                families=fleet.families,
                backbone_bytes=fleet.backbone_bytes,
                sanity=sanity,
                hub_versions=None if hub is None else hub.versions,
                new=plan.new,
                rows=plan.rows,
                kernels=fleet.kernels,
                foldings=fleet.foldings,
                floors={
                    name: floors.of(dtype, rows)
                    for name, (dtype, rows) in fleet.rows.items()
                    if floors is not None and dtype in floors.roofs
                },
                roofs={} if floors is None else floors.roofs,
            ),
        )
    return report


def _floors(plan: EnginePlan, backbone: Backbone, work: Work) -> Floors | None:
    """Of the CPU."""
    if plan.device != "cpu":
        return None
    return Floors.measured(backbone, work, plan.dtypes, shrink=shrink_of(plan.shape))


def _last_tokens(laps: Laps) -> dict[str, Tokens]:
    """What every case generated in its last round."""
    return {name: done[-1].tokens for name, done in laps.items()}


def _title(plan: EnginePlan) -> str:
    return (
        f"Engine, offline: T5-{plan.shape} shape, {plan.rows} rows, {plan.source} tokens in, "
        f"{plan.new} out, {plan.device}"
    )


def _peers(
    plan: EnginePlan, work: Work, fleet: Fleet, scratch: Path, held: ExitStack
) -> Iterator[Case]:
    dtype = torch.float32 if "float32" in plan.dtypes else torch.bfloat16
    if plan.wants(BARE) or plan.wants(BEAMS_CASE):
        model = load_model(work, dtype)
        if plan.wants(BARE):
            yield transformers_bare(work, model)
        if plan.wants(BEAMS_CASE):
            yield transformers_beams(work, model)
    if plan.wants("PEFT mixed"):
        yield peft_mixed(work, dtype)
    if plan.wants(ALL_LINEAR):
        yield peft_all_linear(work, dtype, fleet.all_linear)
    if plan.hub_python is not None and plan.wants(HubCase.name):
        yield held.enter_context(HubCase(plan.hub_python, work, scratch / "hub.log"))
    plain = {dtype: name for dtype in plan.dtypes if plan.wants(name := ct2_name(dtype))}
    restricted: dict[bool, str] = {}
    if "int8" in plan.dtypes and "avx2" in processor_flags().split():
        names = {products: ct2_avx2_name("int8", products=products) for products in (False, True)}
        restricted = {products: name for products, name in names.items() if plan.wants(name)}
    if not (plain or restricted):
        return
    merged = convert_merged(work.backbone, fleet.merged_task.deltas, scratch / "merged")
    trim_memory()
    for dtype_name, name in plain.items():
        yield MergedCase(name, merged, work, dtype_name)
    for products, name in restricted.items():
        log = scratch / f"{name}.log"
        case = RestrictedCase(name, merged, work, "int8", "AVX2", log, products=products)
        yield held.enter_context(case)


def _sanity(tokens: Mapping[str, Tokens], fleet: Fleet, rows: int) -> Iterator[Sanity]:
    """Programs with the same weights, and how many of their tokens agree."""
    for dtype in fleet.dtypes:
        label = label_of(dtype)
        pairs = [
            (name, theirs, tokens.get(name))
            for name, theirs in (
                (bare_name(dtype), BARE),
                (all_linear_name(rows, dtype), ALL_LINEAR),
            )
        ]
        merged = ct2_name(dtype)
        if merged in tokens:
            pairs.append((f"ours, that one task {label}", merged, fleet.one_task_tokens(dtype)))
        pairs.append((beams_name(dtype), BEAMS_CASE, tokens.get(beams_name(dtype))))
        for ours, theirs, generated in pairs:
            if generated is not None and theirs in tokens:
                yield Sanity(ours, theirs, *same_share(generated, tokens[theirs]))
