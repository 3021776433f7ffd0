"""The settings by group: names, defaults, bounds and help. A new setting goes into its group.

`settings` joins them. Knows nothing of what the values do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode

from jumplora_server.binds import BindName, parse_bind
from jumplora_server.core import Kernels
from jumplora_server.tracing.tracer import TraceMode

_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?i?b?)\s*", re.IGNORECASE | re.ASCII)
_EXPONENT = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(value: object) -> object:
    """`"512MiB"` -> 536870912. KiB, MiB, GiB and TiB are powers of 1024; kB, MB, ... of 1000."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None:
        raise ValueError('write bytes as a number or as "512MiB", "1.5GB", ...')
    number, unit = match[1], match[2].lower()
    base = 1024 if "i" in unit else 1000
    return int(float(number) * base ** _EXPONENT[unit.rstrip("ib")])


def split_keys(value: object) -> object:
    """Split a comma-separated environment value; blanks around keys are dropped."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def check_bind(name: BindName) -> Callable[[str], str]:
    """A validator of addresses as `host:port`."""

    def check(text: str) -> str:
        parse_bind(name, text)
        return text

    return check


def check_networks(text: str) -> str:
    """Return addresses and networks, separated by commas, unchanged. Raises ValueError."""
    for part in split_networks(text):
        try:
            ip_network(part)
        except ValueError as error:
            raise ValueError(
                f"{error}: write addresses and networks, as 10.0.0.7,10.1.0.0/16,fd00::/8"
            ) from error
    return text


def split_networks(text: str) -> list[str]:
    """The parts between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _size(default: int, description: str, ge: int, le: int) -> Any:
    return Field(default=default, ge=ge, le=le, description=description)


Fold = Literal["never", "auto", "always"]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Keys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(split_keys)]
KIB, MIB, GIB = 1024, 1024**2, 1024**3


class ModelSettings(BaseSettings):
    """The backbone, and how it is computed."""

    backbone: str = Field(description="T5 backbone: a folder or a Hugging Face id")
    served_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$",
        description="name of the backbone for clients (default: its folder's name)",
    )
    dtype: Literal["float32", "bfloat16", "int8"] = Field(
        default="float32", description="arithmetic of the backbone's linear layers"
    )
    kernels: Kernels = Field(
        default="auto",
        description="native: compiled, float32 and int8 on the CPU, for the best instruction set "
        "that was built and runs; auto: native where possible; an instruction set (avx512, ...): "
        "native for this one; what cannot run stops the start",
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="where the engine computes")
    threads: int = _size(0, "CPU threads of the engine (0: as many as cores)", 0, 1024)


class QueueSettings(BaseSettings):
    """What is computed together, and what may wait for it."""

    max_rows: int = _size(16, "sequences that are computed at the same time", 1, 1024)
    spare_rows: int = _size(
        2, "rows beyond max_rows, kept for tasks that have no running request", 0, 1024
    )
    max_source_tokens: int = _size(512, "tokens of one prompt", 8, 32768)
    max_target_tokens: int = _size(128, "generated tokens of one sequence", 1, 8192)
    max_encode_tokens: int = _size(2048, "prompt tokens that one step encodes", 8, 1_048_576)
    max_queued_requests: int = _size(256, "prompts that wait for a row", 1, 1_000_000)
    max_queued_tokens: int = _size(131_072, "tokens of the prompts that wait", 1, 1_000_000_000)
    task_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="share that one task may hold of what the others leave free in the queue; half "
        "of the difference to 1 is kept for tasks that have no waiting request",
    )
    request_timeout: float = Field(
        default=60.0, gt=0, le=3600, description="longest time a request may take, in seconds"
    )


class HttpSettings(BaseSettings):
    """Connections, and what a client may send."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = _size(8000, "port to listen on (0: any free one)", 0, 65535)
    admin_bind: Annotated[str, AfterValidator(check_bind("admin"))] | None = Field(
        default=None,
        description="host:port of an address of its own for changes of adapters; the main one then "
        "refuses them (none: one address for all)",
    )
    metrics_bind: Annotated[str, AfterValidator(check_bind("metrics"))] | None = Field(
        default=None,
        description="host:port of an address of its own for GET /metrics, with the probes; the "
        "main one then refuses it (none: one address for all)",
    )
    trusted_proxies: Annotated[str, AfterValidator(check_networks)] | None = Field(
        default=None,
        description="addresses and networks of proxies, separated by commas, whose X-Forwarded-For "
        "says who a client is in the logs (none: the header is not read)",
    )
    max_inputs: int = _size(64, "prompts in one request's list", 1, 4096)
    max_text_bytes: Bytes = _size(64 * KIB, "UTF-8 bytes of one prompt", 16, 16 * MIB)
    max_body_bytes: Bytes = _size(MIB, "bytes of a request body (uploads apart)", KIB, 64 * MIB)
    control_tokens_in_text: Literal["plain", "read"] = Field(
        default="plain",
        description="how to read </s>, <extra_id_0> and other control tokens in a request's text: "
        "as plain characters, or as control tokens as in inputs",
    )
    max_connections: int = _size(
        8192,
        "open connections; beyond that the one that waits longest for a request is closed",
        16,
        1_000_000,
    )
    max_held_body_bytes: Bytes = _size(
        64 * MIB, "memory for all request bodies over 16 KiB together", MIB, 1024**4
    )
    header_timeout: float = Field(
        default=20.0, gt=0, le=3600, description="seconds for the head of a request to arrive"
    )
    idle_timeout: float = Field(
        default=75.0, gt=0, le=86400, description="seconds a connection may wait for a request"
    )
    transfer_timeout: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="seconds without progress of an arriving body or an answer that is read",
    )
    transfer_rate: Bytes = _size(
        KIB, "bytes a second that bodies and answers must keep on average", 1, GIB
    )
    docs: Literal["on", "off"] = Field(default="on", description="/docs and /openapi.json")
    console: Literal["on", "off"] = Field(default="on", description="the page at / for people")


class AdapterSettings(BaseSettings):
    """Where adapters come from, and the memory that they get."""

    store: Path = Field(description="folder of the published adapters; watched for changes")
    watch_seconds: float = Field(
        default=0.5, ge=0.05, le=3600, description="how often the store is compared, in seconds"
    )
    adapter_budget_bytes: Bytes = _size(
        GIB, 'memory for resident adapters and trunks ("512MiB")', KIB, 1024**5
    )
    fold: Fold = Field(
        default="auto",
        description="whether to merge ancestors into trunks (copies of the backbone's weights): "
        "auto: where the trunks of a chain of 15 take little enough (fold_share); always: all but "
        "the last version of each lineage; only on the CPU, in float32 and int8",
    )
    fold_share: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="share of the adapter budget that the trunks of one chain may take with fold "
        "auto; never more than the backbone's weights",
    )
    max_adapter_bytes: Bytes = _size(
        512 * MIB, "bytes of one adapter file, uploaded or published", KIB, 512 * MIB
    )
    load_timeout: float = Field(
        default=120.0, gt=0, le=3600, description="seconds an upload waits for its adapter to load"
    )
    load_folder: Path | None = Field(
        default=None,
        description="folder whose adapters POST /v1/load_lora_adapter may publish (none: refused)",
    )


class AccessSettings(BaseSettings):
    """Who may ask for what, and by which names."""

    admin_keys: Keys = Field(
        default=(), description="keys that may change adapters over HTTP (none: switched off)"
    )
    api_keys: Keys = Field(
        default=(), description="keys that may generate and read (none: open to everybody)"
    )
    keys_file: Path | None = Field(
        default=None,
        description="file that lists keys by their SHA-256, each with scopes, tasks, an expiry and "
        "quotas; read again when it changes and on SIGHUP; then all but probes and pages needs a "
        "key",
    )
    open_models: Literal["yes", "no"] = Field(
        default="no",
        description="whether GET /v1/models needs no key, as a Kubernetes gateway asks it",
    )
    open_metrics: Literal["yes", "no"] = Field(
        default="no",
        description="whether GET /metrics needs no key, for scrapers that cannot send one, as a "
        "Kubernetes gateway; the page names the tasks",
    )
    allow_base: Literal["yes", "no"] = Field(
        default="no", description="whether the bare backbone may be asked for"
    )
    base_name: str = Field(
        default="base",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="task id that means the bare backbone",
    )
    default_task: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@([0-9a-f]{8,64}|[A-Za-z][A-Za-z0-9._-]{0,31}))?$",
        description="task of requests that name none, for clients that cannot (none: refused)",
    )


class QualitySettings(BaseSettings):
    """What is measured of adapters here."""

    canary_floor: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of its canaries that a version must answer as expected (0: only report)",
    )
    max_overlap_tasks: int = _size(
        12, "tasks whose supports are compared pair by pair, for the metrics (0: none)", 0, 50
    )


class StageSettings(BaseSettings):
    """How much worse a staged version may be than the current one, before it is taken back."""

    stage_min_requests: int = _size(
        50, "requests of a staged version that end between two looks at it", 10, 100_000
    )
    stage_error_points: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="how much larger the share of its requests that fail may be (0.02: two in a "
        "hundred)",
    )
    stage_latency_ratio: float = Field(
        default=1.5,
        ge=1,
        le=1000,
        description="how many times as long 95 % of its answers may take",
    )
    stage_latency_seconds: float = Field(
        default=0.05,
        ge=0,
        le=3600,
        description="how much longer they may take in any case, in seconds",
    )
    stage_canary_drop: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="how much smaller the share of its canaries that are right may be (1: no "
        "matter)",
    )


class EndingSettings(BaseSettings):
    """How the server ends, and when it is taken as hung."""

    drain_grace: float = Field(
        default=5.0, ge=0, le=600, description="seconds between not ready and no new requests"
    )
    shutdown_timeout: float = Field(
        default=25.0, ge=0, le=3600, description="seconds for running requests to end at shutdown"
    )
    stall_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="seconds without a step, while sequences wait, until not alive",
    )
    hang_exit_seconds: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="seconds from not alive to the end of the process, code 79 (0: no end)",
    )


class TelemetrySettings(BaseSettings):
    """What the server says of itself."""

    log_format: Literal["text", "json"] = Field(default="text", description="form of a log line")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severity that is logged"
    )
    audit_file: Path | None = Field(
        default=None,
        description="file that the audit lines are appended to as JSON, beside the log (none: in "
        "the log alone)",
    )
    traces: TraceMode = Field(
        default="off",
        description="traces of requests and loads; otlp: to an OpenTelemetry collector, as the "
        "variables OTEL_* say (needs the extra traces)",
    )
    max_task_labels: int = _size(200, "tasks with separate metrics", 1, 100_000)
    metrics_max_age: float = Field(
        default=1.0,
        ge=0,
        le=60,
        description="seconds that a page of /metrics may be old; more where pages take long, so "
        "that they take at most a tenth of the time (0: a new page each time, however long)",
    )


PANELS: Mapping[type[BaseSettings], str] = MappingProxyType(
    {
        ModelSettings: "Model",
        QueueSettings: "Batch and queue",
        HttpSettings: "HTTP and limits",
        AdapterSettings: "Adapters",
        AccessSettings: "Keys and names",
        QualitySettings: "Quality",
        StageSettings: "Staged versions",
        EndingSettings: "Shutdown and watchdog",
        TelemetrySettings: "Logs, metrics and traces",
    }
)
"""The groups of settings, in the order in which help shows them."""


def panel_of(name: str) -> str:
    """The title of the group that a setting belongs to. Raises KeyError for a name of none."""
    for group, title in PANELS.items():
        if name in group.model_fields:
            return title
    raise KeyError(name)


def in_panels() -> list[str]:
    """All settings, group by group."""
    return [name for group in PANELS for name in group.model_fields]
