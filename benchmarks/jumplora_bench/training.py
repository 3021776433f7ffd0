"""Training step benchmark: the gated layer and ELLA's term against PEFT's LoRA, in turn.

Model: T5-base shape, random weights, r = 8 on every q and v (or `--targets`), float32. A step is
forward, backward and AdamW over the same rows. Seconds are of one process, every case once a round;
peak memory is of a process for each case, since a process never gives its peak back. The reckoned
memory is what `jumplora continual run` tells before it starts.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from torch.nn import functional

from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.cli.progress import progress_bar
from jumplora_adapters.cli.training_options import names
from jumplora_adapters.continual.memory import TrainingSizes, estimate_of
from jumplora_adapters.continual.penalty import EllaPenalty
from jumplora_adapters.training.adapt import AdaptedBackbone, load_adapted
from jumplora_adapters.training.config import TrainConfig
from jumplora_adapters.training.targets import targets_of
from jumplora_bench.backbone import write_backbone
from jumplora_bench.cases.case import Lap
from jumplora_bench.cli import command_line
from jumplora_bench.report import Grid, Report, console
from jumplora_bench.rounds import ratios, run_rounds, spread
from jumplora_bench.shapes import ShapeName

Case = Literal["peft", "lora", "gate half", "gate", "ella", "gate + ella"]

LABELS: dict[Case, str] = {
    "peft": "PEFT LoRA",
    "lora": "ours, LoRA",
    "gate half": "ours, gate half closed (f = 0.5)",
    "gate": "ours, gate closed (f = 1)",
    "ella": "ours, LoRA + ELLA",
    "gate + ella": "ours, gate closed + ELLA",
}
TARGET = 4
RANK = 8
TARGETS = "q,v"


def build(
    case: Case, folder: Path, rows: int, source: int, targets: str = TARGETS
) -> Callable[[], None]:
    """One optimizer step of the case as a function of no arguments."""
    if case == "peft":
        return _peft(folder, rows, source, targets)
    config = TrainConfig(
        backbone=str(folder), task="bench", train=folder, out=folder, rank=RANK,
        targets=names(targets), method="jumplora" if case.startswith("gate") else "lora",
    )  # fmt: skip
    adapted = load_adapted(read_backbone(folder), (), config, torch.device("cpu"))
    with torch.no_grad():
        for layer in adapted.layers.values():
            layer.B.normal_(std=0.01)
    adapted.set_thresholds()
    adapted.set_fraction({"gate half": 0.5, "gate": 1.0, "gate + ella": 1.0}.get(case, 0.0))
    parameters = [parameter for _, parameter in adapted.named_parameters()]
    penalty = _ella(adapted) if case.endswith("ella") else None
    return _step(adapted.model, parameters, penalty, rows, source)


def _peft(folder: Path, rows: int, source: int, targets: str) -> Callable[[], None]:
    from peft import LoraConfig, get_peft_model
    from transformers import T5ForConditionalGeneration

    modules = list(targets_of(read_backbone(folder), names(targets)))
    config = LoraConfig(r=RANK, lora_alpha=32, target_modules=modules, task_type="SEQ_2_SEQ_LM")
    # Without dropout, as ours by default: both compute the same.
    base = T5ForConditionalGeneration.from_pretrained(folder, dropout_rate=0.0)
    model: Any = get_peft_model(base, config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return _step(model, parameters, None, rows, source)


def _ella(adapted: AdaptedBackbone) -> EllaPenalty:
    past = {name: torch.randn(layer.base.shape) for name, layer in adapted.layers.items()}
    return EllaPenalty(adapted.layers, past, 3e4)


def _step(
    model: Any, parameters: list[Any], penalty: EllaPenalty | None, rows: int, source: int
) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 32000, (rows, source), generator=generator)
    target = torch.randint(3, 32000, (rows, TARGET), generator=generator)
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    model.train()

    def step() -> None:
        logits = model(input_ids=ids, decoder_input_ids=target, use_cache=False).logits
        functional.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()  # type: ignore[no-untyped-call]
        if penalty is not None:
            penalty.add()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


@dataclass(frozen=True, slots=True)
class StepCase:
    """A case whose lap is one step."""

    name: str
    step: Callable[[], None]

    def run(self) -> Lap:
        """One step; it generates nothing."""
        began = time.perf_counter()
        self.step()
        return Lap(time.perf_counter() - began, ())


def peak_bytes(case: Case, folder: Path, rows: int, source: int, targets: str = TARGETS) -> int:
    """Peak resident memory of a new process that makes three steps."""
    code = (
        "import sys; from pathlib import Path; from jumplora_bench.training import three_steps; "
        "three_steps(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), "
        "sys.argv[5])"
    )
    arguments = [case, str(folder), str(rows), str(source), targets]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return int(done.stdout.strip().splitlines()[-1])


def three_steps(case: Case, folder: Path, rows: int, source: int, targets: str) -> None:
    """Print the process's peak after three steps of `case`."""
    step = build(case, folder, rows, source, targets)
    for _ in range(3):
        step()
    typer.echo(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def reckoned_bytes(
    case: Case, folder: Path, rows: int, source: int, targets: str = TARGETS
) -> int | None:
    """What a run reckons with for such a step, scoring apart; None for PEFT's."""
    if case == "peft":
        return None
    backbone = read_backbone(folder)
    sizes = TrainingSizes(
        architecture=backbone.architecture,
        targets=tuple(backbone.sites[n].shape for n in targets_of(backbone, names(targets))),
        weights=sum(p.numel() for p in _parameters(folder)),
        rank=RANK,
        rows=rows,
        source=source,
        target=TARGET,
    )
    sizes = replace(
        sizes,
        is_gated=case.startswith("gate"),
        is_masked=case.startswith("gate"),
        past_entries=sizes.entries if case.endswith("ella") else 0,
    )
    return estimate_of(sizes).step


def _parameters(folder: Path) -> list[Any]:
    from transformers import T5ForConditionalGeneration

    return list(T5ForConditionalGeneration.from_pretrained(folder).parameters())


def main(
    context: typer.Context,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds after the warm-up.")] = 7,
    shape: Annotated[ShapeName, typer.Option(help="tiny to try the program itself.")] = "base",
    rows: int = 8,
    source: int = 128,
    targets: Annotated[str, typer.Option(help="As of jumplora train.")] = TARGETS,
    out: Annotated[Path | None, typer.Option(help="Folder for JSON and markdown.")] = None,
) -> None:
    """Measure, print one table."""
    title = (
        f"One step, T5-{shape} shape, {rows} rows, {source} in, {TARGET} out, r {RANK} on {targets}"
    )
    report = Report("training", title, command_line(context))
    with tempfile.TemporaryDirectory(prefix="jumplora-bench-") as name, progress_bar() as bar:
        folder = write_backbone(Path(name), shape)
        line = bar.add_task("measuring", total=len(LABELS) * (rounds + 1), state="memory")
        peaks = {case: peak_bytes(case, folder, rows, source, targets) for case in LABELS}
        reckoned = {case: reckoned_bytes(case, folder, rows, source, targets) for case in LABELS}
        cases = [StepCase(case, build(case, folder, rows, source, targets)) for case in LABELS]
        laps = run_rounds(cases, rounds, lambda case: bar.update(line, advance=1, state=case))
    seconds = {case: [lap.seconds for lap in laps[case]] for case in LABELS}
    report.grids = [_grid(seconds, peaks, reckoned)]
    report.data = {"seconds": seconds, "peak_bytes": peaks, "reckoned_bytes": reckoned}
    report.show(console())
    if out is not None:
        report.write(out)


def _grid(
    seconds: Mapping[Case, Sequence[float]],
    peaks: Mapping[Case, int],
    reckoned: Mapping[Case, int | None],
) -> Grid:
    columns = ("case", "median s", "min", "max", "x PEFT", "peak GB", "x PEFT", "reckoned GB")
    rows = []
    for case, label in LABELS.items():
        found, guess = spread(seconds[case]), reckoned[case]
        rows.append(
            (
                label,
                *(f"{value:.3f}" for value in (found.median, found.least, found.most)),
                f"{ratios(seconds[case], seconds['peft']).median:.2f}",
                f"{peaks[case] / 1e9:.2f}",
                f"{peaks[case] / peaks['peft']:.2f}",
                "" if guess is None else f"{guess / 1e9:.2f}",
            )
        )
    return Grid("Seconds a step, and memory", columns, rows)


if __name__ == "__main__":
    typer.run(main)
