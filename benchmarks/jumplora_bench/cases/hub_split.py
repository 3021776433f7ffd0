"""AdapterHub's BatchSplit, run by another interpreter that takes its turn in the same rounds."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from jumplora_bench.cases.case import Lap, Work
from jumplora_bench.cases.torch_peers import RANK
from jumplora_bench.extra import PeerMissing

_WORKER = Path(__file__).with_name("hub_worker.py")


class HubCase:
    """A worker process, idle between its laps; it times itself, so that pipes cost nothing."""

    name = "AdapterHub BatchSplit"

    def __init__(self, python: Path, work: Work, log: Path) -> None:
        """Start the worker and wait until it has built its model. Raises PeerMissing."""
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [python, str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=clean,
                text=True,
            )
        job = {
            "backbone": str(work.backbone),
            "prompts": work.prompts,
            "new": work.new,
            "threads": work.threads,
            "rank": RANK,
        }
        try:
            self.versions: dict[str, str] = self._ask(json.dumps(job))["versions"]
        except PeerMissing:
            self.close()
            raise

    def run(self) -> Lap:
        """One generation in the other process."""
        answer = self._ask("run")
        return Lap(answer["seconds"], tuple(tuple(row) for row in answer["tokens"]))

    def close(self) -> None:
        """End the worker."""
        self._pipe(self._process.stdin).close()
        self._process.wait(timeout=60)
        self._pipe(self._process.stdout).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, line: str) -> Any:
        stdin, stdout = self._pipe(self._process.stdin), self._pipe(self._process.stdout)
        try:
            stdin.write(line + "\n")
            stdin.flush()
            answer = stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            told = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise PeerMissing(
                "the AdapterHub worker ended; it needs an interpreter with the packages adapters "
                f"and torch. It said: {told[-1] if told else 'nothing'}"
            )
        return json.loads(answer)

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe
