"""`jumplora stage`, `promote`, `unstage` and `alias`: what is asked beside the current version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import print_json, reported_errors, short
from jumplora_adapters.cli.sources import open_store
from jumplora_adapters.printable import printable
from jumplora_adapters.routing import MAX_SECONDS
from jumplora_server.cli import place
from jumplora_server.cli.change import TASK

if TYPE_CHECKING:
    from jumplora_server.api.adapter_schemas import AdapterDetail

VERSION_HELP = "Version (8 digits or more), or a name of it."
Meant = Annotated[
    str | None,
    typer.Option("--version", help="Only if this is the staged version (8 digits or more)."),
]


def stage(
    context: typer.Context,
    task: TASK,
    version: Annotated[str, typer.Argument(help=VERSION_HELP)],
    share: Annotated[
        float,
        typer.Option("--share", min=0, max=1, help="Of the task's requests; 0: by name only."),
    ],
    server: place.Server = None,
    store: place.Store = None,
    key: place.Key = None,
    promote_after: Annotated[
        float | None,
        typer.Option(
            "--promote-after",
            min=0,
            max=MAX_SECONDS,
            metavar="SECONDS",
            help="Make it current by itself after so long without a fault.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Give a stored version a share of a task's requests, beside the current one."""
    with reported_errors():
        where = place.place_of(context, server, store)
        if isinstance(where, Path):
            opened = open_store(where)
            digest = opened.resolve(f"{task}@{version}")[1]
            opened.stage(task, digest, share, promote_after=promote_after)
        else:
            with place.asking(where, key, timeout=600.0) as client:
                digest = _staged(client.stage(task, version, share, promote_after))
    if as_json:
        print_json({"task_id": task, "staged": digest, "share": share})
    else:
        typer.echo(printable(f"{task}: {short(digest)} is staged with a share of {share:g}"))


def promote(
    context: typer.Context,
    task: TASK,
    server: place.Server = None,
    store: place.Store = None,
    key: place.Key = None,
    version: Meant = None,
    as_json: options.AsJson = False,
) -> None:
    """Make the staged version of a task the current one."""
    with reported_errors():
        where = place.place_of(context, server, store)
        if isinstance(where, Path):
            opened = open_store(where)
            digest = opened.promote(task, opened.meant(task, version))
        else:
            with place.asking(where, key, timeout=600.0) as client:
                digest = client.promote(task, version).desired or ""
    if as_json:
        print_json({"task_id": task, "version": digest})
    else:
        typer.echo(printable(f"{task}: {short(digest)} is the current version now"))


def unstage(
    context: typer.Context,
    task: TASK,
    server: place.Server = None,
    store: place.Store = None,
    key: place.Key = None,
    version: Meant = None,
    note: Annotated[str, typer.Option("--note", help="Why, for the task's history.")] = "",
    as_json: options.AsJson = False,
) -> None:
    """Give the staged version of a task no requests any more; it stays in the store."""
    with reported_errors():
        where = place.place_of(context, server, store)
        if isinstance(where, Path):
            opened = open_store(where)
            opened.unstage(task, opened.meant(task, version), note=note)
        else:
            with place.asking(where, key) as client:
                client.unstage(task, version, note=note)
    if as_json:
        print_json({"task_id": task, "staged": None})
    else:
        typer.echo(printable(f"{task}: no version is staged any more"))


def alias(
    context: typer.Context,
    task: TASK,
    name: Annotated[str, typer.Argument(help="What the version is to be called: task@name.")],
    version: Annotated[str | None, typer.Argument(help=VERSION_HELP)] = None,
    server: place.Server = None,
    store: place.Store = None,
    key: place.Key = None,
    off: Annotated[bool, typer.Option("--off", help="The name means nothing any more.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Call a version of a task by a name, as in task@champion."""
    if off == (version is not None):
        raise typer.BadParameter("give a version, or --off to take the name away")
    with reported_errors():
        where = place.place_of(context, server, store)
        if isinstance(where, Path):
            opened = open_store(where)
            digest = opened.meant(task, version)
            opened.alias(task, name, digest)
        else:
            with place.asking(where, key) as client:
                digest = client.alias(task, name, version).aliases.get(name)
    if as_json:
        print_json({"task_id": task, "alias": name, "version": digest})
    else:
        means = "means nothing any more" if digest is None else f"is {short(digest)}"
        typer.echo(printable(f"{task}@{name} {means}"))


def _staged(found: AdapterDetail) -> str:
    return "" if found.staged is None else found.staged.version
