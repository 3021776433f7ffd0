"""`python -m jumplora_bench.reliability PART`: only options here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from jumplora_adapters.cli.progress import progress_bar
from jumplora_bench.cli import command_line
from jumplora_bench.reliability.chaos import ChaosPlan, measure_chaos
from jumplora_bench.reliability.connections import ConnectionsPlan, measure_connections
from jumplora_bench.reliability.costly import CostlyPlan, measure_costly
from jumplora_bench.reliability.entries import EntriesPlan, measure_entries
from jumplora_bench.reliability.fuzz import FuzzPlan, measure_fuzz
from jumplora_bench.reliability.tasks import TasksPlan, measure_tasks
from jumplora_bench.reliability.uploads import UploadsPlan, measure_uploads
from jumplora_bench.report import Report, console

ROOT = Path(__file__).parents[3]
_Option = typer.Option
Backbone = Annotated[Path, _Option(help="A T5 folder.")]
Python = Annotated[
    Path | None, _Option(help="Interpreter whose server is tried; default: this one's.")
]
Seed = Annotated[int, _Option(help="Of everything that is random.")]
Out = Annotated[Path | None, _Option("--out", help="Folder for the result, JSON and markdown.")]
DEMO = ROOT / "adapters/demo/backbone"

app = typer.Typer(no_args_is_help=True)


@app.command()
def uploads(
    context: typer.Context,
    count: Annotated[int, _Option(min=1, help="Uploads, kinds in turn.")] = 700,
    python: Python = None,
    backbone: Backbone = DEMO,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Send crafted adapter files to a live server beside traffic of other tasks."""
    with _bar("uploads") as (on_done, on_state):
        plan = UploadsPlan(backbone, _python(python), count, seed)
        report = measure_uploads(plan, command_line(context), on_done, on_state)
    _tell(report, out)


@app.command()
def entries(
    context: typer.Context,
    count: Annotated[int, _Option(min=0, help="The first so many kinds (0: all).")] = 0,
    python: Python = None,
    backbone: Backbone = DEMO,
    out: Out = None,
) -> None:
    """Drop odd entries into the store of a live server; put each right by files, then by HTTP."""
    with _bar("entries") as (on_done, on_state):
        plan = EntriesPlan(backbone, _python(python), count)
        report = measure_entries(plan, command_line(context), on_done, on_state)
    _tell(report, out)


@app.command()
def chaos(
    context: typer.Context,
    swaps: Annotated[int, _Option(min=1, help="Hot swaps under load.")] = 300,
    reloads: Annotated[int, _Option(min=1, help="Rounds of DELETE and PUT under load.")] = 30,
    python: Python = None,
    backbone: Backbone = DEMO,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Swap versions under load, kill publishers and servers, hold the lock, take the store away."""
    with _bar("chaos") as (on_done, on_state):
        plan = ChaosPlan(backbone, _python(python), swaps, reloads, seed)
        report = measure_chaos(plan, command_line(context), on_done, on_state)
    _tell(report, out)


@app.command()
def tasks(
    context: typer.Context,
    count: Annotated[int, _Option(min=1, help="Registered tasks.")] = 1000,
    python: Annotated[
        list[Path] | None, _Option(help="Interpreters to measure in turn; default: this one.")
    ] = None,
    density: Annotated[float, _Option(min=0.001, max=1.0, help="Of each adapter.")] = 0.165,
    asks: Annotated[int, _Option(min=1, help="Random tasks that are asked while it loads.")] = 8,
    rounds: Annotated[int, _Option(min=1, help="Starts of each server.")] = 3,
    store: Annotated[
        Path | None, _Option(help="Keep the published tasks here, or take those there.")
    ] = None,
    backbone: Backbone = DEMO,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Start a server with many registered tasks; time listening, answers, all READY, the list."""
    plan = TasksPlan(
        backbone, _pythons(python), count, density, asks, rounds, seed, store and store.absolute()
    )
    with _bar("tasks") as (_, on_state):
        report = measure_tasks(plan, command_line(context), on_state)
    _tell(report, out)


@app.command()
def fuzz(
    context: typer.Context,
    count: Annotated[int, _Option(min=10, help="Requests; half of them schemathesis'.")] = 10_000,
    python: Python = None,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Send odd requests of many kinds to a live server beside a quiet task."""
    with _bar("fuzz") as (on_done, on_state):
        plan = FuzzPlan(_python(python), count, seed)
        report = measure_fuzz(plan, command_line(context), on_done, on_state)
    _tell(report, out)


@app.command()
def connections(
    context: typer.Context,
    seconds: Annotated[float, _Option(min=1, help="Of each crowd.")] = 30,
    python: Python = None,
    out: Out = None,
) -> None:
    """Hold thousands of connections that ask for nothing, or never end, beside a quiet task."""
    with _bar("connections") as (on_done, on_state):
        plan = ConnectionsPlan(_python(python), seconds)
        report = measure_connections(plan, command_line(context), on_done, on_state)
    _tell(report, out)


@app.command()
def costly(
    context: typer.Context,
    seconds: Annotated[float, _Option(min=1, help="Of each flood.")] = 30,
    python: Python = None,
    out: Out = None,
) -> None:
    """Send what is cheap to send and dear to handle, as fast as it is answered."""
    with _bar("costly") as (on_done, on_state):
        plan = CostlyPlan(_python(python), seconds)
        report = measure_costly(plan, command_line(context), on_done, on_state)
    _tell(report, out)


@app.callback()
def main() -> None:
    """What a running server makes of faults. The exit status is 1 where it fails a check."""


def _python(given: Path | None) -> Path:
    return _pythons([given] if given else None)[0]


def _pythons(given: list[Path] | None) -> tuple[Path, ...]:
    # Not resolved: a virtual environment's interpreter is a link that must keep its place.
    return tuple(path.absolute() for path in given or [Path(sys.executable)])


@contextmanager
def _bar(name: str) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """Yields what to tell (done, total), and what to tell what is done now."""
    bar = progress_bar()
    line = bar.add_task(name, total=None, state="")
    with bar:
        yield (
            lambda done, total: bar.update(line, completed=done, total=total),
            lambda state: bar.update(line, state=state),
        )


def _tell(report: Report, out: Path | None) -> None:
    report.show(console())
    if out is not None:
        report.write(out)
        typer.echo(f"written to {out}")
    if report.data.get("faults"):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
