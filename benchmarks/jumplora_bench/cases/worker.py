"""A program in a process of its own that takes its turns: a JSON answer for each line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self


class WorkerEnded(RuntimeError):
    """The process ended where an answer was due; the message is the end of what it wrote."""


class Worker:
    """A process that is idle between its lines; it times itself, so that pipes cost nothing."""

    def __init__(
        self, command: Sequence[str | Path], environment: Mapping[str, str], log: Path
    ) -> None:
        """Start it; its stderr goes to `log`."""
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )

    def begin(self, job: Mapping[str, object]) -> Any:
        """Send the first line, and return what it answers once all is built. Raises WorkerEnded,
        and then the process is gone."""
        try:
            return self.ask(json.dumps(job))
        except WorkerEnded:
            self.close()
            raise

    def ask(self, line: str) -> Any:
        """Send a line, and return what it answers. Raises WorkerEnded."""
        stdin, stdout = self._pipe(self._process.stdin), self._pipe(self._process.stdout)
        try:
            stdin.write(line + "\n")
            stdin.flush()
            answer = stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise WorkerEnded(said[-1] if said else "nothing")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):  # what an ended one did not read
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

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe
