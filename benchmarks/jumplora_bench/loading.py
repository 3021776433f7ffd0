"""How long an adapter takes from its file to READY, alone and beside running requests.

The parts are measured in this process; the whole on a real server, whose metrics tell its stages.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.format import read_adapter
from jumplora_bench.answers import Answer
from jumplora_bench.asking import Asker, closed_loop, open_loop
from jumplora_bench.scrape import value
from jumplora_bench.server_process import BenchServer
from jumplora_bench.traffic import Question
from jumplora_server.engine.engine import Engine

STAGES = ("read", "pack", "warmup", "canaries")
PARTS = ("read", "validate", "pack", "install")
UPLOADED = "uploaded"


@dataclass(slots=True)
class Loading:
    """Seconds of each load by part or stage. `ready` is the sum of the server's stages; `put` the
    whole upload over HTTP, which also writes the file into the store.
    """

    file_bytes: int = 0
    parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PARTS})
    stages: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STAGES})
    ready: list[float] = field(default_factory=list)
    put: list[float] = field(default_factory=list)


def measure_parts(engine: Engine, backbone: Backbone, files: Sequence[Path], into: Loading) -> None:
    """Read (the bytes alone), validate (what `read_adapter` takes beyond that), pack, install."""
    for file in files:
        began = time.perf_counter()
        size = len(file.read_bytes())
        read = time.perf_counter()
        adapter = read_adapter(file, backbone)
        validated = time.perf_counter()
        packed = engine.pack(adapter)
        ready = time.perf_counter()
        slot = engine.install(packed)
        installed = time.perf_counter()
        engine.remove(slot)
        into.file_bytes = size
        into.parts["read"].append(read - began)
        into.parts["validate"].append(max(0.0, (validated - read) - (read - began)))
        into.parts["pack"].append(ready - validated)
        into.parts["install"].append(installed - ready)


def put(server: BenchServer, file: Path, into: Loading) -> None:
    """Publish one file over HTTP as a new version of its task; returns once it answers requests."""
    content = file.read_bytes()
    headers = {
        "authorization": f"Bearer {server.key}",
        "x-content-sha256": hashlib.sha256(content).hexdigest(),
    }
    url = f"{server.url}/v1/adapters/{UPLOADED}"
    began = time.perf_counter()
    httpx.put(url, content=content, headers=headers, timeout=600).raise_for_status()
    into.put.append(time.perf_counter() - began)
    page = server.scrape()
    total = 0.0
    for stage in STAGES:
        labels = {"task_id": UPLOADED, "stage": stage}
        seconds = value(page, "jumplora_adapter_last_load_seconds", labels)
        into.stages[stage].append(seconds)
        total += seconds
    into.ready.append(total)


@dataclass(slots=True)
class Interference:
    """Total seconds of other requests: in quiet, and of those beside a load.

    `batch` is the time of a full batch of requests that were sent together on the idle server.
    """

    quiet: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    batch: list[float] = field(default_factory=list)
    failed: int = 0


def batch_seconds(asker: Asker, questions: Sequence[Question], rounds: int) -> list[float]:
    """Time until all of one full batch are answered, `rounds` times."""
    times = []
    for _ in range(rounds):
        answers = asyncio.run(open_loop(asker, questions, lambda: None))  # all due at 0
        times.append(max(answer.ended for answer in answers))
    return times


def interfere(
    server: BenchServer,
    asker: Asker,
    questions: Sequence[Question],
    files: Sequence[Path],
    *,
    clients: int,
    seconds: float,
    into: Loading,
    on_state: Callable[[str], None],
) -> Interference:
    """For each file a quiet window, then one in which it is published, under the same traffic."""
    found = Interference(batch=batch_seconds(asker, questions[:clients], 5))
    for turn, file in enumerate(files, start=1):
        on_state(f"beside requests {turn}/{len(files)}")
        quiet = asyncio.run(closed_loop(asker, questions, clients=clients, seconds=seconds))
        answers, (begin, end) = asyncio.run(
            _window(server, asker, questions, file, clients, seconds, into)
        )
        found.quiet += [answer.total for answer in quiet if answer.error is None]
        found.beside += [a.total for a in answers if a.error is None and _overlaps(a, begin, end)]
        found.failed += sum(answer.error is not None for answer in [*quiet, *answers])
    return found


async def _window(
    server: BenchServer,
    asker: Asker,
    questions: Sequence[Question],
    file: Path,
    clients: int,
    seconds: float,
    into: Loading,
) -> tuple[list[Answer], tuple[float, float]]:
    """The answers, and when the publish began and ended by their clock."""
    began = time.perf_counter()

    async def publish() -> tuple[float, float]:
        await asyncio.sleep(seconds / 4)
        begin = time.perf_counter() - began
        await asyncio.to_thread(put, server, file, into)
        return begin, begin + into.put[-1]

    loop = closed_loop(asker, questions, clients=clients, seconds=seconds)
    answers, span = await asyncio.gather(loop, publish())
    return answers, span


def _overlaps(answer: Answer, begin: float, end: float) -> bool:
    return answer.due < end and answer.ended > begin
