"""Where a command changes adapters: on a running server, or in a store folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli.output import fail

if TYPE_CHECKING:
    from jumplora_server.client import Client

Server = Annotated[
    str | None,
    typer.Option("--server", envvar="JUMPLORA_SERVER", help="Address of a running server."),
]
Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        envvar="JUMPLORA_STORE",
        help="Store folder, instead of --server; servers that watch it follow.",
    ),
]
Key = Annotated[
    str | None, typer.Option("--key", envvar="JUMPLORA_KEY", help="With --server: an admin key.")
]


def place_of(context: typer.Context, server: str | None, store: Path | None) -> str | Path:
    """The server's address or the store's folder.

    A flag wins over the environment, and JUMPLORA_SERVER over JUMPLORA_STORE.
    """
    flags = {name for name in ("server", "store") if _is_flag(context, name)}
    if len(flags) == 2:
        raise typer.BadParameter("give --server URL or --store FOLDER, not both")
    if server is not None and "store" not in flags:
        return server
    if store is not None:
        return store
    fail("give --server URL or --store FOLDER")


def _is_flag(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@contextmanager
def asking(
    server: str, key: str | None, *, timeout: float = 120.0, retries: int = 2
) -> Iterator[Client]:
    """A client of the server; what the server refuses ends the command with its reason."""
    from jumplora_server.client import Client, RequestFailed

    try:
        with Client(server, key=key, timeout=timeout, retries=retries) as client:
            yield client
    except RequestFailed as error:
        fail(f"error ({error.reason or error.code}): {error.message}")
