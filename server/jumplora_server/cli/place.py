"""Where a command reads or changes adapters: on a running server, or in a store folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from jumplora_adapters.cli.output import fail, note
from jumplora_server.variables import shown

if TYPE_CHECKING:
    from jumplora_server.client import Client, RequestFailed

KEY_HELP = "Default: JUMPLORA_KEY, for the server of JUMPLORA_SERVER."
NO_ADVICE: Mapping[str, str] = MappingProxyType({})

Server = Annotated[
    str | None,
    typer.Option("--server", envvar="JUMPLORA_SERVER", help="Address of a running server."),
]
ServerOrDefault = Annotated[
    str,
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
ReadStore = Annotated[
    Path | None,
    typer.Option(
        "--store",
        envvar="JUMPLORA_STORE",
        help="Folder of published adapters, instead of --server.",
    ),
]
# JUMPLORA_KEY is not given as envvar here: the client takes it, for the one server that may see it.
Key = Annotated[str | None, typer.Option("--key", help=f"With --server: an admin key. {KEY_HELP}")]
ApiKey = Annotated[str | None, typer.Option("--key", help=f"With --server: an api key. {KEY_HELP}")]


def place_of(context: typer.Context, server: str | None, store: Path | None) -> str | Path:
    """The server's address or the store's folder.

    A flag wins over the environment, and JUMPLORA_SERVER over JUMPLORA_STORE, which is said.
    """
    flags = {name for name in ("server", "store") if is_flag(context, name)}
    if len(flags) == 2:
        raise typer.BadParameter("give --server URL or --store FOLDER, not both")
    if server is not None and "store" not in flags:
        if store is not None and not flags:
            note(
                "JUMPLORA_SERVER and JUMPLORA_STORE are set: this is about the server "
                f"{shown(server)}; for the folder give --store"
            )
        return server
    if store is not None:
        return store
    fail(
        "give --server URL or --store FOLDER (or set JUMPLORA_SERVER or JUMPLORA_STORE); "
        "`jumplora serve` starts a server"
    )


def is_flag(context: typer.Context, name: str) -> bool:
    """Whether an option was given on the command line, and not by a variable."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@contextmanager
def asking(
    server: str,
    key: str | None,
    *,
    timeout: float = 120.0,
    retries: int = 2,
    advice: Mapping[str, str] = NO_ADVICE,
) -> Iterator[Client]:
    """A client of the server; what the server refuses ends the command with its reason.

    `advice` is what this command says of some reasons, beside the server's message.
    """
    from jumplora_server.client import Client

    with (
        explained(server, advice),
        Client(server, key=key, timeout=timeout, retries=retries) as client,
    ):
        yield client


@contextmanager
def explained(server: str, advice: Mapping[str, str] = NO_ADVICE) -> Iterator[None]:
    """End the command where a call failed, with the reason and the flag or command that helps."""
    from jumplora_server.client import KeyRefused, RequestFailed, TaskUnknown, Unreachable

    try:
        yield
    except Unreachable as error:
        _fail(
            error,
            "start a server with `jumplora serve`, or give the address of one by --server (or "
            "JUMPLORA_SERVER)",
        )
    except KeyRefused as error:
        _fail(
            error,
            "give a key that may do this by --key (JUMPLORA_KEY is sent only to JUMPLORA_SERVER)",
        )
    except TaskUnknown as error:
        is_version = error.code == "unknown_version"
        what = ("list TASK", "a task's versions") if is_version else ("list", "its tasks")
        _fail(error, f"`jumplora {what[0]} --server {server}` shows {what[1]}")
    except RequestFailed as error:
        _fail(error, advice.get(error.reason or "", ""))


def _fail(error: RequestFailed, advice: str = "") -> NoReturn:
    more = f"; {advice}" if advice else ""
    fail(f"error ({error.reason or error.code}): {error.message}{more}")
