"""What an operator may set: environment keys `JUMPLORA_*` and the flags of `jumplora serve`.

Owns what holds for them together and the refusal of unknown keys; `setting_groups` has the fields.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Literal, Self

from pydantic import ValidationError, model_validator
from pydantic_settings import SettingsConfigDict

from jumplora_server.binds import Bind, parse_bind
from jumplora_server.core import QueueLimits
from jumplora_server.setting_groups import (
    AccessSettings,
    AdapterSettings,
    EndingSettings,
    HttpSettings,
    ModelSettings,
    QualitySettings,
    QueueSettings,
    StageSettings,
    TelemetrySettings,
    split_networks,
)

PREFIX = "JUMPLORA_"
# Read by the command line's client commands, not by the server; a shell may well hold both.
CLIENT_KEYS = frozenset({"JUMPLORA_SERVER", "JUMPLORA_KEY"})

_HASHED_KEY = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE | re.ASCII)
MIN_KEY_CHARS = 8
# What Kubernetes sets in each pod of a namespace that has a Service `jumplora` or `jumplora-...`.
_SERVICE_KEY = re.compile(
    r"JUMPLORA(_[A-Z0-9_]*)?"
    r"_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)",
    re.ASCII,
)
_PORT_KEY = re.compile(r"JUMPLORA(_[A-Z0-9_]*)?_PORT", re.ASCII)
_ADDRESS = re.compile(r"(tcp|udp|sctp)://", re.ASCII)


class SettingsError(Exception):
    """The settings cannot be used. `lines` has one for each thing that is wrong."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


def key_hash(key: str) -> str:
    """SHA-256 hex of a key that was given plainly or as `sha256:<64 hex digits>`."""
    hashed = _HASHED_KEY.fullmatch(key)
    return hashed[1].lower() if hashed else hashlib.sha256(key.encode()).hexdigest()


class Settings(  # the last base's fields come first
    TelemetrySettings,
    EndingSettings,
    StageSettings,
    QualitySettings,
    AccessSettings,
    AdapterSettings,
    HttpSettings,
    QueueSettings,
    ModelSettings,
):
    """Everything that may be set, checked once at start. Seconds and bytes unless named otherwise.

    Every field is the environment key `JUMPLORA_<NAME>` and, keys apart, a flag of `jumplora
    serve`; a flag wins over the environment. A field stands in the class of its group.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.dtype == "int8" and self.device != "cpu":
            raise ValueError("JUMPLORA_DTYPE int8 runs on JUMPLORA_DEVICE cpu only")
        if self.kernels not in ("auto", "torch") and (
            self.dtype == "bfloat16" or self.device != "cpu"
        ):
            raise ValueError(
                f"JUMPLORA_KERNELS {self.kernels} computes JUMPLORA_DTYPE float32 and int8 on "
                "JUMPLORA_DEVICE cpu only"
            )
        return self

    @property
    def queue_limits(self) -> QueueLimits:
        """What may wait for a row."""
        return QueueLimits(self.max_queued_requests, self.max_queued_tokens, self.task_share)

    @property
    def requests_per_task(self) -> int:
        """How many prompts of one task may wait."""
        return self.queue_limits.requests_of_a_task()

    @property
    def prompts_per_request(self) -> int:
        """How long a request's list may be: a longer one than a task's share never got in."""
        return min(self.max_inputs, self.requests_per_task)

    @property
    def binds(self) -> tuple[Bind, ...]:
        """What is listened on; the main one first."""
        main = Bind("main", self.host, self.port)
        admin = () if self.admin_bind is None else (parse_bind("admin", self.admin_bind),)
        metrics = () if self.metrics_bind is None else (parse_bind("metrics", self.metrics_bind),)
        return (main, *admin, *metrics)

    @property
    def proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks whose X-Forwarded-For is believed."""
        return tuple(ip_network(part) for part in split_networks(self.trusted_proxies or ""))

    def key_hashes(self, scope: Literal["admin", "api"]) -> tuple[str, ...]:
        """SHA-256 hex of the keys of that scope; the plain ones are used nowhere else."""
        keys = self.admin_keys if scope == "admin" else self.api_keys
        return tuple(key_hash(key.get_secret_value()) for key in keys)


def service_keys(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The variables that Kubernetes made for its Services: not settings of ours.

    JUMPLORA_PORT is one of them where its value is an address, as in tcp://10.0.0.1:8000.
    """
    return tuple(
        key
        for key, value in sorted(environ.items())
        if _SERVICE_KEY.fullmatch(key) or (_PORT_KEY.fullmatch(key) and _ADDRESS.match(value))
    )


def unknown_keys(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Environment keys with our prefix that mean nothing, each with the closest one that does."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_KEYS
    ignored = known.union(service_keys(environ))
    strange = (key for key in environ if key.upper().startswith(PREFIX) and key not in ignored)
    return {
        key: next(iter(difflib.get_close_matches(key.upper(), sorted(known), n=1)), None)
        for key in sorted(strange)
    }


def load_settings(**flags: object) -> Settings:
    """Settings from `flags` and the environment; SettingsError says everything that is wrong."""
    lines = [
        f"{key} is not a setting" + (f"; did you mean {closest}?" if closest else "")
        for key, closest in unknown_keys(os.environ).items()
    ]
    if PREFIX + "PORT" in service_keys(os.environ):
        flags = {"port": Settings.model_fields["port"].default, **flags}
    try:
        settings = Settings(**flags)  # type: ignore[arg-type]  # checked by pydantic itself
        lines += _short_keys(settings)
    except ValidationError as error:
        lines += [_explain(item) for item in error.errors(include_url=False)]
    if lines:
        raise SettingsError(lines)
    return settings


def _short_keys(settings: Settings) -> list[str]:
    """A line for each setting that has a key which is too short; keys themselves are not shown."""
    return [
        f"{PREFIX}{name.upper()}: a key needs at least {MIN_KEY_CHARS} characters"
        for name, keys in (("admin_keys", settings.admin_keys), ("api_keys", settings.api_keys))
        if any(len(key.get_secret_value()) < MIN_KEY_CHARS for key in keys)
    ]


def _explain(item: Mapping[str, Any]) -> str:
    name = str(item["loc"][0]) if item["loc"] else "settings"
    field = Settings.model_fields.get(name)
    key = PREFIX + name.upper() if field else name
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:  # several settings together: the message names them
        return message
    if item["type"] == "missing":
        meaning = f" ({field.description})" if field else ""
        return f"{key} is missing{meaning}: set it or give --{name.replace('_', '-')}"
    given = "" if name.endswith("_keys") else f"{item['input']!r} is not allowed: "
    return f"{key}: {given}{message}"
