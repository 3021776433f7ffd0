"""What `GET /v1/overview` answers: one look at the whole server, for people.

Seconds and bytes are plain numbers, shares run from 0 to 1, times are ISO 8601 in UTC. What is not
known is null. A key sees the tasks that it is for.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from jumplora_server.access.caller import Scope
from jumplora_server.events import EventKind

MAX_LINES = 100
MAX_EVENTS = 50

SortKey = Literal[
    "task_id", "state", "requests", "p95", "failed", "memory", "density", "accuracy", "canaries"
]
Order = Literal["ascending", "descending"]


class OverviewQuery(BaseModel):
    """Which tasks are shown, and in which order. A field of another name is refused."""

    model_config = ConfigDict(extra="forbid")

    search: str = Field(default="", max_length=64, description="part of a task id, in any case")
    sort: SortKey = Field(
        default="task_id",
        description="by requests, p95 and failed of the trends' time; by state what needs a look "
        "comes first; what is not known comes last either way",
    )
    order: Order = "ascending"
    offset: int = Field(default=0, ge=0, le=10_000_000)
    limit: int = Field(default=MAX_LINES, ge=0, le=MAX_LINES)


class Strip(BaseModel):
    """The server itself, on one line."""

    version: str
    backbone: str = Field(description="its name for clients")
    dtype: str
    device: str
    kernels: str = Field(description="what computes: an instruction set, torch, ...")
    ready: bool
    faults: dict[str, str] = Field(description="why it is not ready, or what is wrong; by check")
    rows_in_use: int
    rows_total: int
    waiting: int
    memory_used: int = Field(description="bytes of all resident adapters and trunks")
    memory_budget: int
    backbone_memory: int
    uptime_seconds: float
    base: str | None = Field(description="task id of the bare backbone, where it may be asked for")
    default_task: str | None
    max_input_tokens: int
    max_new_tokens: int
    keys: list[Literal["api", "admin"]] = Field(
        description="api: without a key it answers probes alone; admin: some key may change "
        "adapters"
    )
    key: Literal["none", "unknown", "api", "admin"] = Field(
        description="what it took the request's key for, admin if it may change adapters; a server "
        "that answers without a key answers unknown ones too"
    )
    key_id: str | None = Field(default=None, description="the key's name in logs and metrics")
    key_scopes: list[Scope] = Field(
        default=[], description="what this key may do; empty without a key"
    )
    key_tasks: list[str] | None = Field(
        default=None,
        description="the task ids and patterns that this key is for; null: all tasks",
    )
    may_change: bool = Field(description="whether this key may change adapters")
    why_not: str | None = Field(description="why it may not")


class Accuracy(BaseModel):
    """What the adapter's maker measured."""

    score: str
    share: float


class StagedMark(BaseModel):
    """The version that a task stages beside the current one; `StagedVersion` has more."""

    version: str
    share: float = Field(description="of the task's requests, once it is open")
    is_open: bool = Field(description="it was loaded and tried, and gets its share here")
    failure: str | None = Field(description="the code of why it gets none")


class TaskLine(BaseModel):
    """One task in the table."""

    task_id: str
    version: str | None
    desired: str | None
    state: Literal["COLD", "LOADING", "READY", "DRAINING", "FAILED"]
    degraded: str | None = Field(description="why what was published last does not answer")
    kind: Literal["masked", "lowrank", "combined"] | None
    density: float
    ancestors: int = Field(description="how many adapters its lineage adds before its own")
    memory: int = Field(description="bytes in memory, of the host or the device")
    pinned: bool
    in_flight: int
    requests_per_second: list[float] = Field(
        description="one number each trend_seconds, oldest first; empty: none of late. The last "
        "is of the seconds that have gone by of its time, of half of them at least"
    )
    requests: int = Field(description="of all of that time together")
    p95_seconds: list[float | None] = Field(description="of the same times; null: no request then")
    p95: float | None = Field(description="of all of that time together")
    failed: int = Field(description="requests of that time that the server failed")
    accuracy: Accuracy | None
    canaries: float | None = Field(description="share of its canaries that were right here")
    canaries_asked: int = Field(description="how many of them were asked here")
    staged: StagedMark | None = None


class OverlapMap(BaseModel):
    """How much the supports of tasks overlap: Jaccard index beside what chance would give.

    Both are square, in the order of `tasks`; null on the diagonal and for what was not compared.
    """

    tasks: list[str]
    jaccard: list[list[float | None]]
    chance: list[list[float | None]]


class ContinualRun(BaseModel):
    """The accuracies of a continual run, as the manifests of its served tasks have them.

    `accuracy[i][j]` is that of task j once task i was learned, in the run's order; null where it
    is not known, and above the diagonal.
    """

    run: str
    method: str
    gate: str
    split: str
    tasks: list[str]
    accuracy: list[list[float | None]]
    backward_transfer: float | None = Field(description="after the last task that is known")


class EventLine(BaseModel):
    """Something that happened to an adapter or to the server."""

    at: str
    kind: EventKind
    task_id: str | None
    version: str | None
    text: str


class Overview(BaseModel):
    """All of it. `tasks` are those at `offset` and after it of the `found` ones, at most 100."""

    server: Strip
    total: int = Field(description="tasks that this key may see")
    found: int = Field(description="of these, what the search leaves")
    offset: int
    trend_seconds: float = Field(description="what one number of a trend is of")
    tasks: list[TaskLine]
    overlap: OverlapMap | None
    runs: list[ContinualRun]
    events: list[EventLine] = Field(description="the last 50, newest first")
