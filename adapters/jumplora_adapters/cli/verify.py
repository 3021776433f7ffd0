"""`jumplora verify`: every check that a server makes before it serves a version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.completion import stored_tasks
from jumplora_adapters.cli.output import print_json, print_table, reported_errors, short
from jumplora_adapters.cli.sources import (
    SPEC_HELP,
    Source,
    every_source,
    find_source,
    open_catalogue,
)

if TYPE_CHECKING:
    from jumplora_adapters.backbone import Backbone
    from jumplora_adapters.catalogue import Catalogue
    from jumplora_adapters.manifest import Manifest


def verify(
    specs: Annotated[
        list[str] | None, typer.Argument(help=SPEC_HELP, autocompletion=stored_tasks)
    ] = None,
    *,
    backbone: options.Backbone,
    store: options.StoreOrNone = None,
    as_json: options.AsJson = False,
) -> None:
    """Make every check that a server makes; without SPEC of every version in the store.

    Exit code 1 if any adapter fails.
    """
    with reported_errors():
        from jumplora_adapters.backbone import read_backbone, resolve_backbone
        from jumplora_adapters.errors import NoPointer, StoreError

        if not specs and store is None:
            raise typer.BadParameter(
                "name an adapter, or give --store to check all of its versions"
            )
        sources = (
            [find_source(spec, store) for spec in specs]
            if specs
            else every_source(store, "all")
            if store
            else []
        )
        network = read_backbone(resolve_backbone(backbone))
        findings = [_check(source, network, store) for source in sources]
        if store and not specs:
            opened = open_catalogue(store)
            findings += [
                _finding(task, None) | {"task_id": task, "code": error.code, "message": str(error)}
                for task, error in (*opened.survey().items(), *opened.routings().items())
                if isinstance(error, StoreError) and not isinstance(error, NoPointer)
            ]
    sound = all(finding["ok"] for finding in findings)
    if as_json:
        print_json({"ok": sound, "adapters": findings})
    else:
        rows = [
            (
                str(finding["spec"]),
                short(str(finding["version"] or "")),
                "sound" if finding["ok"] else f"{finding['code']}: {finding['message']}",
            )
            for finding in findings
        ]
        print_table([("adapter", "fold"), ("version", "left"), ("result", "fold")], rows)
    if not sound:
        raise typer.Exit(1)


def _check(source: Source, backbone: Backbone, store: Path | None) -> dict[str, object]:
    """The outcome for one adapter; an error of the adapter is a finding, not the command's."""
    from jumplora_adapters.errors import AdapterError, FormatError
    from jumplora_adapters.format import read_adapter

    finding = _finding(source.spec, source.digest)
    try:
        adapter = read_adapter(
            source.path, backbone, expect_digest=source.digest, follow_links=source.digest is None
        )
        finding |= {"task_id": adapter.manifest.task, "version": adapter.digest}
        folder = source.path.parent.name
        if source.digest is not None and adapter.manifest.task != folder:
            raise FormatError(
                f"the manifest is of task {adapter.manifest.task!r}, the folder of {folder!r}",
                code="manifest",
            )
        if store is not None:
            _check_ancestors(adapter.manifest, open_catalogue(store), backbone)
    except AdapterError as error:
        return finding | {"code": error.code, "message": str(error)}
    except OSError as error:
        return finding | {"code": "io", "message": error.strerror or str(error)}
    return finding | {"ok": True}


def _finding(spec: str, version: str | None) -> dict[str, object]:
    return {
        "spec": spec,
        "task_id": None,
        "version": version,
        "ok": False,
        "code": None,
        "message": None,
    }


def _check_ancestors(manifest: Manifest, store: Catalogue, backbone: Backbone) -> None:
    """Raise MissingAncestor unless the whole lineage is in the store, for this backbone."""
    from jumplora_adapters.errors import MissingAncestor, UnknownVersion

    for ancestor in manifest.lineage:
        try:
            found = store.manifest(ancestor).backbone.fingerprint
        except UnknownVersion as error:
            raise MissingAncestor(f"ancestor {ancestor} is not in the store") from error
        if not backbone.knows(found):
            raise MissingAncestor(f"ancestor {ancestor} is for another backbone")
