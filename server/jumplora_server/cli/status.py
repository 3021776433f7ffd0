"""`jumplora status`: a running server on one screen, or one of its tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import (
    change_name,
    note,
    print_facts,
    print_json,
    print_table,
    share,
    short,
    size,
)
from jumplora_adapters.printable import shown
from jumplora_server.cli import place
from jumplora_server.cli.completion import task_ids
from jumplora_server.variables import DEFAULT_URL

if TYPE_CHECKING:
    from jumplora_server.api.adapter_schemas import (
        AdapterDetail,
        Comparison,
        StagedVersion,
        VersionFigures,
    )
    from jumplora_server.api.overview_schemas import Overview, Strip, TaskLine
    from jumplora_server.client import Client

KEYS = {
    "none": "none given",
    "unknown": "not known to this server, which answers all the same",
}
_MOST_LINES = 100
_MOST_CHANGES = 10
_MOST_CHARS = 60  # of a canary's prompt


def status(
    task: Annotated[
        str | None, typer.Argument(help="Show this task alone.", autocompletion=task_ids)
    ] = None,
    server: place.ServerOrDefault = DEFAULT_URL,
    key: place.ApiKey = None,
    search: Annotated[
        str, typer.Option("--search", help="Only tasks whose id has this in it.")
    ] = "",
    lines: Annotated[
        int, typer.Option("--lines", min=0, max=_MOST_LINES, help="Tasks that are shown.")
    ] = 20,
    watch: Annotated[
        float | None, typer.Option("--watch", min=0.5, help="Show it again every so many seconds.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show a server on one screen, tasks that need a look first; or one task in detail."""

    def show(client: Client) -> None:
        if task is None:
            overview = client.overview(search=search, sort="state", limit=lines)
            print_json(overview.model_dump(mode="json")) if as_json else _print(overview, server)
        else:
            found = client.adapter(task)
            print_json(found.model_dump(mode="json")) if as_json else _print_task(found, server)

    with place.asking(server, key) as client:
        if watch is None:
            show(client)
        else:
            _again(lambda: show(client), watch)


def _again(show: Callable[[], None], seconds: float) -> None:
    """Until Ctrl-C, which is how one leaves it."""
    never = threading.Event()
    try:
        while True:
            Console().clear()  # nothing, where stdout is not a terminal
            show()
            never.wait(seconds)
    except KeyboardInterrupt:
        raise typer.Exit from None


def _print(overview: Overview, address: str) -> None:
    server = overview.server
    bad = "; ".join(f"{name}: {text}" for name, text in server.faults.items())
    facts = [
        ("server", f"{address}, version {server.version}, up {_duration(server.uptime_seconds)}"),
        (
            "backbone",
            f"{server.backbone}, {server.dtype} on {server.device}, kernels {server.kernels}",
        ),
        ("ready", ("yes" if server.ready else "no") + (f"; {bad}" if bad else "")),
        (
            "rows",
            f"{server.rows_in_use} of {server.rows_total} in use, {server.waiting} prompts wait",
        ),
        (
            "memory",
            f"{size(server.memory_used)} of {size(server.memory_budget)} for adapters, "
            f"{size(server.backbone_memory)} backbone",
        ),
        ("tasks", _tasks(overview)),
        ("key", _key(server)),
        ("changes", "this key may change adapters" if server.may_change else str(server.why_not)),
    ]
    print_facts(facts)
    if not overview.tasks:
        return
    cells = max(len(line.requests_per_second) for line in overview.tasks)
    if cells:
        span = _duration(cells * overview.trend_seconds)
        typer.echo(f"\nrequests, p95 and failed are of the last {span}")
    print_table(
        [
            ("task", "left"),
            ("state", "left"),
            ("version", "left"),
            ("staged", "right"),
            ("requests", "right"),
            ("p95", "right"),
            ("failed", "right"),
            ("memory", "right"),
            ("accuracy", "right"),
            ("canaries", "right"),
            ("pinned", "left"),
        ],
        [_line(line) for line in overview.tasks],
    )
    for line in overview.tasks:
        if line.degraded is not None:
            note(f"{line.task_id}: {line.degraded}")
    if (more := overview.found - len(overview.tasks)) > 0:
        note(f"{more} more tasks: --search TEXT or --lines N shows them")


def _key(server: Strip) -> str:
    """What the key that was sent may do."""
    if not server.keys:
        return "this server has no keys"
    if server.key_id is None:
        return KEYS.get(server.key, server.key)
    tasks = "" if server.key_tasks is None else f", for the tasks {', '.join(server.key_tasks)}"
    return f"{server.key_id}: {', '.join(server.key_scopes)}{tasks}"


def _tasks(overview: Overview) -> str:
    if overview.found == overview.total:
        return f"{overview.total}"
    return f"{overview.found} of {overview.total} have this in their id"


def _line(line: TaskLine) -> tuple[str, ...]:
    return (
        line.task_id,
        line.state,
        short(line.version or line.desired or "-"),
        _staged_mark(line),
        f"{line.requests:,}" if line.requests else "",
        "" if line.p95 is None else f"{1000 * line.p95:,.0f} ms",
        f"{line.failed:,}" if line.failed else "",
        size(line.memory) if line.memory else "",
        "" if line.accuracy is None else f"{line.accuracy.share:.3f}",
        "" if line.canaries is None else f"{100 * line.canaries:.0f} %",
        "pinned" if line.pinned else "",
    )


def _staged_mark(line: TaskLine) -> str:
    if line.staged is None:
        return ""
    if line.staged.failure is not None:
        return line.staged.failure
    return _percent(line.staged.share) if line.staged.is_open else "loading"


def _percent(share: float) -> str:
    return f"{round(100 * share, 1):g} %"


def _print_task(task: AdapterDetail, address: str) -> None:
    memory = task.bytes.host + task.bytes.device
    manifest = task.manifest
    facts = [
        ("task", f"{task.task_id} on {address}"),
        ("state", task.state + (", pinned" if task.pinned else "")),
        ("answers", task.version or "nothing"),
    ]
    if task.desired != task.version:
        facts.append(("published last", task.desired or "the store's pointer is at fault"))
    if task.failure is not None:
        again = task.failure.retry_in
        when = "" if again is None else f"; tried again in {_duration(again)}"
        facts.append(("fault", f"{task.failure.code}: {task.failure.message}{when}"))
    if (staged := task.staged) is not None:
        facts += [("staged", staged.version), ("share", _staged(staged, task.comparison))]
    if task.aliases:
        named = ", ".join(f"{name} {short(version)}" for name, version in task.aliases.items())
        facts.append(("aliases", named))
    facts += [
        ("memory", f"{size(memory)}, {size(task.bytes.disk)} on disk"),
        ("density", share(task.density)),
        ("running", f"{task.in_flight} requests"),
    ]
    if manifest is not None:
        facts.append(("lineage", " ".join(map(short, manifest.lineage)) or "none"))
        if manifest.prompt is not None and manifest.prompt.options:
            facts.append(("options", shown(" | ".join(manifest.prompt.options), 200)))
    print_facts(facts)
    if staged is not None and task.comparison is not None:
        _print_comparison(task, staged, task.comparison)
    changes = task.changes[-_MOST_CHANGES:]
    print_table(
        [("at", "left"), ("event", "left"), ("version", "left"), ("", "left"), ("note", "fold")],
        [
            (
                change.at,
                change_name(change.event),
                short(change.version),
                "answers" if change.version == task.version else "",
                shown(change.note, _MOST_CHARS),
            )
            for change in reversed(changes)
        ],
    )
    if task.canaries:
        print_table(
            [("canary", "fold"), ("expected", "fold"), ("got", "fold"), ("", "left")],
            [
                (
                    shown(canary.prompt, _MOST_CHARS),
                    canary.expected,
                    "not asked yet" if canary.got is None else canary.got,
                    "" if canary.got is None else "right" if canary.is_right else "wrong",
                )
                for canary in task.canaries
            ],
        )


def _staged(staged: StagedVersion, comparison: Comparison | None) -> str:
    """What it gets, since when, and what was found so far."""
    text = f"{_percent(staged.share)} of the requests, staged {staged.since}"
    if staged.failure is not None:
        return f"{text}; it gets none: {staged.failure.code}: {staged.failure.message}"
    if not staged.is_open:
        return f"{text}; it gets none before it is loaded"
    looks = 0 if comparison is None else comparison.looks
    judged = f"judged {looks} times without a fault" if looks else "too few have ended to judge it"
    after = staged.promote_after
    end = "" if after is None else f"; promoted by itself {_duration(after)} after that"
    return f"{text}{end}; {judged}"


def _print_comparison(task: AdapterDetail, staged: StagedVersion, found: Comparison) -> None:
    replies = [canary.is_right for canary in task.canaries if canary.is_right is not None]
    right = sum(replies) / len(replies) if replies else None
    print_table(
        [
            ("", "left"),
            ("version", "left"),
            ("requests", "right"),
            ("failed", "right"),
            ("p95", "right"),
            ("canaries", "right"),
        ],
        [
            ("staged", short(staged.version), *_figures(found.staged, staged.canary_accuracy)),
            ("current", short(task.version or "-"), *_figures(found.current, right)),
        ],
    )


def _figures(figures: VersionFigures, canaries: float | None) -> tuple[str, ...]:
    requests, failed, p95 = figures.requests, figures.failed, figures.p95_seconds
    return (
        f"{requests:,}",
        f"{failed:,} ({_percent(failed / requests)})" if failed else "0",
        "" if p95 is None else f"{1000 * p95:,.0f} ms",
        "" if canaries is None else f"{100 * canaries:.0f} %",
    )


def _duration(seconds: float) -> str:
    """In one unit, such as "90 s", "12 min", "5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
