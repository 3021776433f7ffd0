"""`jumplora list`: the store as a shelf of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import (
    ColumnStyle,
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
    is_staged = any(entry["staged"] for entry in entries)  # a column that few stores need
    staged: list[tuple[str, ColumnStyle]] = [("staged", "left")] if is_staged else []
    print_table(
        [
            ("task", "left"),
            ("version", "left"),
            *staged,
            ("stored", "right"),
            ("kind", "left"),
            ("density", "right"),
            ("lineage", "right"),
            ("size", "right"),
            ("created", "left"),
        ],
        [_row(entry, is_staged=is_staged) for entry in entries],
    )


def _entry(store: Catalogue, task: str, found: str | StoreError) -> dict[str, object]:
    """One task; one whose pointer or adapter cannot be read is listed with its error."""
    from jumplora_adapters.density import density_of
    from jumplora_adapters.errors import AdapterError

    entry: dict[str, object] = {
        "task_id": task, "version": None, "versions": None, "staged": None, "aliases": {}
    }  # fmt: skip
    try:
        if not isinstance(found, str):
            raise found
        version = found
        entry |= {"version": version, "versions": len(store.versions(task))}
        routing = store.routing(task)
        entry["aliases"] = dict(routing.aliases)
        if routing.staged is not None:
            entry["staged"] = {"version": routing.staged.version, "share": routing.staged.share}
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


def _row(entry: dict[str, object], *, is_staged: bool) -> tuple[str, ...]:
    head = (
        str(entry["task_id"]),
        short(str(entry["version"] or "-")),
        *([_staged(entry["staged"])] if is_staged else []),
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


def _staged(staged: object) -> str:
    match staged:
        case {"version": str(version), "share": float(part)}:
            return f"{short(version)} {part:g}"
    return ""


def _history(store: Catalogue, task: str) -> list[dict[str, object]]:
    """Every change, with what its version is now in the last line of that version."""
    entries, stored = store.changes(task), store.versions(task)
    current, routing = store.current(task), store.routing(task)
    last = {entry.digest: n for n, entry in enumerate(entries)}

    def state(digest: str, *, is_last: bool) -> str:
        if digest not in stored:
            return "removed"
        if not is_last:
            return "stored"
        names = ("current",) if digest == current else ()
        return ", ".join((*names, *routing.names_of(digest))) or "stored"

    return [
        {
            "published_at": entry.published_at,
            "event": entry.event,
            "version": entry.digest,
            "state": state(entry.digest, is_last=last[entry.digest] == n),
        }
        for n, entry in enumerate(entries)
    ]
