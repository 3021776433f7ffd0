"""`jumplora serve` around a fake engine that breaks on request, as a process of its own.

Run as a script with the command's flags. A prompt or a task names the fault, see `FAULTS`.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from dataclasses import replace
from pathlib import Path

from factories import toy_backbone
from fakes import FakeDetokenizer, FakeEngine, FakePacked
from jumplora_adapters.format import Adapter
from jumplora_adapters.incoming import Incoming
from jumplora_adapters.store import Store
from jumplora_server import app
from jumplora_server.cli.serve import run
from jumplora_server.core import Batch, StepOutput
from jumplora_server.publishing import Publishing
from jumplora_server.settings import Settings
from serving import character_tokenizer

FIFO_TASK, DEADLY_TASK = "fifo", "deadly"
HUNG_UPLOAD = "hung-upload"  # a task whose file is written to a disk that does not answer
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
        for encoding in batch.encode:
            text = "".join(map(chr, encoding.prompt))
            if "die" in text:
                raise SystemExit(1)
            if "wait" in text:
                threading.Event().wait()
            if "native" in text:
                ctypes.CDLL(None).sleep(3600)  # gives the interpreter lock away, as our kernels do
        return super().step(batch)


class FaultyIncoming(Incoming):
    """Waits for a writer of the FIFO, in a system call, where the file is of that task.

    A file `hangs` beside the FIFO says so.
    """

    fifo: Path

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Hang before the file is written."""
        with self._working():
            if HUNG_UPLOAD.encode() in bytes(chunk):
                self.fifo.with_name("hangs").touch()
                self.fifo.read_bytes()
        super().write(chunk)


class FaultyStore(Store):
    """The store whose uploads may hang."""

    def incoming(self) -> Incoming:
        """A file that may hang."""
        incoming = FaultyIncoming(self.root, self.max_file_bytes)
        incoming.fifo = self.root.parent / "fifo"
        return incoming


def assemble(settings: Settings) -> app.Parts:
    """The real parts around the faulty engine."""
    engine = FaultyEngine(settings.store.parent / "fifo")
    # Slow enough that a long answer takes seconds, many times what a test calls a stall.
    engine.step_seconds = 0.02
    parts = app.connect(
        settings, toy_backbone(), engine, character_tokenizer(), detokenizer=FakeDetokenizer
    )
    services = parts.services
    publishing = Publishing(
        FaultyStore(settings.store), services.backbone, services.residency, load_seconds=20
    )
    return replace(parts, services=replace(services, publishing=publishing))


if __name__ == "__main__":
    app.assemble = assemble
    pairs = zip(sys.argv[1::2], sys.argv[2::2], strict=True)
    run({flag.removeprefix("--").replace("-", "_"): value for flag, value in pairs})
