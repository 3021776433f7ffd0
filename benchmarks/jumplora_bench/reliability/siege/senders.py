"""Processes that send, apart from the one that measures, and how they tell what they saw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

BENCHMARKS = Path(__file__).parents[3]
_NICENESS = 10  # clients of another machine would not take the server's cores


class Sender:
    """`python -m jumplora_bench.reliability.siege.<module> <arguments>` until the end of the block.

    `on_told` gets each line it prints, on a thread.
    """

    def __init__(
        self, module: str, *arguments: object, on_told: Callable[[dict[str, Any]], None]
    ) -> None:
        self._command = [
            sys.executable, "-m", f"jumplora_bench.reliability.siege.{module}", *map(str, arguments)
        ]  # fmt: skip
        self._on_told = on_told
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["nice", "-n", str(_NICENESS), *self._command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
        )
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def wait(self, seconds: float) -> int | None:
        """The exit status; None where it still runs after that time."""
        assert self._process is not None
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join()
        return status

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._on_told(json.loads(line))


def say(**told: object) -> None:
    """In a sending process: print one line of JSON, at once."""
    print(json.dumps(told), flush=True)
