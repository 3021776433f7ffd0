"""`jumplora publish`: make an adapter file live, in a store folder or on a running server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jumplora_adapters.cli.output import fail, print_json, reported_errors, short
from jumplora_adapters.cli.sources import read_head
from jumplora_server.cli import place


def publish(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Adapter file (.safetensors).")],
    server: place.Server = None,
    store: place.Store = None,
    key: place.Key = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            envvar="JUMPLORA_BACKBONE",
            help="With --store: folder or hub id of the T5 to check the file for.",
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Refuse the file if it is of another task.")
    ] = None,
    if_match: Annotated[
        str | None, typer.Option("--if-match", help="Only if this version is current now.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Publish an adapter: with --server it returns once the version answers requests."""
    with reported_errors():
        where = place.place_of(context, server, store)
        named = read_head(file).task
        if isinstance(where, str):
            result = _to_server(file, where, key, task or named, if_match)
        elif backbone is None:
            fail("--store needs --backbone (or JUMPLORA_BACKBONE): the file is checked for it")
        else:
            result = _into_store(file, where, backbone, task, if_match)
    if as_json:
        print_json(result)
    else:
        typer.echo(f"{result['task_id']}: {result['outcome']} {short(result['version'])}")


def _into_store(
    file: Path, store: Path, backbone: str, task: str | None, if_match: str | None
) -> dict[str, str]:
    from jumplora_adapters.backbone import read_backbone, resolve_backbone
    from jumplora_adapters.store import Store

    known = read_backbone(resolve_backbone(backbone))
    published = Store(store).publish(file, known, expect_task=task, if_match=if_match)
    return {
        "task_id": published.task,
        "version": published.digest,
        "outcome": published.outcome,
        "store": str(store),
    }


def _to_server(
    file: Path, server: str, key: str | None, task: str, if_match: str | None
) -> dict[str, str]:
    with place.asking(server, key, timeout=600.0) as client:
        put = client.put(task, file, if_match=if_match)
    return {
        "task_id": put.task_id,
        "version": put.version or put.desired,
        "outcome": put.outcome,
        "server": server,
    }
