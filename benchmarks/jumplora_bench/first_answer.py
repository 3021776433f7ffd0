"""From clone to first answer: how long a newcomer waits, with a fresh clone and environment.

    .venv/bin/python -m jumplora_bench.first_answer --out benchmarks/results

It does what the README's "Two commands" and "The first question" do: clone, install, serve, ask.
The install gets its packages from the network, or from pip's cache where that has them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from jumplora_adapters.errors import AdapterError
from jumplora_bench.report import Grid, Report, console
from jumplora_bench.server_process import free_port

_QUESTION = {"task_id": "agnews", "text": "The striker scored twice as the home side won the cup."}
_PAUSE_SECONDS = 0.05
_MOST_SECONDS = 1800.0


class StepFailed(AdapterError):
    """A step of the way ended with an error, or took too long."""

    code = "step_failed"


@dataclass(frozen=True, slots=True)
class Way:
    """The seconds of one way from clone to answer."""

    clone: float
    install: float
    serve: float  # from the command to the first answer

    @property
    def total(self) -> float:
        """All of it."""
        return self.clone + self.install + self.serve


def walk(source: Path, folder: Path, make: Sequence[str] = ()) -> Way:
    """Go the way once, below an empty folder; `make` has more arguments of make.

    Raises StepFailed.
    """
    clone = folder / "clone"
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("JUMPLORA_", "MAKE"))}
    # What a caller set for itself would be found before the clone's own packages.
    environment = {k: v for k, v in settings.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    began = time.perf_counter()
    _run(["git", "clone", "--quiet", str(source), str(clone)], folder, environment)
    cloned = time.perf_counter()
    _run(["make", *make, ".venv/.serve"], clone, environment)
    installed = time.perf_counter()
    _serve(clone, environment, make)
    answered = time.perf_counter()
    return Way(cloned - began, installed - cloned, answered - installed)


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    try:
        subprocess.run(
            command,
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=_MOST_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise StepFailed(f"{' '.join(command)} took more than {_MOST_SECONDS:.0f} s") from error
    except subprocess.CalledProcessError as error:
        said = f"{error.stdout}{error.stderr}".strip().splitlines()
        reason = said[-1] if said else f"exit status {error.returncode}"
        raise StepFailed(f"{' '.join(command)} failed: {reason}") from error


def _serve(clone: Path, environment: Mapping[str, str], make: Sequence[str]) -> None:
    """Start the server and return with its first answer; the server has ended then."""
    port = free_port()
    # In a group of its own, since make does not pass a signal on to what it started.
    process = subprocess.Popen(
        ["make", *make, "serve"],
        cwd=clone,
        env={**environment, "JUMPLORA_PORT": str(port), "JUMPLORA_DRAIN_GRACE": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _ask(f"http://127.0.0.1:{port}/generate", process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def _ask(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _MOST_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.post(url, json=_QUESTION, timeout=60).status_code == 200:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        try:
            process.wait(timeout=_PAUSE_SECONDS)  # the pause between two questions
        except subprocess.TimeoutExpired:
            continue
        raise StepFailed(f"make serve ended with exit status {process.returncode}")
    raise StepFailed(f"make serve gave no answer within {_MOST_SECONDS:.0f} s")


def grid(ways: Sequence[Way]) -> Grid:
    """A row for each way, and their medians."""
    rows = [[f"round {number}", *_cells(way)] for number, way in enumerate(ways, 1)]
    if len(ways) > 1:
        middle = Way(
            *(statistics.median(getattr(way, step) for way in ways) for step in Way.__slots__)
        )
        total = statistics.median(way.total for way in ways)
        rows.append(["median", *_cells(middle)[:-1], f"{total:.1f}"])
    columns = ["", "clone, s", "install, s", "serve to first answer, s", "all, s"]
    return Grid("Seconds of each step", columns, rows)


def _cells(way: Way) -> list[str]:
    return [f"{seconds:.1f}" for seconds in (way.clone, way.install, way.serve, way.total)]


def main(given: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    here = Path(__file__).resolve().parents[2]
    parser.add_argument("--source", type=Path, default=here, help="the repository to clone")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--make", nargs="*", default=[], help="such as TORCH_INDEX=URL")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(given)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, given was {options.rounds}")
    command = f"python -m jumplora_bench.first_answer --rounds {options.rounds}"
    if options.make:
        command += f" --make {' '.join(options.make)}"
    report = Report(
        "first-answer", "From clone to first answer: the demo, on this machine", command
    )
    ways = []
    for _ in range(options.rounds):
        folder = Path(tempfile.mkdtemp(prefix="jumplora-first-answer-"))
        try:
            ways.append(walk(options.source, folder, options.make))
        finally:
            shutil.rmtree(folder)
    report.grids.append(grid(ways))
    report.notes.append(
        "Install: a new virtual environment, its packages by pip, and the kernels compiled."
        " Where pip's cache has the packages, nothing is downloaded."
    )
    report.data = {
        "seconds": [
            {"clone": way.clone, "install": way.install, "serve": way.serve, "all": way.total}
            for way in ways
        ]
    }
    report.show(console())
    if options.out is not None:
        report.write(options.out)


if __name__ == "__main__":
    main()
