"""What traces cost: processor time of a request with and without them, in turn in one process.

    .venv/bin/python -m jumplora_bench.traced

The demo's backbone answers short prompts, asked one by one without a socket. The time is that of
the whole process: the span's making, its queue and the thread that sends it. The collector is
another process, which reads and forgets. `--modes off` runs on older commits, too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import httpx
from rich.table import Table

from jumplora_bench.report import console
from jumplora_bench.rounds import ratios, spread
from jumplora_server import app
from jumplora_server.settings import load_settings

MODES = ("off", "unsampled", "sampled")
DEMO = Path("adapters/demo")
BODY = {"task_id": "agnews", "text": "Oil prices fell.", "parameters": {"max_new_tokens": 4}}
UNSAMPLED = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-00"}
COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Forget(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Forget)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def _collecting() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-c", COLLECTOR], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait(10)


async def _measured(modes: list[str], rounds: int, requests: int) -> dict[str, list[float]]:
    """Milliseconds of the processor for a request, by mode, one for each round."""
    took: dict[str, list[float]] = {mode: [] for mode in modes}
    async with AsyncExitStack() as stack:
        clients = {mode: await _client(stack, mode) for mode in modes}
        for turn in range(rounds + 1):
            for mode, client in clients.items():
                began = time.process_time()
                for _ in range(requests):
                    (await client.post("/generate", json=BODY)).raise_for_status()
                if turn:  # the first one warms up
                    took[mode].append((time.process_time() - began) / requests * 1000)
    return took


async def _client(stack: AsyncExitStack, mode: str) -> httpx.AsyncClient:
    traces = {} if mode == "off" else {"traces": "otlp"}
    settings = load_settings(
        backbone=str(DEMO / "backbone"), store=str(DEMO / "store"), threads="1", **traces
    )
    parts = app.assemble(settings)
    await stack.enter_async_context(app.running(parts))
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app.build(settings, parts)),
        base_url="http://server",
        headers=UNSAMPLED if mode == "unsampled" else {},
        timeout=60,
    )
    await stack.enter_async_context(client)
    while not parts.services.residency.settled:
        await asyncio.sleep(0.05)
    return client


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=[*MODES])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--requests", type=int, default=50)
    options = parser.parse_args()
    with _collecting() as url:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
        took = asyncio.run(_measured(options.modes, options.rounds, options.requests))
    table = Table(
        "traces", "ms of the processor for a request", "of the first", title_justify="left"
    )
    for mode, values in took.items():
        each, ratio = spread(values), ratios(values, took[options.modes[0]])
        table.add_row(
            mode,
            f"{each.median:.3f} ({each.least:.3f} to {each.most:.3f})",
            f"{ratio.median:.3f} ({ratio.least:.3f} to {ratio.most:.3f})",
        )
    console().print(table)


if __name__ == "__main__":
    main()
