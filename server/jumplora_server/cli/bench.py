"""`jumplora bench ...`: measurements. Only options here; everything heavy inside the commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jumplora_adapters.cli.output import reported_errors

if TYPE_CHECKING:
    from jumplora_server.bench.report import Report

_Option = typer.Option
Shape = Annotated[Literal["base", "large", "tiny"], _Option(help="T5's sizes; tiny only to try.")]


class Dtype(StrEnum):
    """Arithmetic of our engine's linear layers; an enum because typer's lists take no Literal."""

    FLOAT32 = "float32"
    INT8 = "int8"
    BFLOAT16 = "bfloat16"


Threads = Annotated[int, _Option(min=0, help="CPU threads of every program (0: torch's default).")]
Out = Annotated[
    Path | None, _Option("--out", help="Folder for the result as JSON, markdown and plots.")
]


def group() -> typer.Typer:
    """The group; the commands need the extra `bench` for what they compare with and for plots."""
    app = typer.Typer(
        help="Measure the engine, a server under load, and adapters (extra `bench`).",
        no_args_is_help=True,
    )
    app.command("engine")(engine)
    return app


def engine(
    context: typer.Context,
    shape: Shape = "base",
    rows: Annotated[int, _Option(min=1, help="Prompts computed together.")] = 8,
    source: Annotated[int, _Option(min=2, help="Tokens of each prompt.")] = 128,
    new: Annotated[int, _Option(min=1, help="Tokens to generate.")] = 16,
    rounds: Annotated[int, _Option(min=1, help="Measured rounds after the warm-up.")] = 7,
    dtype: Annotated[
        list[Dtype] | None, _Option(help="Of our engine, again for more; default float32, int8.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], _Option(help="Where all compute.")] = "cpu",
    threads: Threads = 0,
    case: Annotated[
        list[str] | None, _Option(help='Only these cases, by pattern: "ours*fp32". Again for more.')
    ] = None,
    adapterhub_python: Annotated[
        Path | None,
        _Option(help="Interpreter with the packages adapters and torch: its BatchSplit runs too."),
    ] = None,
    out: Out = None,
) -> None:
    """Offline, in turn: transformers, PEFT, AdapterHub, CTranslate2, ours; medians and ratios."""
    with reported_errors(), _laps() as (on_start, on_lap):
        from jumplora_server.bench.engine import EnginePlan, measure_engine

        plan = EnginePlan(
            shape=shape,
            rows=rows,
            source=source,
            new=new,
            rounds=rounds,
            dtypes=tuple(map(str, dtype or (Dtype.FLOAT32, Dtype.INT8))),
            device=device,
            threads=threads,
            cases=tuple(case or ("*",)),
            hub_python=adapterhub_python,
        )
        report = measure_engine(plan, command_line(context), on_start=on_start, on_lap=on_lap)
    _tell(report, out)


def command_line(context: typer.Context) -> str:
    """The command as it was given, without the path of the program."""
    words = context.command_path.rpartition("/")[2].split()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[parameter.name or ""]
        for each in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0], str(each)]
    return shlex.join(words)


@contextmanager
def _laps() -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """Yields what to tell how many laps there are, and what to tell each lap's case."""
    from jumplora_adapters.cli.progress import progress_bar

    bar = progress_bar()
    line = bar.add_task("building", total=None, state="")
    passed = 0

    def on_start(total: int) -> None:
        bar.update(line, description="laps", total=total)

    def on_lap(name: str) -> None:  # before it runs
        nonlocal passed
        bar.update(line, completed=passed, state=name)
        passed += 1

    with bar:
        yield on_start, on_lap
        bar.update(line, completed=passed, state="")


def _tell(report: Report, out: Path | None) -> None:
    from jumplora_server.bench.report import console

    report.show(console())
    if out is not None:
        with reported_errors():
            report.write(out)
        typer.echo(f"written to {out}")
