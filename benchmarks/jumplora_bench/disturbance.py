"""Steps under load, with ten scrapes a second and a running upload, and without, in turn.

Step times are the server's own histograms over each window; latencies are the clients'.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import torch

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.delta import mask_bytes
from jumplora_bench.answers import Answer
from jumplora_bench.asking import Asker, closed_loop
from jumplora_bench.connections import Connections
from jumplora_bench.published import write_random
from jumplora_bench.scrape import window
from jumplora_bench.server_process import BenchServer
from jumplora_bench.traffic import Question

SCRAPES_PER_SECOND = 10.0
_TASK = "uploaded"


@dataclass(slots=True)
class Side:
    """One side's windows: mean seconds of the phases of a step, rows a step, client latencies."""

    decode: list[float] = field(default_factory=list)
    encode: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)  # both phases, a decode step's share
    rows: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    failed: int = 0


@dataclass(slots=True)
class Disturbance:
    """Both sides. `upload_seconds` are whole PUTs, until the version answered."""

    quiet: Side = field(default_factory=Side)
    disturbed: Side = field(default_factory=Side)
    scrape_seconds: list[float] = field(default_factory=list)
    upload_seconds: list[float] = field(default_factory=list)
    upload_bytes: int = 0


def disturb(
    server: BenchServer,
    backbone: Backbone,
    asker: Asker,
    questions: Sequence[Question],
    *,
    clients: int,
    seconds: float,
    rounds: int,
    upload_bytes: int,
    scratch: Path,
    on_state: Callable[[str], None],
) -> Disturbance:
    """A quiet window of `seconds`, then a disturbed one, `rounds` times."""
    found = Disturbance()
    for turn in range(rounds):
        on_state(f"disturbed {turn + 1}/{rounds}")
        density = _density_of(backbone, upload_bytes)
        file = write_random(
            scratch / "upload.safetensors", backbone, _TASK,
            density=density, seed=10_000 + turn, dtype=torch.float32,
        )  # fmt: skip
        content = file.read_bytes()
        found.upload_bytes = len(content)
        load = _Load(server, asker, questions, clients, seconds)
        asyncio.run(load.run(found.quiet))
        asyncio.run(load.run(found.disturbed, found, content))
    return found


@dataclass(frozen=True, slots=True)
class _Load:
    server: BenchServer
    asker: Asker
    questions: Sequence[Question]
    clients: int
    seconds: float

    async def run(self, side: Side, found: Disturbance | None = None, content: bytes = b"") -> None:
        """One window; with `found` it is disturbed, and that gets what the disturbers saw."""
        before = await asyncio.to_thread(self.server.scrape)
        loop = closed_loop(self.asker, self.questions, clients=self.clients, seconds=self.seconds)
        if found is None:
            answers = await loop
        else:
            answers, scrapes, upload = await asyncio.gather(
                loop, self._scrape(), self._upload(content)
            )
            found.scrape_seconds += scrapes
            found.upload_seconds.append(upload)
        after = await asyncio.to_thread(self.server.scrape)
        _note(side, before, after, answers)

    async def _scrape(self) -> list[float]:
        """Ten a second, each when it is due; seconds of each."""
        took: list[float] = []
        async with Connections(self.server.url) as connections:
            request = connections.request("/metrics")
            began = time.perf_counter()
            for turn in range(int(self.seconds * SCRAPES_PER_SECOND)):
                due = began + turn / SCRAPES_PER_SECOND
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                sent = time.perf_counter()
                status, body = await connections.ask(request, lambda line: None)
                if status != 200:
                    raise RuntimeError(f"/metrics answered {status}: {body[:80]!r}")
                took.append(time.perf_counter() - sent)
        return took

    async def _upload(self, content: bytes) -> float:
        """A quarter into the window; seconds until the version answers requests."""
        await asyncio.sleep(self.seconds / 4)
        headers = {
            "authorization": f"Bearer {self.server.key}",
            "x-content-sha256": hashlib.sha256(content).hexdigest(),
        }
        sent = time.perf_counter()
        async with httpx.AsyncClient(base_url=self.server.url, timeout=600) as client:
            answer = await client.put(f"/v1/adapters/{_TASK}", content=content, headers=headers)
            answer.raise_for_status()
        return time.perf_counter() - sent


def _note(side: Side, before: str, after: str, answers: Sequence[Answer]) -> None:
    decode = window(before, after, "jumplora_step_seconds", {"phase": "decode"})
    encode = window(before, after, "jumplora_step_seconds", {"phase": "encode"})
    side.decode.append(decode.mean)
    side.encode.append(encode.mean)
    side.step.append((decode.sum + encode.sum) / decode.count if decode.count else 0.0)
    side.rows.append(window(before, after, "jumplora_batch_rows").mean)
    side.totals += [answer.total for answer in answers if answer.error is None]
    side.failed += sum(answer.error is not None for answer in answers)


def _density_of(backbone: Backbone, nbytes: int) -> float:
    """The density at which masks and float32 values take `nbytes`, 0.1 % to 50 %."""
    sizes = [rows * columns for rows, columns in backbone.targets.values()]
    density = (nbytes - sum(map(mask_bytes, sizes))) / (4 * sum(sizes))
    return min(0.5, max(0.001, density))
