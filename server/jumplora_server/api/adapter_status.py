"""A task's status in the form that clients get."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from jumplora_adapters.history import HistoryEntry
from jumplora_server.access.caller import Caller
from jumplora_server.api.adapter_schemas import (
    AdapterDetail,
    AdapterSummary,
    Comparison,
    VersionFigures,
)
from jumplora_server.api.sight import manifest_for, text_for
from jumplora_server.metrics.trends import percentile
from jumplora_server.metrics.versions import Counts
from jumplora_server.residency.status import StagedStatus, TaskStatus
from jumplora_server.residency.trials import shortened


def summary(caller: Caller, status: TaskStatus) -> AdapterSummary:
    """A line of the list."""
    return AdapterSummary.model_validate(_fields(caller, status))


def detail(
    caller: Caller,
    status: TaskStatus,
    changes: Sequence[HistoryEntry],
    comparison: Comparison | None = None,
) -> AdapterDetail:
    """Everything about one task."""
    return AdapterDetail.model_validate(
        {
            **_fields(caller, status),
            "history": list(status.history),
            "manifest": manifest_for(caller, status.manifest),
            "changes": [
                {
                    "version": change.digest,
                    "at": change.published_at,
                    "event": change.event,
                    "note": change.note,
                }
                for change in changes
            ],
            "canaries": _canaries(status),
            "comparison": comparison,
        }
    )


def _canaries(status: TaskStatus) -> list[dict[str, object]]:
    canaries = () if status.manifest is None else status.manifest.canaries
    return [
        {
            "prompt": shortened(canary.prompt),
            "expected": shortened(canary.expected),
            "got": None if reply is None else reply.got,
            "is_right": None if reply is None else reply.is_right,
        }
        for canary, reply in zip_longest(canaries, status.replies[: len(canaries)])
    ]


def _fields(caller: Caller, status: TaskStatus) -> dict[str, object]:
    failure = status.failure
    return {
        "task_id": status.task_id,
        "version": status.version,
        "desired": status.desired,
        "state": status.state.value,
        "degraded": status.degraded,
        "failure": failure
        and {
            "code": failure.code,
            "message": text_for(caller, failure),
            "retry_in": status.retry_in,
        },
        "pinned": status.pinned,
        "in_flight": status.in_flight,
        "bytes": {
            "disk": status.bytes_disk,
            "host": status.bytes_host,
            "device": status.bytes_device,
        },
        "nonzeros": status.nonzeros,
        "density": status.density,
        "folded_depth": status.folded_depth,
        "trunk_bytes": status.trunk_bytes,
        "staged": None if status.staged is None else _staged(caller, status.staged),
        "aliases": dict(status.aliases),
    }


def _staged(caller: Caller, status: StagedStatus) -> dict[str, object]:
    failure = status.failure
    return {
        "version": status.version,
        "share": status.staged.share,
        "since": status.staged.at,
        "promote_after": status.staged.promote_after,
        "is_open": status.is_open,
        "state": status.state.value,
        "failure": failure
        and {"code": failure.code, "message": text_for(caller, failure), "retry_in": None},
        "canary_accuracy": status.canary_accuracy,
    }


def figures(counts: Counts) -> VersionFigures:
    """What was counted of a version, for people."""
    return VersionFigures(
        requests=counts.requests, failed=counts.failed, p95_seconds=percentile(counts.durations)
    )
