"""A store with random tasks in it, published as every store is: through `Store.publish`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.format import write_adapter
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.store import Store
from jumplora_bench.masked import draw


def task_names(count: int) -> list[str]:
    """task0000, task0001, ..."""
    return [f"task{index:04d}" for index in range(count)]


def write_random(
    file: Path,
    backbone: Backbone,
    task: str,
    *,
    density: float,
    seed: int,
    dtype: torch.dtype = torch.bfloat16,
    targets: Iterable[str] | None = None,
    prompt: PromptSpec | None = None,
) -> Path:
    """One random masked adapter as a file, which is returned."""
    adapter = draw(
        backbone, task, density=density, seed=seed, dtype=dtype, targets=targets, prompt=prompt
    )
    write_adapter(file, adapter.manifest, adapter.deltas)
    return file


def publish_tasks(
    store: Path,
    backbone: Backbone,
    tasks: Sequence[str],
    *,
    density: float,
    first_seed: int = 0,
    targets: Iterable[str] | None = None,
    prompt: PromptSpec | None = None,
    on_task: Callable[[], None] = lambda: None,
) -> None:
    """One version of each task; `targets` None: every q and v."""
    store.mkdir(parents=True, exist_ok=True)
    opened, file = Store(store), store.with_name(f"{store.name}.next.safetensors")
    names = None if targets is None else tuple(targets)
    for seed, task in enumerate(tasks, start=first_seed):
        write_random(file, backbone, task, density=density, seed=seed, targets=names, prompt=prompt)
        opened.publish(file, backbone)
        on_task()
    file.unlink(missing_ok=True)
