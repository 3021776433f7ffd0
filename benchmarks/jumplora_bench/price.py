"""What a change costs throughput: two commits' servers in turn, each while the other is stopped.

    .venv/bin/python -m jumplora_bench.price --old OTHER/.venv/bin/python --out benchmarks/results

OTHER is a worktree of the other commit with an environment of its own. Both serve one store.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.cli.progress import progress_bar
from jumplora_bench.backbone import write_backbone
from jumplora_bench.flooding import Flood, flooded, prepared
from jumplora_bench.published import publish_tasks, task_names
from jumplora_bench.reliability.site import commit_of
from jumplora_bench.report import Grid, Report, console
from jumplora_bench.rounds import ratios, spread
from jumplora_bench.server_process import BenchServer, end, start, wait_ready
from jumplora_bench.shapes import SHAPE_NAMES
from jumplora_bench.tokenizer import random_text

TASKS, ROWS = 16, 16
MOST_LOST = {"16 tasks": 0.03, "one task alone": 0.08}


def main(given: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = _options(given)
    torch.set_num_threads(options.threads)
    command = (
        "python -m jumplora_bench.price --old OTHER/.venv/bin/python"
        f" --shape {options.shape} --dtype {options.dtype} --threads {options.threads}"
        f" --seconds {options.seconds:g} --windows {options.windows}"
    )
    title = (
        f"Price: T5-{options.shape} shape, {options.dtype}, {ROWS} rows, {options.source} tokens"
        f" in, {options.new} out, {2 * ROWS} clients"
    )
    report = Report("price", title, command)
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="jumplora-price-")))
        backbone = read_backbone(write_backbone(folder / "backbone", options.shape))
        tasks = task_names(TASKS)
        publish_tasks(folder / "store", backbone, tasks, density=0.051)
        servers: dict[str, BenchServer] = {}
        for name, python in (("old", options.old), ("new", None)):
            log = folder / f"{name}.log"
            settings = {"dtype": options.dtype, "threads": options.threads, "max_rows": ROWS}
            server = start(backbone.path, folder / "store", log, settings, python=python)
            held.callback(end, server)
            wait_ready(server, log)
            servers[name] = server
        rates = _measure(servers, tasks, options)
    rows = []
    for traffic, most in MOST_LOST.items():
        old, new = rates["old", traffic], rates["new", traffic]
        ratio = ratios(new, old).median
        pairs = ", ".join(f"{b / a:.3f}" for a, b in zip(old, new, strict=True))
        is_met = "met" if ratio >= 1 - most else "missed"
        rows.append([traffic, _told(old), _told(new), f"{ratio:.3f}", pairs, is_met])
    columns = ["traffic", "old, requests/s", "new, requests/s", "new / old", "each window", ""]
    report.grids.append(Grid("Throughput at saturation: median (least to most)", columns, rows))
    report.data = {
        f"{name}, {traffic}, requests_per_second": values
        for (name, traffic), values in rates.items()
    }
    report.notes.append(f"Old is commit {commit_of(options.old)}.")
    report.show(console())
    if options.out is not None:
        report.write(options.out)


def _options(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--old", type=Path, required=True, help="the other commit's interpreter")
    parser.add_argument("--shape", default="base", choices=SHAPE_NAMES)
    parser.add_argument("--dtype", default="int8", choices=["int8", "float32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--source", type=int, default=128)
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(given)
    if options.windows < 1:
        parser.error(f"--windows must be at least 1, given was {options.windows}")
    return options


def _measure(
    servers: dict[str, BenchServer], tasks: list[str], options: argparse.Namespace
) -> dict[tuple[str, str], list[float]]:
    rng = random.Random(0)

    def requests(names: list[str]) -> tuple[bytes, ...]:
        limits = {"min_new_tokens": options.new, "max_new_tokens": options.new}
        return tuple(
            prepared(rng.choice(names), random_text(options.source, rng), **limits)
            for _ in range(64)
        )

    traffic = {"16 tasks": requests(tasks), "one task alone": requests(tasks[:1])}
    rates: dict[tuple[str, str], list[float]] = {
        (name, mix): [] for name in servers for mix in traffic
    }
    with progress_bar() as bar:
        line = bar.add_task("measuring", total=(options.windows + 1) * len(rates), state="")
        for window in range(options.windows + 1):  # the first is a warm-up
            for mix, prompts in traffic.items():
                # The order turns with the window, so that neither is always the first.
                for name in list(servers)[:: 1 if window % 2 else -1]:
                    bar.update(line, advance=1, state=f"{name}, {mix}")
                    with _others_stopped(servers, name):
                        rate = _rate(servers[name].url, prompts, options.seconds)
                    if window:
                        rates[name, mix].append(rate)
    return rates


def _rate(url: str, prompts: tuple[bytes, ...], seconds: float) -> float:
    """Answered requests a second, from the first that is sent to the last that is answered."""
    with flooded(url, Flood(prompts, clients=2 * ROWS), seconds) as answers:
        began = time.perf_counter()  # the process that asks has started
        counts = answers()
    if set(counts) != {200}:
        raise SystemExit(f"not everything was answered: {dict(counts)}")
    return counts[200] / (time.perf_counter() - began)


@contextmanager
def _others_stopped(servers: dict[str, BenchServer], name: str) -> Iterator[None]:
    with ExitStack() as held:
        for other, server in servers.items():
            if other != name:
                held.enter_context(server.stopped())
        yield


def _told(values: list[float]) -> str:
    found = spread(values)
    return f"{found.median:.2f} ({found.least:.2f} to {found.most:.2f})"


if __name__ == "__main__":
    main()
