"""`jumplora canary`: a new version of an adapter, with canaries in its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.completion import stored_tasks
from jumplora_adapters.cli.convert import report
from jumplora_adapters.cli.output import fail, reported_errors, short
from jumplora_adapters.cli.sources import SPEC_HELP, find_source


def canary(
    spec: Annotated[
        str, typer.Argument(metavar="ADAPTER", help=SPEC_HELP, autocompletion=stored_tasks)
    ],
    rows: Annotated[
        Path,
        typer.Option(help="JSONL (or .gz) of text/label or input/target rows, 32 at most."),
    ],
    backbone: options.Backbone,
    out: options.Out,
    store: options.StoreOrNone = None,
    source_length: Annotated[
        int, typer.Option(min=1, help="Prompt limit in tokens; a longer canary is refused.")
    ] = 512,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the canaries that it has.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a copy of an adapter that has canaries: the same values, another version.

    Texts are rendered through the adapter's own prompt. The adapter is not run: whether it answers
    its canaries is seen with `jumplora evaluate` on the same rows.
    """
    with reported_errors():
        from jumplora_adapters.backbone import read_backbone, resolve_backbone
        from jumplora_adapters.canaries import check_lengths, read_canaries
        from jumplora_adapters.convert.draft import read_back
        from jumplora_adapters.format import read_adapter, write_adapter
        from jumplora_adapters.tokenizer import end_token, load_tokenizer

        source = find_source(spec, store)
        network = read_backbone(resolve_backbone(backbone))
        adapter = read_adapter(
            source.path, network, expect_digest=source.digest, follow_links=source.digest is None
        )
        manifest = adapter.manifest
        if manifest.canaries and not replace:
            fail(
                f"{spec} ({short(adapter.digest)}) has {len(manifest.canaries)} canaries already;"
                " --replace puts these in their place"
            )
        canaries = read_canaries(rows, manifest.prompt)
        tokenizer = load_tokenizer(network.path)
        check_lengths(canaries, tokenizer, end_token(network.path, tokenizer.raw), source_length)
        out.parent.mkdir(parents=True, exist_ok=True)
        digest = write_adapter(
            out,
            manifest.model_copy(update={"canaries": canaries, "backbone": network.ref()}),
            adapter.deltas,
            adapter.factors,
            adapter.profile,
        )
        written = read_back(out, digest, network)
    report([written], as_json=as_json)
