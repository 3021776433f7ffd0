"""What a fresh server holds and what its first request costs: memory by kind, first and next.

    .venv/bin/python -m jumplora_bench.footprint --out benchmarks/results

Each first request is a fresh server's very first, so there is one server for each kind of request.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.cli.progress import progress_bar
from jumplora_bench.backbone import write_backbone
from jumplora_bench.published import publish_tasks, task_names
from jumplora_bench.reliability.site import commit_of
from jumplora_bench.report import Grid, Report, console
from jumplora_bench.server_process import BenchServer, end, start, wait_ready
from jumplora_bench.shapes import SHAPE_NAMES
from jumplora_bench.tokenizer import random_text

MOST_BYTES = {("large", "int8"): 1.35e9, ("large", "float32"): 3.6e9}
MOST_RATIO = 1.3
MOST_SECONDS = 120.0
ROWS = 16
TASK = task_names(1)[0]


@dataclass(frozen=True, slots=True)
class Asked:
    """One kind of request: so many prompts of so many tokens."""

    name: str
    prompts: int = 1
    source: int = 128
    new: int = 16
    parameters: tuple[tuple[str, object], ...] = ()
    streams: bool = False
    task: str | None = None

    def body(self, rng: random.Random) -> dict[str, object]:
        """A request of this kind, of other words each time."""
        texts = [random_text(self.source, rng) for _ in range(self.prompts)]
        limits = {"min_new_tokens": self.new, "max_new_tokens": self.new}
        return {
            "task_id": self.task,
            "inputs": texts if self.prompts > 1 else texts[0],
            "parameters": limits | dict(self.parameters),
        }


SAMPLED = (("temperature", 0.8), ("top_p", 0.9), ("top_k", 50), ("repetition_penalty", 1.2))
KINDS = (
    Asked("short", source=16, new=8),
    Asked("usual"),
    Asked("long", source=512),
    Asked("sampled", parameters=(*SAMPLED, ("details", True))),
    Asked("streamed", streams=True),
    Asked("of a task", task=TASK),
    Asked("4 prompts", prompts=4, source=64),
    Asked("16 prompts", prompts=16),
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process, as /proc tells them; `checkpoint` is what is mapped of the weights."""

    resident: int
    peak: int
    anonymous: int
    files: int
    shared: int
    checkpoint: int

    @staticmethod
    def of(pid: int) -> Memory:
        """Read now."""
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        size = {name: int(n) * 1024 for name, n in re.findall(r"(\w+):\s+(\d+) kB", status)}
        return Memory(
            resident=size["VmRSS"],
            peak=size["VmHWM"],
            anonymous=size["RssAnon"],
            files=size["RssFile"],
            shared=size["RssShmem"],
            checkpoint=_mapped(pid, ".safetensors"),
        )


def _mapped(pid: int, suffix: str) -> int:
    """Resident bytes of the mapped files whose names end so."""
    found, is_one = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_one = line.endswith(suffix)
        elif is_one and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@dataclass(frozen=True, slots=True)
class Found:
    """One fresh server: how it stood when it was ready, then what requests took."""

    ready_seconds: float
    weights: int  # as /metrics tells them
    ready: Memory
    after: Memory  # all requests
    seconds: tuple[float, ...]  # of each request, the first one first

    @property
    def next_seconds(self) -> float:
        """The median of all requests but the first."""
        return statistics.median(self.seconds[1:])

    @property
    def ratio(self) -> float:
        """How many times the first request costs what the next ones cost."""
        return self.seconds[0] / self.next_seconds


def main(given: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = _options(given)
    report = Report(
        "footprint",
        f"Footprint of a fresh server: T5-{options.shape} shape, {ROWS} rows",
        "python -m jumplora_bench.footprint"
        f" --shape {options.shape} --dtypes {' '.join(options.dtypes)}"
        f" --kernels {' '.join(options.kernels)} --kinds {' '.join(map(repr, options.kinds))}"
        f" --threads {options.threads} --requests {options.requests}",
    )
    with tempfile.TemporaryDirectory(prefix="jumplora-footprint-") as name:
        place = Path(name)
        folder = options.backbone or write_backbone(place / "backbone", options.shape)
        backbone = read_backbone(folder)
        publish_tasks(place / "store", backbone, [TASK], density=0.051)
        found = _measure(place, backbone, options)
    report.grids = [_memory(found, options.shape), _answers(found)]
    report.data = {
        f"{dtype}, {kernels}, {kind}": {
            "ready_seconds": one.ready_seconds,
            "weight_bytes": one.weights,
            "peak_bytes_when_ready": one.ready.peak,
            "resident_bytes": [one.ready.resident, one.after.resident],
            "request_seconds": one.seconds,
        }
        for (dtype, kernels, kind), one in found.items()
    }
    if options.python is not None:
        report.notes.append(f"The server is that of commit {commit_of(options.python)}.")
    report.show(console())
    if options.out is not None:
        report.write(options.out)


def _options(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    dtypes = ["int8", "float32", "bfloat16"]
    parser.add_argument("--shape", default="large", choices=SHAPE_NAMES)
    parser.add_argument("--dtypes", default=dtypes, choices=dtypes, nargs="+")
    parser.add_argument("--kernels", default=["auto"], choices=["auto", "torch"], nargs="+")
    kinds = [kind.name for kind in KINDS]
    parser.add_argument("--kinds", default=kinds, choices=kinds, nargs="+", help="of requests")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--requests", type=int, default=6, help="to each server")
    parser.add_argument("--backbone", type=Path, help="of that shape, instead of one made now")
    parser.add_argument("--python", type=Path, help="another commit's interpreter")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(given)
    if options.requests < 2:  # the first one is held against the next ones
        parser.error(f"--requests must be at least 2, given was {options.requests}")
    return options


def _measure(
    place: Path, backbone: Backbone, options: argparse.Namespace
) -> dict[tuple[str, str, str], Found]:
    kinds = [kind for kind in KINDS if kind.name in options.kinds]
    cases = [(d, k, kind) for d in options.dtypes for k in options.kernels for kind in kinds]
    found: dict[tuple[str, str, str], Found] = {}
    with progress_bar() as bar:
        line = bar.add_task("measuring", total=len(cases), state="")
        for dtype, kernels, kind in cases:
            bar.update(line, state=f"{dtype}, {kernels}, {kind.name}")
            settings = {
                "dtype": dtype, "kernels": kernels, "threads": options.threads,
                "max_rows": ROWS, "allow_base": "yes",
            }  # fmt: skip
            # A fresh server holds no adapters.
            store = place / ("store" if kind.task else "empty")
            with _started(backbone.path, store, place, settings, options.python) as server:
                found[dtype, kernels, kind.name] = _ask(server, kind, options.requests)
            bar.update(line, advance=1)
    return found


@contextmanager
def _started(
    backbone: Path, store: Path, place: Path, settings: dict[str, object], python: Path | None
) -> Iterator[tuple[BenchServer, float]]:
    log = place / "server.log"
    began = time.perf_counter()
    server = start(backbone, store, log, settings, python=python)
    try:
        wait_ready(server, log)
        yield server, time.perf_counter() - began
    finally:
        end(server)


def _ask(started: tuple[BenchServer, float], kind: Asked, requests: int) -> Found:
    server, ready_seconds = started
    pid, rng = server.process.pid, random.Random(0)
    ready = Memory.of(pid)
    path = "/generate_stream" if kind.streams else "/generate"
    seconds = []
    with httpx.Client(base_url=server.url, timeout=MOST_SECONDS) as client:
        for _ in range(requests):
            body = json.dumps(kind.body(rng))
            began = time.perf_counter()
            answer = client.post(path, content=body, headers={"content-type": "application/json"})
            seconds.append(time.perf_counter() - began)
            answer.raise_for_status()
    return Found(ready_seconds, _weights(server), ready, Memory.of(pid), tuple(seconds))


def _weights(server: BenchServer) -> int:
    found = re.search(
        r"^jumplora_model_memory_bytes(?:\{.*\})? (\S+)$", server.scrape(), re.MULTILINE
    )
    return int(float(found.group(1))) if found else 0


def _memory(found: dict[tuple[str, str, str], Found], shape: str) -> Grid:
    columns = [
        "dtype, kernels", "ready in, s", "peak until then", "resident then", "anonymous", "files",
        "of them the checkpoint", "weights, as reported", "after the requests", "limit",
    ]  # fmt: skip
    rows = []
    for (dtype, kernels, _), one in _firsts(found).items():
        most = MOST_BYTES.get((shape, dtype)) if kernels == "auto" else None
        ready = one.ready
        sizes = (ready.peak, ready.resident, ready.anonymous, ready.files, ready.checkpoint)
        limit = "" if most is None else _verdict(most / 1e9, ready.resident <= most)
        rows.append([
            f"{dtype}, {kernels}", f"{one.ready_seconds:.1f}", *(f"{n / 1e9:.3f}" for n in sizes),
            f"{one.weights / 1e9:.3f}", f"{one.after.resident / 1e9:.3f}", limit,
        ])  # fmt: skip
    return Grid("Memory of the process, GB", columns, rows)


def _firsts(
    found: dict[tuple[str, str, str], Found],
) -> dict[tuple[str, str, str], Found]:
    """Of each dtype and kernels the first server."""
    seen: dict[tuple[str, str], tuple[str, str, str]] = {}
    for key in found:
        seen.setdefault(key[:2], key)
    return {key: found[key] for key in seen.values()}


def _answers(found: dict[tuple[str, str, str], Found]) -> Grid:
    columns = ["dtype, kernels", "request", "first, s", "next (median), s", "first / next", ""]
    named = {kind.name: kind for kind in KINDS}
    rows = []
    for (dtype, kernels, name), one in found.items():
        kind = named[name]
        size = f"{name}: {kind.prompts} x {kind.source} tokens in, {kind.new} out"
        rows.append([
            f"{dtype}, {kernels}", size, f"{one.seconds[0]:.3f}", f"{one.next_seconds:.3f}",
            f"{one.ratio:.2f}", _verdict(MOST_RATIO, one.ratio <= MOST_RATIO),
        ])  # fmt: skip
    return Grid("A fresh server's first request and the next ones", columns, rows)


def _verdict(most: float, is_met: bool) -> str:
    return f"{most:g} {'met' if is_met else 'missed'}"


if __name__ == "__main__":
    main()
