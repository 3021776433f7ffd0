"""`jumplora flatten`: one adapter without ancestors for what a lineage adds up to."""

from __future__ import annotations

from typing import Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.completion import stored_tasks
from jumplora_adapters.cli.convert import report
from jumplora_adapters.cli.draft import created_or_now, value_type
from jumplora_adapters.cli.output import reported_errors
from jumplora_adapters.cli.sources import open_store


def flatten(
    spec: Annotated[
        str,
        typer.Argument(help="task or task@version of --store.", autocompletion=stored_tasks),
    ],
    backbone: options.Backbone,
    store: options.Store,
    out: options.Out,
    task: Annotated[
        str | None, typer.Option("--task", help="Task id of the result, default the same.")
    ] = None,
    values: options.Values = "float32",
    created: options.Created = None,
    as_json: options.AsJson = False,
) -> None:
    """Sum an adapter with its ancestors into one masked adapter that needs none."""
    with reported_errors():
        from jumplora_adapters.backbone import read_backbone, resolve_backbone
        from jumplora_adapters.convert.flatten import flatten as run

        written = run(
            open_store(store),
            spec,
            read_backbone(resolve_backbone(backbone)),
            out,
            created=created_or_now(created),
            task=task,
            dtype=value_type(values),
        )
    report([written], as_json=as_json)
