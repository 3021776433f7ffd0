"""`jumplora generate`: ask a running server from the shell."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jumplora_adapters.cli.output import fail, print_json
from jumplora_server.cli.place import asking

DEFAULT_SERVER = "http://127.0.0.1:8000"


def generate(
    task: Annotated[str, typer.Argument(help='"task" or "task@version".')],
    text: Annotated[
        list[str] | None, typer.Argument(help="Texts; default, or -: one from each line of stdin.")
    ] = None,
    server: Annotated[
        str, typer.Option("--server", envvar="JUMPLORA_SERVER", help="Address of the server.")
    ] = DEFAULT_SERVER,
    key: Annotated[
        str | None, typer.Option("--key", envvar="JUMPLORA_KEY", help="An api key.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The texts are whole prompts: no template.")
    ] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="Default: the adapter's.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answers with their details.")
    ] = False,
) -> None:
    """Answer each text with a task's adapter, one line each."""
    texts = (
        text
        if text and text != ["-"]
        else [line.rstrip("\n") for line in sys.stdin if line.strip()]
    )
    if not texts:
        fail("give at least one text, as an argument or a line of stdin")
    parameters = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    with asking(server, key) as client:
        if raw:
            answers = client.generate_all(task, inputs=texts, parameters=parameters)
        else:
            answers = client.generate_all(task, text=texts, parameters=parameters)
    if as_json:
        print_json([answer.model_dump(mode="json") for answer in answers])
        return
    for answer in answers:
        typer.echo(answer.generated_text)
