"""`jumplora batch`: answers to all rows of a file, by a server or by an engine in this process."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli.output import fail, note, reported_errors, warn
from jumplora_adapters.printable import counted, printable
from jumplora_server.cli import place
from jumplora_server.cli.completion import task_ids
from jumplora_server.variables import DEFAULT_URL, shown

if TYPE_CHECKING:
    from jumplora_server.batch.rows import Defaults
    from jumplora_server.batch.run import Answers, OnRows, Opened, Tally

_Option = typer.Option
_ENGINE = "Offline engine"
_ASKED = "Server"
_STOPPED = 130  # as shells have it for Ctrl-C
STREAM = Path("-")
_SHOWN_SECONDS = 0.1


def batch(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            help='JSONL (or .gz), a row {"task_id", "text"} or {"task_id", "inputs"} a line, also '
            'with "id", "parameters", "choices"; - reads stdin.'
        ),
    ],
    out: Annotated[
        Path,
        _Option("--out", help="JSONL of the answers, one line a row; - writes to stdout."),
    ],
    task: Annotated[
        str | None,
        _Option("--task", help='Task of rows without "task_id".', autocompletion=task_ids),
    ] = None,
    choices: Annotated[
        bool,
        _Option("--choices", help="Choose from the options of the adapter's prompt."),
    ] = False,
    max_new_tokens: Annotated[
        int | None, _Option("--max-new-tokens", min=1, help="Default: the adapter's.")
    ] = None,
    overwrite: Annotated[
        bool, _Option("--overwrite", help="Begin again, where --out has answers already.")
    ] = False,
    quiet: Annotated[bool, _Option("--quiet", help="No progress bar.")] = False,
    server: Annotated[
        str | None,
        _Option(
            "--server",
            envvar="JUMPLORA_SERVER",
            help=f"Address of the server that answers, {DEFAULT_URL} without an engine.",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    key: Annotated[
        str | None,
        _Option("--key", help=f"An api key. {place.KEY_HELP}", rich_help_panel=_ASKED),
    ] = None,
    concurrency: Annotated[
        int, _Option(min=1, max=64, help="Requests at a time.", rich_help_panel=_ASKED)
    ] = 4,
    backbone: Annotated[
        str | None,
        _Option(
            "--backbone",
            envvar="JUMPLORA_BACKBONE",
            help="Folder or hub id of the T5, with --store instead of a server.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    store: Annotated[
        Path | None,
        _Option(
            "--store",
            envvar="JUMPLORA_STORE",
            help="Folder of published adapters.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        _Option(
            "--dtype",
            metavar="float32|bfloat16|int8",
            help="Arithmetic of the backbone's linear layers.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    device: Annotated[
        str | None,
        _Option(
            "--device",
            metavar="cpu|cuda",
            help="Where the engine computes.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    max_rows: Annotated[
        int | None,
        _Option("--max-rows", help="Rows computed at a time.", rich_help_panel=_ENGINE),
    ] = None,
    threads: Annotated[
        int | None, _Option("--threads", help="CPU threads.", rich_help_panel=_ENGINE)
    ] = None,
) -> None:
    """Answer all rows of a file, of many tasks if you like, on a server or without one.

    Answers are written in the order of the rows. Where --out has some already, the command
    continues behind them and asks the rows that failed again. Exit code 1 if a row failed.

    Without a server, an engine in this process answers: give --backbone and --store. The other
    settings of `jumplora serve` hold for it as variables, such as JUMPLORA_ADAPTER_BUDGET_BYTES.
    """
    parameters: dict[str, object] = {"choices": True} if choices else {}
    if max_new_tokens is not None:
        parameters["max_new_tokens"] = max_new_tokens
    with reported_errors():
        from jumplora_server.batch.journal import part_of
        from jumplora_server.batch.rows import Defaults

        if out != STREAM and file.resolve() in (out.resolve(), part_of(out.resolve())):
            raise typer.BadParameter(
                f"--out {out} would write over the rows themselves: give another file"
            )
        where = _where(context, server, backbone, store)
        if isinstance(where, str):
            opened = _on_server(where, key, concurrency)
        else:
            flags = {"dtype": dtype, "device": device, "max_rows": max_rows, "threads": threads}
            opened = _offline(*where, {n: str(v) for n, v in flags.items() if v is not None})
        tally = _run(
            opened, file, out, Defaults(task, parameters), overwrite=overwrite, quiet=quiet
        )
    _conclude(tally, out)


def _where(
    context: typer.Context, server: str | None, backbone: str | None, store: Path | None
) -> str | tuple[str, Path]:
    """The server's address, or backbone and store of an engine here. As `place.place_of`."""
    flags = {n for n in ("server", "backbone", "store") if place.is_flag(context, n)}
    if "server" in flags and len(flags) > 1:
        raise typer.BadParameter("give --server URL, or --backbone and --store, not both")
    if server is not None and not flags - {"server"}:
        if not flags and backbone is not None and store is not None:
            note(
                f"JUMPLORA_SERVER, JUMPLORA_BACKBONE and JUMPLORA_STORE are set: the server "
                f"{shown(server)} answers; for an engine in this process give --store"
            )
        return server
    if backbone is not None and store is not None:
        return backbone, store
    if flags:
        missing, variable = (
            ("--backbone", "JUMPLORA_BACKBONE")
            if backbone is None
            else ("--store", "JUMPLORA_STORE")
        )
        raise typer.BadParameter(f"an engine in this process needs {missing} (or {variable}) too")
    return DEFAULT_URL


def _on_server(address: str, key: str | None, concurrency: int) -> Opened:
    from jumplora_server.batch.remote import remote
    from jumplora_server.client import AsyncClient

    @asynccontextmanager
    async def asked() -> AsyncGenerator[Answers]:
        with place.explained(address):  # what would be refused of all rows ends the command
            async with AsyncClient(address, key=key, retries=0) as client:
                await client.info()  # a server that is not there is said at once
            async with AsyncClient(address, key=key) as client:
                yield partial(remote, client, concurrency)

    return asked


def _offline(backbone: str, store: Path, flags: dict[str, str]) -> Opened:
    """Builds an engine. Ends the command where the settings are wrong or it cannot be built."""
    from jumplora_adapters.cli.sources import open_catalogue
    from jumplora_server import logs
    from jumplora_server.batch.offline import offline, offline_settings
    from jumplora_server.settings import SettingsError

    open_catalogue(store)  # a server would make an empty one
    try:
        settings = offline_settings(backbone=backbone, store=str(store), **flags)
    except SettingsError as error:
        fail("\n".join(error.lines))

    @asynccontextmanager
    async def built() -> AsyncGenerator[Answers]:
        # Rows say which task does not load; that an engine starts and ends needs no line.
        is_asked = "log_level" in settings.model_fields_set
        logs.configure(settings.log_format, settings.log_level if is_asked else "error")
        from jumplora_server.app import STARTUP_ERRORS, assemble

        try:
            parts = assemble(settings)
        except STARTUP_ERRORS as error:
            fail(f"the engine cannot start: {error}")
        async with offline(parts) as answers:
            yield answers

    return built


@dataclass(slots=True)
class _Start:
    """When there was something that answers rows: an engine takes seconds to build."""

    at: float | None = None


def _run(
    opened: Opened, file: Path, out: Path, defaults: Defaults, *, overwrite: bool, quiet: bool
) -> Tally:
    from jumplora_server.batch import rows
    from jumplora_server.batch.run import Run, Tally, on_demand

    tally, start = Tally(), _Start()
    if out != STREAM:
        out.parent.mkdir(parents=True, exist_ok=True)

    @asynccontextmanager
    async def timed() -> AsyncGenerator[Answers]:
        async with opened() as answers:
            start.at = time.monotonic()
            yield answers

    async def answer_all(on_rows: OnRows) -> None:
        with rows.opened(file) as lines:
            async with on_demand(timed) as answers:
                run = Run(file, rows.read_lines(lines, defaults), answers, on_rows, tally)
                if out == STREAM:
                    await run.onto(sys.stdout.buffer)
                else:
                    await run.into(out, overwrite=overwrite)

    try:
        with _progress(file, rows.count_rows(file), start, quiet=quiet) as on_rows:
            asyncio.run(answer_all(on_rows))
    except KeyboardInterrupt:
        again = "the command without --overwrite" if overwrite else "the same command"
        more = "" if out == STREAM else f"; {again} continues {out}"
        warn(f"stopped after {counted(tally.rows, 'row')}{more}")
        raise typer.Exit(_STOPPED) from None
    return tally


@contextmanager
def _progress(file: Path, total: int | None, start: _Start, *, quiet: bool) -> Iterator[OnRows]:
    """A bar with rows, rows a second and failures; it appears with the first answer."""
    from jumplora_adapters.cli.progress import progress_bar

    bar = progress_bar()
    line = bar.add_task(file.name, total=total, state="")
    shown = 0.0

    def show(tally: Tally) -> None:
        seconds = 0.0 if start.at is None else time.monotonic() - start.at
        rate = f"{(tally.answered + tally.failed) / seconds:,.0f} rows/s" if seconds else ""
        failed = f", {tally.failed:,} failed" if tally.failed else ""
        bar.update(line, completed=tally.rows, state=f"{rate}{failed}")

    last: Tally | None = None

    def on_rows(tally: Tally) -> None:
        nonlocal shown, last
        last, now = tally, time.monotonic()
        if now - shown >= _SHOWN_SECONDS:
            if not (quiet or bar.live.is_started):
                bar.start()
            shown = now
            show(tally)

    try:
        yield on_rows
    finally:
        if last is not None:
            show(last)
        if bar.live.is_started:  # else it would print an empty line
            bar.stop()


def _conclude(tally: Tally, out: Path) -> None:
    """Say what came of it on stderr; exit code 1 where a row failed."""
    where = "" if out == STREAM else f" in {out}"
    kept = f", {tally.kept:,} of them by an earlier run" if tally.kept else ""
    answered = f"{counted(tally.kept + tally.answered, 'row')} answered{where}{kept}"
    if not tally.failed:
        typer.echo(printable(answered), err=True)
        return
    for line, failure in tally.failures:
        warn(f"line {line} failed ({failure.code}): {failure.message}")
    again = "" if out == STREAM else "; the same command asks them again"
    fail(f"{answered}; {counted(tally.failed, 'row')} failed{again}")
