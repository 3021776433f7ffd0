"""`jumplora rollback` and `remove`: take back what was published, on a server or in a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import print_json, reported_errors, short
from jumplora_adapters.cli.sources import open_store
from jumplora_adapters.printable import printable
from jumplora_server.cli import place

TASK = Annotated[str, typer.Argument(help="Task id.")]


def rollback(
    context: typer.Context,
    task: TASK,
    server: place.Server = None,
    store: place.Store = None,
    key: place.Key = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Version (8 digits or more), default the last one.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make an earlier version of a task current again; servers follow a store within seconds."""
    with reported_errors():
        where = place.place_of(context, server, store)
        before, after = (
            _roll_back_in(where, task, to)
            if isinstance(where, Path)
            else _roll_back_on(where, key, task, to)
        )
    if as_json:
        print_json({"task_id": task, "version": after, "previous": before})
    else:
        typer.echo(printable(f"{task}: {short(before)} -> {short(after)}"))


def remove(
    context: typer.Context,
    task: TASK,
    server: place.Server = None,
    store: place.Store = None,
    key: place.Key = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            help="With --store: only this version (8 digits or more), not the whole task.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Remove a task, or one old version; refused while another task's lineage needs it."""
    with reported_errors():
        where = place.place_of(context, server, store)
        if isinstance(where, Path):
            removed = _remove_from(where, task, version)
        elif version is None:
            removed = _remove_on(where, key, task)
        else:
            raise typer.BadParameter("a server removes whole tasks: --version needs --store")
    if as_json:
        print_json({"task_id": task, "removed": list(removed)})
    else:
        versions = ", ".join(map(short, removed)) or "without a version"
        typer.echo(printable(f"{task}: removed {versions}"))


def _roll_back_in(store: Path, task: str, to: str | None) -> tuple[str, str]:
    """(version before, version after)."""
    from jumplora_adapters.errors import StoreError, UnknownTask

    opened = open_store(store)
    try:
        before = opened.current(task)
    except (StoreError, UnknownTask):  # a rollback mends that, or says that there is no such task
        before = "damaged"
    wanted = None if to is None else opened.resolve(f"{task}@{to}")[1]
    return before, opened.rollback(task, wanted)


def _roll_back_on(server: str, key: str | None, task: str, to: str | None) -> tuple[str, str]:
    with place.asking(server, key) as client:
        before = client.adapter(task).desired
        return before or "nothing", client.rollback(task, to).desired or "nothing"


def _remove_from(store: Path, task: str, version: str | None) -> Sequence[str]:
    from jumplora_adapters.errors import StoreError, UnknownTask

    opened = open_store(store)
    if version is None:
        try:
            removed = opened.versions(task)
        except (StoreError, UnknownTask):  # removing mends that, or says that there is no such task
            removed = ()
        opened.remove(task)
        return removed
    _, digest = opened.resolve(f"{task}@{version}")
    opened.remove_version(task, digest)
    return (digest,)


def _remove_on(server: str, key: str | None, task: str) -> Sequence[str]:
    with place.asking(server, key) as client:
        versions = client.adapter(task).history
        client.remove(task)
        return versions
