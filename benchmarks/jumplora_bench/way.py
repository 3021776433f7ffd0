"""Which files of the server one request runs through, from its first byte to the answer's last.

    .venv/bin/python -m jumplora_bench.way --kernels torch

A file counts when one of its functions is called in that time, on any thread of a real server with
a random backbone. Imports do not count, nor does a function that was called before and runs on.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import get_args

import httpx
from rich.console import Console
from rich.table import Table

import jumplora_server
from jumplora_adapters.backbone import read_backbone
from jumplora_bench.backbone import write_backbone
from jumplora_bench.published import publish_tasks
from jumplora_server import app, logs
from jumplora_server.api.middleware import ACCESS_LOG
from jumplora_server.core import Kernels
from jumplora_server.http.server import bound_socket
from jumplora_server.settings import Settings

TASK = "trec"
MOST_SECONDS = 60.0  # any wait here
_SERVER = Path(next(iter(jumplora_server.__path__)))
_PREFIX = f"{_SERVER}{os.sep}"


@dataclass(slots=True)
class Way:
    """The files that ran while `is_open`, by name below the package."""

    is_open: bool = False
    files: set[str] = field(default_factory=set)

    def profile(self, frame: FrameType, event: str, arg: object) -> None:
        """The hook of `threading.setprofile`; must be cheap, for every call comes here."""
        del arg
        if not self.is_open or event != "call":
            return
        code = frame.f_code
        # The bodies of modules and classes, which run at import, are not optimized.
        is_function = code.co_flags & inspect.CO_OPTIMIZED
        if is_function and code.co_filename.startswith(_PREFIX) and _begins(frame):
            self.files.add(code.co_filename.removeprefix(_PREFIX))


def _begins(frame: FrameType) -> bool:
    """Whether a function was called just now, and is not a coroutine that is resumed."""
    where = frame.f_code.co_code[frame.f_lasti + 1]  # the operand of RESUME, as `dis` documents it
    return where & 3 == 0


class _Ended(logging.Handler):
    """Sees the line that the access log writes once a request is over."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Any record of the access log ends a request."""
        del record
        self.seen.set()


def ways(place: Path, kernels: Kernels) -> dict[str, list[str]]:
    """The files of a whole answer and of a streamed one, sorted, each asked of a ready server."""
    backbone = write_backbone(place / "backbone", "tiny")
    publish_tasks(place / "store", read_backbone(backbone), [TASK], density=0.05)
    settings = Settings(
        backbone=str(backbone), store=place / "store", kernels=kernels, threads=1,
        # The threads that look after the others would look now or then.
        watch_seconds=3600, stall_seconds=3600,
    )  # fmt: skip
    way = Way()
    with _hooked(way), _serving(settings) as url, httpx.Client(timeout=MOST_SECONDS) as client:
        _wait_ready(client, url)
        return {
            route: _walk(way, client, f"{url}{route}")
            for route in ("/generate", "/generate_stream")
        }


def _walk(way: Way, client: httpx.Client, url: str) -> list[str]:
    access, ended = logging.getLogger(ACCESS_LOG), _Ended()
    access.addHandler(ended)
    way.files.clear()
    way.is_open = True
    try:
        body = {"task_id": TASK, "inputs": "what is it", "parameters": {"max_new_tokens": 4}}
        client.post(url, json=body).raise_for_status()
        if not ended.seen.wait(MOST_SECONDS):
            raise TimeoutError(f"no line in the access log {MOST_SECONDS:g} s after the answer")
    finally:
        way.is_open = False
        access.removeHandler(ended)
    return sorted(way.files)


@contextmanager
def _hooked(way: Way) -> Iterator[None]:
    """All threads that start within; the one that asks is not one of them."""
    threading.setprofile(way.profile)
    try:
        yield
    finally:
        threading.setprofile(None)


@contextmanager
def _serving(settings: Settings) -> Iterator[str]:
    """The server that `jumplora serve` runs, in a thread; yields its address."""
    with bound_socket(settings.host, 0) as listener, open(os.devnull, "w", encoding="utf-8") as log:
        logs.configure("text", "info", log)
        server = app.server(settings, app.assemble(settings))
        thread = threading.Thread(target=server.run, args=([listener],), name="http")
        thread.start()
        try:
            yield f"http://{settings.host}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(MOST_SECONDS)


def _wait_ready(client: httpx.Client, url: str) -> None:
    end = time.monotonic() + MOST_SECONDS
    while time.monotonic() < end:
        try:
            adapter = client.get(f"{url}/v1/adapters/{TASK}")
            if adapter.is_success and adapter.json()["state"] == "READY":
                return
        except httpx.ConnectError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"the server did not load its adapter within {MOST_SECONDS:g} s")


def _lines(name: str) -> int:
    return len((_SERVER / name).read_text("utf-8").splitlines())


def _table(route: str, files: Sequence[str]) -> Table:
    total = sum(map(_lines, files))
    table = Table(title=f"POST {route}: {len(files)} files, {total} lines", title_justify="left")
    table.add_column("file")
    table.add_column("lines", justify="right")
    for name in files:
        table.add_row(name, str(_lines(name)))
    return table


def main() -> None:
    """Ask, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kernels", default="auto", choices=get_args(Kernels))
    parser.add_argument("--json", action="store_true", help="print file names for a program")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jumplora-way-") as place:
        found = ways(Path(place), options.kernels)
    if options.json:
        json.dump(found, sys.stdout)
        return
    for route, files in found.items():
        Console().print(_table(route, files))


if __name__ == "__main__":
    main()
