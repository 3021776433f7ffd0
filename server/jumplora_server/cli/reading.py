"""`jumplora list`, `inspect` and `overlap`: of a store folder, or of a running server."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from jumplora_adapters.cli import inspect, options, overlap, shelf
from jumplora_adapters.cli.output import (
    change_name,
    fail,
    note,
    print_json,
    print_table,
    reported_errors,
    share,
    short,
    size,
)
from jumplora_adapters.cli.sources import SPEC_HELP, SUFFIX
from jumplora_server.cli import place
from jumplora_server.cli.completion import task_ids

if TYPE_CHECKING:
    from jumplora_server.api.adapter_schemas import AdapterSummary
    from jumplora_server.api.overview_schemas import OverlapMap

_WITH_STORE = "With --store: "


def list_tasks(
    context: typer.Context,
    task: Annotated[
        str | None, typer.Argument(help="Show this task's versions.", autocompletion=task_ids)
    ] = None,
    server: place.Server = None,
    store: place.ReadStore = None,
    key: place.ApiKey = None,
    as_json: options.AsJson = False,
) -> None:
    """List the tasks of a store or a server, or one task's versions, newest first."""
    with reported_errors():
        where = place.place_of(context, server, store)
        if isinstance(where, Path):
            shelf.list_tasks(where, task, as_json)
        elif task is None:
            _list_on(where, key, as_json)
        else:
            _list_versions_on(where, key, task, as_json)


def inspect_adapter(
    context: typer.Context,
    spec: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER",
            help="Adapter file (.safetensors), or task or task@version.",
            autocompletion=task_ids,
        ),
    ],
    server: place.Server = None,
    store: place.ReadStore = None,
    key: place.ApiKey = None,
    modules: Annotated[bool, typer.Option("--modules", help="One row a module.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show an adapter's manifest. Its numbers are not read: `verify` does that.

    Long texts are cut; --json has all of them.
    """
    if spec.endswith(SUFFIX):
        inspect.inspect(spec, None, modules, as_json)
        return
    with reported_errors():
        where = place.place_of(context, server, store)
        if isinstance(where, Path):
            inspect.inspect(spec, where, modules, as_json)
        else:
            _inspect_on(where, key, spec, modules=modules, as_json=as_json)


def compare(
    context: typer.Context,
    specs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADAPTER]...",
            help=f"{SPEC_HELP} Default: every task.",
            autocompletion=task_ids,
        ),
    ] = None,
    *,
    server: place.Server = None,
    store: place.ReadStore = None,
    key: place.ApiKey = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            envvar="JUMPLORA_BACKBONE",
            help="Without --server: folder or hub id of the T5.",
        ),
    ] = None,
    scope: Annotated[
        overlap.Scope,
        typer.Option(
            "--scope", help=f"{_WITH_STORE}an adapter's own delta, or its lineage's union."
        ),
    ] = "own",
    modules: Annotated[
        bool, typer.Option("--modules", help=f"{_WITH_STORE}also each module.")
    ] = False,
    plot: overlap.Plot = None,
    quiet: overlap.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Compare the supports of adapters pair by pair, from their files or as a server has done it.

    Chance is what independent random supports of the same densities, module by module, would
    give: only the ratio of the two says whether tasks share or avoid entries. A server compares
    the own deltas of the versions that answer, of at most JUMPLORA_MAX_OVERLAP_TASKS tasks.
    """
    specs = specs or []
    are_files = bool(specs) and all(spec.endswith(SUFFIX) for spec in specs)
    with reported_errors():
        where = store if are_files else place.place_of(context, server, store)
        if isinstance(where, str):
            if scope != "own" or modules or any("@" in s or s.endswith(SUFFIX) for s in specs):
                raise typer.BadParameter(
                    "a server compares the own deltas of whole tasks: --scope, --modules, versions "
                    "and files need --store FOLDER and --backbone"
                )
            _compare_on(where, key, specs, plot=plot, as_json=as_json)
            return
        if backbone is None:
            raise typer.BadParameter(
                "files are read for their T5: give --backbone (or set JUMPLORA_BACKBONE), or ask a "
                "server with --server"
            )
        overlap.overlap(
            specs,
            backbone=backbone,
            store=where,
            scope=scope,
            modules=modules,
            plot=plot,
            quiet=quiet,
            as_json=as_json,
        )


def _list_on(server: str, key: str | None, as_json: bool) -> None:
    with place.asking(server, key) as client:
        adapters = client.adapters()
    if as_json:
        entries = [each.model_dump(mode="json") for each in adapters]
        print_json({"server": server, "adapters": entries})
        return
    print_table(
        [
            ("task", "left"),
            ("version", "left"),
            ("state", "left"),
            ("density", "right"),
            ("memory", "right"),
            ("pinned", "left"),
            ("running", "right"),
            ("degraded", "fold"),
        ],
        [_line(each) for each in adapters],
    )


def _line(each: AdapterSummary) -> tuple[str, ...]:
    memory = each.bytes.host + each.bytes.device
    return (
        each.task_id,
        short(each.version or each.desired or "-"),
        each.state,
        share(each.density),
        size(memory) if memory else "",
        "pinned" if each.pinned else "",
        str(each.in_flight) if each.in_flight else "",
        each.failure.message if each.degraded and each.failure else "",
    )


def _list_versions_on(server: str, key: str | None, task: str, as_json: bool) -> None:
    with place.asking(server, key) as client:
        found = client.adapter(task)
    changes = [_Change(c.version, c.at, c.event) for c in found.changes]
    changes = changes or [_Change(version) for version in found.history]  # the store was away
    last = {change.version: n for n, change in enumerate(changes)}
    states = dict.fromkeys(last.values(), "stored")
    staged = found.staged.version if found.staged else None
    named = ((found.desired, "current"), (found.version, "answers"), (staged, "staged"))
    for version, state in named:
        if version in last:
            before = states[last[version]]
            states[last[version]] = state if before == "stored" else f"{before}, {state}"
    rows = [(c.at, c.event, c.version, states.get(n, "stored")) for n, c in enumerate(changes)]
    if as_json:
        keys = ("published_at", "event", "version", "state")
        history = [dict(zip(keys, row, strict=True)) for row in rows]
        print_json({"server": server, "history": history})
        return
    print_table(
        [("at", "left"), ("event", "left"), ("version", "left"), ("state", "left")],
        [
            (at, change_name(event), short(version), state)
            for at, event, version, state in rows[::-1]
        ],
    )


class _Change(NamedTuple):
    version: str
    at: str = ""
    event: str = ""


def _inspect_on(server: str, key: str | None, spec: str, *, modules: bool, as_json: bool) -> None:
    task, _, prefix = spec.partition("@")
    with place.asking(server, key) as client:
        found = client.adapter(task)
    version, manifest = found.version, found.manifest
    if version is None or manifest is None:
        why = f": {found.failure.message}" if found.failure else ""
        fail(f"{task} has no version that answers on {server}{why}")
    if not version.startswith(prefix):
        fail(
            f"{server} answers {task} with {short(version)}, and describes only that version: for "
            f"{prefix} give --store FOLDER"
        )
    if as_json:
        print_json(
            {
                "server": server,
                "task_id": task,
                "version": version,
                "file_bytes": found.bytes.disk,
                "manifest": manifest.model_dump(mode="json"),
            }
        )
    else:
        where = ("server", f"{server} ({size(found.bytes.disk)})")
        inspect.show(manifest, version, where, modules=modules)


def _compare_on(
    server: str, key: str | None, specs: list[str], *, plot: Path | None, as_json: bool
) -> None:
    with place.asking(server, key) as client:
        compared = client.overview(limit=0).overlap
    if compared is None:
        fail(
            f"{server} has compared no tasks: it compares those in memory when it has nothing to "
            "load, of at most JUMPLORA_MAX_OVERLAP_TASKS (0: none); --store FOLDER --backbone T5 "
            "compares files"
        )
    if missing := [task for task in dict.fromkeys(specs) if task not in compared.tasks]:
        fail(
            f"{server} has not compared {', '.join(missing)}, but {', '.join(compared.tasks)}; "
            "--store FOLDER --backbone T5 compares any"
        )
    wanted = {*(specs or compared.tasks)}
    pairs, left = _pairs(compared, wanted)
    if plot is not None and pairs:
        overlap.write_plot(plot, [task for task in compared.tasks if task in wanted], pairs)
    if as_json:
        print_json({"server": server, "scope": "own", "pairs": [asdict(pair) for pair in pairs]})
    else:
        print_table(
            [
                ("first", "left"),
                ("second", "left"),
                ("Jaccard", "right"),
                ("chance", "right"),
                ("ratio", "right"),
            ],
            [
                (
                    pair.first,
                    pair.second,
                    f"{pair.jaccard:.4f}",
                    f"{pair.chance:.4f}",
                    "" if pair.times_chance is None else f"{pair.times_chance:.2f}",
                )
                for pair in pairs
            ],
        )
    if left:
        note(f"{left} pairs are not compared yet: a server compares them when it is idle")


@dataclass(frozen=True, slots=True)
class _Pair:
    first: str
    second: str
    jaccard: float
    chance: float
    times_chance: float | None


def _pairs(compared: OverlapMap, wanted: set[str]) -> tuple[list[_Pair], int]:
    """Those that were compared, and how many were not."""
    pairs: list[_Pair] = []
    left = 0
    numbers = [number for number, task in enumerate(compared.tasks) if task in wanted]
    for row, column in combinations(numbers, 2):
        jaccard, chance = compared.jaccard[row][column], compared.chance[row][column]
        if jaccard is None or chance is None:
            left += 1
            continue
        ratio = jaccard / chance if chance else None
        pairs.append(_Pair(compared.tasks[row], compared.tasks[column], jaccard, chance, ratio))
    return pairs, left
