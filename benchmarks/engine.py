"""Offline engine benchmark: ours against transformers and PEFT, in one run, in turn.

Model: T5-base shape, random weights. Work: 8 rows, 128 tokens in, 16 out, greedy; the mixed cases
give every row another adapter (ours: masked at 94.9 % sparsity; PEFT: LoRA r = 8 on the same q and
v). Each case runs once a round, the rounds repeat, medians and ratios are over rounds of the same
process, so that a slower minute of the machine hits every case.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jumplora_adapters.delta import SparseDelta
from jumplora_server.core import Batch, Sampling, Sequence
from jumplora_server.engine.bank import PackedAdapter
from jumplora_server.engine.delta import make_form
from jumplora_server.engine.engine import Engine

SHAPES: dict[str, dict[str, int]] = {
    "base": {
        "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12,
        "num_decoder_layers": 12, "num_heads": 12, "decoder_start_token_id": 0,
    },
    # Not a measurement: small enough for a test that the benchmark runs.
    "tiny": {
        "vocab_size": 32128, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2,
        "num_decoder_layers": 2, "num_heads": 4, "decoder_start_token_id": 0,
    },
}  # fmt: skip
Slots = list[tuple[int, ...]]


class NoText:
    """Stands where a detokenizer is wanted: text is not part of this measurement."""

    def push(self, token_id: int) -> str:
        """No text."""
        return ""

    def flush(self) -> str:
        """No text."""
        return ""

    def is_special(self, token_id: int) -> bool:
        """Nothing is special."""
        return False


def save_backbone(folder: Path, shape: str) -> Any:
    """Write a random T5 and return transformers' model of it."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**SHAPES[shape])).eval()
    model.save_pretrained(folder)
    return model


def targets(model: Any) -> dict[str, tuple[int, int]]:
    """Every q and v projection: name -> (d_out, d_in)."""
    return {
        name.removesuffix(".weight"): tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if name.endswith((".q.weight", ".v.weight"))
    }


def random_masked(
    shapes: dict[str, tuple[int, int]], density: float, seed: int
) -> PackedAdapter[Any]:
    """A masked adapter with independent supports, in engine form."""
    generator = torch.Generator().manual_seed(seed)
    forms, nnz, entries = {}, 0, 0
    for name, shape in shapes.items():
        keep = torch.rand(shape, generator=generator) < density
        delta = SparseDelta.from_dense(torch.randn(shape, generator=generator) * 0.01 * keep)
        forms[name] = make_form(delta, torch.device("cpu"))
        nnz, entries = nnz + delta.nnz, entries + keep.numel()
    return PackedAdapter("random", forms, sum(f.nbytes for f in forms.values()), nnz, nnz / entries)


def ours(engine: Engine, prompts: list[list[int]], slots: Slots, new: int) -> None:
    """Encode all prompts, then decode `new` tokens for every row."""
    sequences = tuple(
        Sequence(
            id=i, ref=None, prompt=tuple(prompt), sampling=Sampling(max_new_tokens=new),
            detokenizer=NoText(), arrived=0.0, slots=slots[i], row=i,
        )
        for i, prompt in enumerate(prompts)
    )  # fmt: skip
    for step in range(new):
        output = engine.step(Batch(encode=sequences if step == 0 else (), decode=sequences))
        for sequence, token in zip(sequences, output.token_ids, strict=True):
            sequence.output.append(token)


def peft_model(model: Any, tasks: int) -> Any:
    """The same backbone with one LoRA (r = 8, q and v) a task."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=32, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")
    wrapped = get_peft_model(model, config, adapter_name="task0")
    for i in range(1, tasks):
        wrapped.add_adapter(f"task{i}", config)
    return wrapped.eval()


def machine() -> str:
    """CPU, cores and torch version of this run."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ] or [platform.processor()]
    threads = torch.get_num_threads()
    return f"{names[0]}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}"


def commit() -> str:
    """The short commit id, or "unknown" outside a repository."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def build_cases(
    folder: Path, shape: str, rows: int, source: int, new: int, density: float
) -> tuple[dict[str, Callable[[], None]], dict[str, float]]:
    """Every case as a function of no arguments, and the sizes worth printing."""
    model = save_backbone(folder, shape)
    shapes = targets(model)
    generator = torch.Generator().manual_seed(1)
    prompts = [
        [*torch.randint(3, 32000, (source - 1,), generator=generator).tolist(), 1]
        for _ in range(rows)
    ]
    batch = torch.tensor(prompts)
    # No end token: every case generates exactly `new` tokens.
    settings: dict[str, Any] = {"max_new_tokens": new, "do_sample": False, "num_beams": 1}
    model.generation_config.eos_token_id = None
    adapters = [random_masked(shapes, density, seed) for seed in range(rows)]
    cases: dict[str, Callable[[], None]] = {}
    sizes: dict[str, float] = {"adapter MB (engine form)": adapters[0].nbytes / 1e6}
    for dtype in ("float32", "int8"):
        engine = Engine(
            folder, dtype=dtype, max_rows=rows, max_source_tokens=source, max_target_tokens=new
        )
        slots: Slots = [(engine.install(adapter),) for adapter in adapters]
        none: Slots = [()] * rows
        label = "fp32" if dtype == "float32" else dtype
        cases[f"ours bare {label}"] = _bound(engine, prompts, none, new)
        cases[f"ours mixed {label}"] = _bound(engine, prompts, slots, new)
        sizes[f"backbone MB {label}"] = engine.weight_bytes / 1e6
    from transformers import T5ForConditionalGeneration

    wrapped = peft_model(T5ForConditionalGeneration.from_pretrained(folder), rows)
    wrapped.generation_config.eos_token_id = None
    names = [f"task{i}" for i in range(rows)]

    def transformers_bare() -> None:
        with torch.inference_mode():
            model.generate(batch, **settings)

    def peft_mixed() -> None:
        with torch.inference_mode():
            wrapped.generate(input_ids=batch, adapter_names=names, **settings)

    return {"transformers bare": transformers_bare, "PEFT mixed": peft_mixed, **cases}, sizes


def _bound(engine: Engine, prompts: list[list[int]], slots: Slots, new: int) -> Callable[[], None]:
    return lambda: ours(engine, prompts, slots, new)


def measure(cases: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every case in every round; one warm-up round first."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in track(range(rounds + 1), description="rounds"):
        for name, run in cases.items():
            gc.collect()
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def ratios(median: dict[str, float]) -> dict[str, float]:
    """What the project promises, and what the adapters cost."""
    return {
        "fp32 mixed over PEFT mixed (bar 1.0)": median["PEFT mixed"] / median["ours mixed fp32"],
        "int8 mixed over PEFT mixed (bar 2.0)": median["PEFT mixed"] / median["ours mixed int8"],
        "fp32 bare over transformers": median["transformers bare"] / median["ours bare fp32"],
        "int8 bare over transformers": median["transformers bare"] / median["ours bare int8"],
        "tax of 8 tasks, fp32": median["ours mixed fp32"] / median["ours bare fp32"],
        "tax of 8 tasks, int8": median["ours mixed int8"] / median["ours bare int8"],
    }


def main(
    rounds: Annotated[int, typer.Option(help="Measured rounds after the warm-up.")] = 7,
    shape: Annotated[str, typer.Option(help="base, or tiny to try the program itself.")] = "base",
    rows: int = 8,
    source: int = 128,
    new: int = 16,
    sparsity: float = 0.949,
    out: Annotated[Path | None, typer.Option(help="Also write the result as JSON here.")] = None,
) -> None:
    """Measure, print one table and the ratios."""
    with tempfile.TemporaryDirectory(prefix="jumplora-bench-") as folder:
        cases, sizes = build_cases(Path(folder), shape, rows, source, new, 1 - sparsity)
        times = measure(cases, rounds)
    median = {name: statistics.median(values) for name, values in times.items()}
    console = Console(width=100)
    console.print(f"{machine()}; commit {commit()}")
    table = Table(
        title=f"T5-{shape} shape, {rows} rows, {source} in, {new} out, {sparsity:.1%} sparse"
    )
    for column in ("case", "median s", "min s", "max s"):
        table.add_column(column)
    for name, values in times.items():
        table.add_row(name, *(f"{v:.3f}" for v in (median[name], min(values), max(values))))
    console.print(table)
    for name, value in {**ratios(median), **sizes}.items():
        console.print(f"{name}: {value:.2f}")
    if out is not None:
        record = {"machine": machine(), "commit": commit(), "rounds": rounds, "seconds": times,
                  "ratios": ratios(median), "sizes": sizes}  # fmt: skip
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
