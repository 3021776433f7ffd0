"""`jumplora rollback`, `remove`, `load` and `pin`: change what a store or a server has."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import print_json, reported_errors, short, warn
from jumplora_adapters.cli.sources import open_store
from jumplora_adapters.printable import printable
from jumplora_server.cli import place
from jumplora_server.cli.completion import task_ids
from jumplora_server.variables import DEFAULT_URL

if TYPE_CHECKING:
    from jumplora_server.api.adapter_schemas import AdapterDetail

TASK = Annotated[str, typer.Argument(help="Task id.", autocompletion=task_ids)]


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
    is_sure: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask on a terminal before it is gone.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove a task, or one old version; refused while another task's lineage needs it."""
    with reported_errors():
        where = place.place_of(context, server, store)
        asks = not is_sure and sys.stdin.isatty()
        if isinstance(where, Path):
            removed = _remove_from(where, task, version, asks=asks)
        elif version is None:
            removed = _remove_on(where, key, task, asks=asks)
        else:
            raise typer.BadParameter("a server removes whole tasks: --version needs --store")
    if as_json:
        print_json({"task_id": task, "removed": list(removed)})
    else:
        versions = ", ".join(map(short, removed)) or "without a version"
        typer.echo(printable(f"{task}: removed {versions}"))


def load(
    task: TASK,
    server: place.ServerOrDefault = DEFAULT_URL,
    key: place.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Have a server load a task's adapter now; a version that failed is tried again."""
    with place.asking(server, key) as client:
        found = client.load(task)
    _print_state(found, as_json=as_json)


def pin(
    task: TASK,
    server: place.ServerOrDefault = DEFAULT_URL,
    key: place.Key = None,
    off: Annotated[bool, typer.Option("--off", help="The adapter may leave memory again.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Have a server keep a task's adapter in memory until it restarts, or no longer."""
    with place.asking(server, key) as client:
        found = client.pin(task, "unpinned" if off else "pinned")
    if found.pinned and found.state != "READY":
        why = "it is not loaded yet" if found.failure is None else found.failure.message
        warn(
            f"{task} is pinned, but it is not in memory: {why}; to pin no longer, type "
            f"jumplora pin {task} --off"
        )
    _print_state(found, as_json=as_json)


def _print_state(found: AdapterDetail, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "task_id": found.task_id,
                "version": found.version,
                "state": found.state,
                "pinned": found.pinned,
            }
        )
    else:
        pinned = ", pinned" if found.pinned else ""
        version = short(found.version or found.desired or "no version")
        typer.echo(printable(f"{found.task_id}: {version} is {found.state}{pinned}"))


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


def _remove_from(store: Path, task: str, version: str | None, *, asks: bool) -> Sequence[str]:
    from jumplora_adapters.errors import StoreError, UnknownTask

    opened = open_store(store)
    if version is None:
        try:
            removed = opened.versions(task)
        except (StoreError, UnknownTask):  # removing mends that, or says that there is no such task
            removed = ()
        if asks:
            _confirm(task, removed, f"the store {store}")
        opened.remove(task)
        return removed
    _, digest = opened.resolve(f"{task}@{version}")
    if asks:
        _confirm(task, [digest], f"the store {store}")
    opened.remove_version(task, digest)
    return (digest,)


def _remove_on(server: str, key: str | None, task: str, *, asks: bool) -> Sequence[str]:
    with place.asking(server, key) as client:
        versions = client.adapter(task).history
        if asks:
            _confirm(task, versions, server)
        client.remove(task)
        return versions


def _confirm(task: str, versions: Sequence[str], where: str) -> None:
    """Ask before versions are removed; a no ends the command."""
    named = ", ".join(map(short, versions)) or "without a version"
    question = f"Remove {task} ({named}) from {where} for good?"
    typer.confirm(printable(question), abort=True, err=True)
