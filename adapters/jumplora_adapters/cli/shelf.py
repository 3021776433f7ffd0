"""`jumplora list`: the store as a shelf of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import (
    change_name,
    print_json,
    print_table,
    reported_errors,
    share,
    short,
    size,
)
from jumplora_adapters.cli.sources import open_catalogue

if TYPE_CHECKING:
    from jumplora_adapters.catalogue import Catalogue
    from jumplora_adapters.errors import StoreError


def list_tasks(
    store: options.Store,
    task: Annotated[str | None, typer.Argument(help="Show this task's versions.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the tasks of a store and their current versions, or one task's history."""
    with reported_errors():
        opened = open_catalogue(store)
        if task is not None:
            entries = _history(opened, task)
        else:
            entries = [_entry(opened, task, found) for task, found in opened.survey().items()]
    if as_json:
        key = "adapters" if task is None else "history"
        print_json({"store": str(store), key: entries})
        return
    if task is not None:
        print_table(
            [("at", "left"), ("event", "left"), ("version", "left"), ("state", "left")],
            [
                (
                    str(entry["published_at"]),
                    change_name(str(entry["event"])),
                    short(str(entry["version"])),
                    str(entry["state"]),
                )
                for entry in reversed(entries)
            ],
        )
        return
    print_table(
        [
            ("task", "left"),
            ("version", "left"),
            ("stored", "right"),
            ("kind", "left"),
            ("density", "right"),
            ("lineage", "right"),
            ("size", "right"),
            ("created", "left"),
        ],
        [_row(entry) for entry in entries],
    )


def _entry(store: Catalogue, task: str, found: str | StoreError) -> dict[str, object]:
    """One task; one whose pointer or adapter cannot be read is listed with its error."""
    from jumplora_adapters.density import density_of
    from jumplora_adapters.errors import AdapterError

    entry: dict[str, object] = {"task_id": task, "version": None, "versions": None}
    try:
        if not isinstance(found, str):
            raise found
        version = found
        entry |= {"version": version, "versions": len(store.versions(task))}
        manifest = store.manifest(version)
        file_bytes = store.path_of(version).stat().st_size
    except AdapterError as error:
        return entry | {"error": {"code": error.code, "message": str(error)}}
    return entry | {
        "kind": manifest.kind,
        "method": manifest.method,
        "backbone": manifest.backbone.name,
        "density": density_of(manifest),
        "lineage": list(manifest.lineage),
        "file_bytes": file_bytes,
        "created": manifest.created,
    }


def _row(entry: dict[str, object]) -> tuple[str, ...]:
    head = (
        str(entry["task_id"]),
        short(str(entry["version"] or "-")),
        str(entry["versions"] or "-"),
    )
    match entry:
        case {"error": {"code": str(code)}}:
            return (*head, f"unreadable ({code})", "", "", "", "")
        case {"density": float(density), "lineage": list(lineage), "file_bytes": int(file_bytes)}:
            return (
                *head,
                str(entry["kind"]),
                share(density),
                str(len(lineage)),
                size(file_bytes),
                str(entry["created"])[:10],
            )
    return (*head, str(entry.get("kind")), "", "", "", "")


def _history(store: Catalogue, task: str) -> list[dict[str, object]]:
    """Changes of the pointer and of the routing, but for versions that were removed since."""
    stored = set(store.versions(task))
    entries = [entry for entry in store.changes(task) if entry.digest in stored]
    current, staged = store.current(task), store.routing(task).staged
    states = {staged.version: "staged"} if staged else {}
    states[current] = "current"
    # A rollback names a version again: its last line is the one that counts.
    last = {entry.digest: n for n, entry in enumerate(entries)}
    return [
        {
            "published_at": entry.published_at,
            "event": entry.event,
            "version": entry.digest,
            "state": states.get(entry.digest, "stored") if n == last[entry.digest] else "stored",
        }
        for n, entry in enumerate(entries)
    ]
