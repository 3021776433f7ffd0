"""Which dashboards there are, and which panels each has."""

from __future__ import annotations

from deploy.grafana import panels_adapters as adapters
from deploy.grafana import panels_engine as engine
from deploy.grafana import panels_quality as quality
from deploy.grafana import panels_requests as requests
from deploy.grafana import runbook, stats, stats_engine
from deploy.grafana.marks import MARKS
from deploy.grafana.panel import Board, Row

OVERVIEW = Board(
    "jumplora-overview",
    "overview",
    "JumpLoRA: overview",
    "All servers and tasks: what fails, what is slow, what is full.",
    (
        Row(
            "Now",
            (
                stats.SERVERS_UP,
                stats.SERVERS_DOWN,
                stats.ALERTS_FIRING,
                stats.TASKS_READY,
                stats.TASKS_DEGRADED,
                stats.TASKS_FAILED,
                stats.REQUESTS,
                stats.FAILED_NOW,
                stats.BURN,
                stats.WITHIN,
                stats.P95_REQUEST,
                stats.P95_FIRST_TOKEN,
                stats.TOKENS,
                stats.IN_FLIGHT,
                stats.WAITING,
                stats.REFUSED,
                stats.ROWS_IN_USE,
                stats.BUDGET_USED,
                stats.ADAPTERS_RESIDENT,
                stats.PROCESS_MEMORY,
                stats_engine.CORES,
                stats_engine.HEARTBEAT,
                stats_engine.STORE,
                stats_engine.STARTS,
                requests.TASKS,
                requests.ALERTS,
            ),
        ),
        Row("Objectives", (requests.WITHIN_BY_TASK, requests.BURN)),
        Row(
            "Latency by task",
            (
                requests.P50_REQUEST,
                requests.P95_REQUEST,
                requests.P99_REQUEST,
                requests.WHERE_TIME_GOES,
                requests.DISTRIBUTION,
            ),
        ),
        Row(
            "Traffic",
            (
                requests.REQUESTS,
                requests.OUTCOMES,
                requests.FAILED_BY_TASK,
                requests.IN_FLIGHT,
                requests.PROMPT_TOKENS,
                requests.GENERATED_TOKENS,
            ),
        ),
        Row(
            "Queue and batch",
            (
                engine.WAITING_AND_RUNNING,
                engine.CACHE_ROWS,
                engine.ROWS_AND_TASKS,
            ),
        ),
        Row(
            "Refusals and clients",
            (
                requests.REFUSED_BEFORE_QUEUE,
                requests.REFUSED_BY_HTTP,
                requests.CONNECTIONS,
                requests.KEY_REJECTIONS,
                requests.AUTH_REFUSALS,
                requests.KEYS_FAULT,
            ),
        ),
        Row(
            "Memory",
            (engine.BUDGET, engine.PROCESS, adapters.RESIDENT_BY_TASK, engine.ACCELERATOR),
        ),
        Row(
            "Adapters",
            (
                adapters.VERSIONS,
                adapters.DEGRADED,
                adapters.STATES,
                adapters.EVICTIONS,
                adapters.FAILURES,
                adapters.REFUSED_PUBLISHES,
            ),
            "closed",
        ),
    ),
    MARKS,
)
TASK = Board(
    "jumplora-task",
    "task",
    "JumpLoRA: task",
    "One task, or a few beside each other: answers, versions, loads, memory and quality.",
    (
        Row(
            "Now",
            (
                stats.REQUESTS,
                stats.FAILED_NOW,
                stats.WITHIN,
                stats.P95_REQUEST,
                stats.P95_FIRST_TOKEN,
                stats.IN_FLIGHT,
                stats.SERVING,
                stats.VERSIONS_AT_ONCE,
                stats.CANARIES,
                stats.ADAPTERS_RESIDENT,
                stats.DENSITY,
                stats.EVICTED,
            ),
        ),
        Row(
            "Latency",
            (
                requests.P50_REQUEST,
                requests.P95_REQUEST,
                requests.P99_REQUEST,
                requests.P95_FIRST_TOKEN,
                requests.P95_PER_TOKEN,
                requests.P95_QUEUE,
                requests.P95_ENCODE,
                requests.P95_DECODE,
                requests.FAILED_BY_TASK,
                requests.WITHIN_BY_TASK,
                requests.WHERE_TIME_GOES,
                requests.DISTRIBUTION,
                requests.BURN,
            ),
        ),
        Row(
            "Traffic",
            (
                requests.REQUESTS,
                requests.OUTCOMES,
                requests.IN_FLIGHT,
                requests.PROMPT_TOKENS,
                requests.GENERATED_TOKENS,
            ),
        ),
        Row(
            "Versions",
            (
                adapters.VERSIONS,
                adapters.DEGRADED,
                adapters.PUBLISHED,
                adapters.LOADS,
                adapters.FAILURES,
                adapters.STATES,
                adapters.NEWEST_LOAD,
                adapters.EVICTIONS,
            ),
        ),
        Row(
            "Staged and current",
            (
                adapters.STAGED_SHARE,
                adapters.VERSION_REQUESTS,
                adapters.VERSION_FAILED,
                adapters.VERSION_LATENCY,
                adapters.STAGE_ENDINGS,
            ),
            "closed",
        ),
        Row(
            "Memory",
            (
                adapters.RESIDENT_BY_TASK,
                adapters.FILES,
                adapters.NON_ZEROS,
                adapters.DENSITY,
            ),
            "closed",
        ),
        Row(
            "Quality",
            (
                quality.ACCURACY,
                quality.CANARIES,
                quality.MASS,
                quality.ABSTAINED,
                quality.BACKWARD_TRANSFER,
                quality.OVERLAP,
                quality.OVERLAP_OVER_CHANCE,
            ),
            "closed",
        ),
    ),
    MARKS,
)
ENGINE = Board(
    "jumplora-engine",
    "engine",
    "JumpLoRA: engine and process",
    "What each server computes, holds and waits for.",
    (
        Row(
            "Now",
            (
                stats.SERVERS_UP,
                stats.SERVERS_DOWN,
                stats_engine.HEARTBEAT,
                stats_engine.STORE,
                stats_engine.STUCK,
                stats_engine.KEYS,
                stats_engine.LOOP_LAG,
                stats_engine.STARTS,
                stats.WAITING,
                stats.ROWS_IN_USE,
                stats.BUDGET_USED,
                stats_engine.CORES,
                stats.PROCESS_MEMORY,
                stats_engine.DESCRIPTORS,
            ),
        ),
        Row(
            "Engine",
            (
                engine.WAITING_AND_RUNNING,
                engine.CACHE_ROWS,
                engine.ROWS_AND_TASKS,
                engine.P95_STEP,
                engine.ENCODED,
                engine.HEARTBEAT,
                engine.LOOP_LAG,
            ),
        ),
        Row("Store and loads", (engine.STORE, adapters.MEAN_LOAD, requests.CONNECTIONS)),
        Row(
            "Memory and builds",
            (engine.BUDGET, engine.PROCESS, engine.ACCELERATOR, engine.BUILDS),
        ),
    ),
    MARKS,
)
RUNBOOK = runbook.board(runbook.PAGE.read_text(encoding="utf-8"))
BOARDS = (OVERVIEW, TASK, ENGINE, RUNBOOK)
