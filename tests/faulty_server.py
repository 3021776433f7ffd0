"""`jumplora serve` around a fake engine that breaks on request, as a process of its own.

Run as a script with the command's flags. A prompt or a task names the fault, see `FAULTS`.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path

from factories import toy_backbone
from fakes import FakeDetokenizer, FakeEngine, FakePacked
from jumplora_adapters.format import Adapter
from jumplora_server import app
from jumplora_server.cli.serve import run
from jumplora_server.core import Batch, StepOutput
from jumplora_server.settings import Settings
from serving import character_tokenizer

FIFO_TASK, DEADLY_TASK = "fifo", "deadly"
FAULTS = ("die", "wait", "native")  # parts of prompts


class FaultyEngine(FakeEngine):
    """Breaks as no `except Exception` would notice."""

    def __init__(self, fifo: Path) -> None:
        super().__init__()
        self._fifo = fifo

    def pack(self, adapter: Adapter) -> FakePacked:
        """Wait for a writer of the FIFO, or end the loader's thread, where the task asks for it."""
        if adapter.manifest.task == FIFO_TASK:
            self._fifo.read_bytes()
        if adapter.manifest.task == DEADLY_TASK:
            raise SystemExit(1)
        return super().pack(adapter)

    def step(self, batch: Batch) -> StepOutput:
        """End the engine's thread, or hang in Python or in C, where a prompt asks for it."""
        for sequence in batch.encode:
            text = "".join(map(chr, sequence.prompt))
            if "die" in text:
                raise SystemExit(1)
            if "wait" in text:
                threading.Event().wait()
            if "native" in text:
                ctypes.CDLL(None).sleep(3600)  # gives the interpreter lock away, as our kernels do
        return super().step(batch)


def assemble(settings: Settings) -> app.Parts:
    """The real parts around the faulty engine."""
    engine = FaultyEngine(settings.store.parent / "fifo")
    # Slow enough that a long answer takes seconds, many times what a test calls a stall.
    engine.step_seconds = 0.02
    return app.connect(
        settings, toy_backbone(), engine, character_tokenizer(), detokenizer=FakeDetokenizer
    )


if __name__ == "__main__":
    app.assemble = assemble
    pairs = zip(sys.argv[1::2], sys.argv[2::2], strict=True)
    run({flag.removeprefix("--").replace("-", "_"): value for flag, value in pairs})
