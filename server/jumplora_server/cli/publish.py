"""`jumplora publish`: make an adapter file, or a whole run, live: in a store or on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import fail, print_json, reported_errors, short
from jumplora_adapters.cli.sources import read_head
from jumplora_adapters.printable import printable
from jumplora_server.cli import place

Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        envvar="JUMPLORA_BACKBONE",
        help="With --store: folder or hub id of the T5 to check the file for.",
    ),
]


def publish(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Adapter file (.safetensors).")],
    server: place.Server = None,
    store: place.Store = None,
    key: place.Key = None,
    backbone: Backbone = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Refuse the file if it is of another task.")
    ] = None,
    if_match: Annotated[
        str | None, typer.Option("--if-match", help="Only if this version is current now.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Publish an adapter: with --server it returns once the version answers requests."""
    with reported_errors():
        where = place.place_of(context, server, store)
        result = _put(file, where, key, backbone, task, if_match)
    if as_json:
        print_json(result)
    else:
        typer.echo(printable(_told(result)))


def publish_run(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder of a finished continual run.")],
    server: place.Server = None,
    store: place.Store = None,
    key: place.Key = None,
    backbone: Backbone = None,
    as_json: options.AsJson = False,
) -> None:
    """Publish a run: each task as its prefix snapshot, through its lineage, and the merged model.

    Task by task in the order of training. Where one is refused, those before it stay published.
    """
    from jumplora_adapters.continual.shipment import parcels_of

    results: list[dict[str, str]] = []
    try:
        with reported_errors():
            where = place.place_of(context, server, store)
            for parcel in parcels_of(run):
                results.append(_put(parcel.path, where, key, backbone, parcel.task, None))
                if not as_json:
                    typer.echo(printable(_told(results[-1])))
    finally:  # those before a refusal are live
        if as_json:
            print_json(results)


def _put(
    file: Path,
    where: str | Path,
    key: str | None,
    backbone: str | None,
    task: str | None,
    if_match: str | None,
) -> dict[str, str]:
    if isinstance(where, str):
        return _to_server(file, where, key, task or read_head(file).task, if_match)
    if backbone is None:
        fail("--store needs --backbone (or JUMPLORA_BACKBONE): the file is checked for it")
    return _into_store(file, where, backbone, task, if_match)


def _told(result: dict[str, str]) -> str:
    return f"{result['task_id']}: {result['outcome']} {short(result['version'])}"


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
        "version": put.version or put.desired or "",
        "outcome": put.outcome,
        "server": server,
    }
