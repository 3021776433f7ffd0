"""`jumplora list`, `rollback` and `remove`: the store as a shelf of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import (
    print_json,
    print_table,
    reported_errors,
    share,
    short,
    size,
)
from jumplora_adapters.cli.sources import open_store

if TYPE_CHECKING:
    from jumplora_adapters.store import Store

TASK = Annotated[str, typer.Argument(help="Task id.")]


def list_tasks(
    store: options.Store,
    task: Annotated[str | None, typer.Argument(help="Show this task's versions.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the tasks of a store and their current versions, or one task's history."""
    with reported_errors():
        opened = open_store(store)
        if task is not None:
            entries = _history(opened, task)
        else:
            entries = [_entry(opened, name) for name in opened.tasks()]
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
                    str(entry["event"]),
                    short(str(entry["version"])),
                    str(entry["state"]),
                )
                for entry in entries
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


def rollback(
    task: TASK,
    store: options.Store,
    to: Annotated[
        str | None, typer.Option("--to", help="Version (8 digits or more), default the last one.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make an earlier version of a task current again; a running server follows within seconds."""
    with reported_errors():
        opened = open_store(store)
        before = opened.current(task)
        wanted = None if to is None else opened.resolve(f"{task}@{to}")[1]
        after = opened.rollback(task, wanted)
    if as_json:
        print_json({"task_id": task, "version": after, "previous": before})
    else:
        typer.echo(f"{task}: {short(before)} -> {short(after)}")


def remove(
    task: TASK,
    store: options.Store,
    version: Annotated[
        str | None,
        typer.Option("--version", help="Only this version (8 digits or more), not the whole task."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Remove a task, or one old version; refused while another task's lineage needs it."""
    with reported_errors():
        opened = open_store(store)
        if version is None:
            removed = opened.versions(task)
            opened.remove(task)
        else:
            _, digest = opened.resolve(f"{task}@{version}")
            removed = (digest,)
            opened.remove_version(task, digest)
    if as_json:
        print_json({"task_id": task, "removed": list(removed)})
    else:
        typer.echo(f"{task}: removed {', '.join(map(short, removed))}")


def _entry(store: Store, task: str) -> dict[str, object]:
    """One task; an adapter that cannot be read is listed with its error."""
    from jumplora_adapters.errors import AdapterError

    version = store.current(task)
    entry: dict[str, object] = {
        "task_id": task,
        "version": version,
        "versions": len(store.versions(task)),
    }
    try:
        manifest = store.manifest(version)
        file_bytes = store.path_of(version).stat().st_size
    except AdapterError as error:
        return entry | {"error": {"code": error.code, "message": str(error)}}
    shares = manifest.density.values()
    return entry | {
        "kind": manifest.kind,
        "method": manifest.method,
        "backbone": manifest.backbone.name,
        "density": sum(shares) / len(shares) if shares else None,
        "lineage": list(manifest.lineage),
        "file_bytes": file_bytes,
        "created": manifest.created,
    }


def _row(entry: dict[str, object]) -> tuple[str, ...]:
    head = (str(entry["task_id"]), short(str(entry["version"])), str(entry["versions"]))
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


def _history(store: Store, task: str) -> list[dict[str, object]]:
    current, stored = store.current(task), set(store.versions(task))
    return [
        {
            "published_at": entry.published_at,
            "event": entry.event,
            "version": entry.digest,
            "state": (
                "current"
                if entry.digest == current
                else "stored"
                if entry.digest in stored
                else "removed"
            ),
        }
        for entry in store.history(task)
    ]
