"""`jumplora publish`: make an adapter file live, in a store folder or on a running server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jumplora_adapters.cli.output import fail, print_json, reported_errors, short


def publish(
    file: Annotated[Path, typer.Argument(help="Adapter file (.safetensors).")],
    server: Annotated[
        str | None,
        typer.Option("--server", envvar="JUMPLORA_SERVER", help="Address of a running server."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Store folder; servers that watch it follow.")
    ] = None,
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
    key: Annotated[
        str | None,
        typer.Option("--key", envvar="JUMPLORA_KEY", help="With --server: an admin key."),
    ] = None,
    if_match: Annotated[
        str | None, typer.Option("--if-match", help="Only if this version is current now.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Publish an adapter: with --server it returns once the version answers requests."""
    with reported_errors():
        if store is not None:  # a flag, so it wins over an address from the environment
            if backbone is None:
                fail("--store needs --backbone (or JUMPLORA_BACKBONE): the file is checked for it")
            result = _into_store(file, store, backbone, task, if_match)
        elif server is not None:
            result = _to_server(file, server, key, task, if_match)
        else:
            fail("give --server URL or --store FOLDER")
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
    file: Path, server: str, key: str | None, task: str | None, if_match: str | None
) -> dict[str, str]:
    from jumplora_adapters.format import read_manifest
    from jumplora_server.client import Client, RequestFailed

    named = read_manifest(file).task
    try:
        with Client(server, key=key, timeout=600.0) as client:
            put = client.put(task or named, file, if_match=if_match)
    except RequestFailed as error:
        fail(f"error ({error.reason or error.code}): {error.message}")
    return {
        "task_id": put.task_id,
        "version": put.version or put.desired,
        "outcome": put.outcome,
        "server": server,
    }
