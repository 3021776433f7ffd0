"""`jumplora bench quotas`: how closely a key's quota holds, and what its neighbour notices.

A loud key asks a task of its own, evenly, first at the pace of its quota and then at a multiple of
it, without a look at Retry-After. A quiet key asks another task beside it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from jumplora_adapters.backbone import read_backbone, resolve_backbone
from jumplora_bench.answers import percentile
from jumplora_bench.backbone import write_backbone
from jumplora_bench.bars import verdict
from jumplora_bench.flooding import Flood, Reply, at_a_rate, flooded, prepared, with_key
from jumplora_bench.published import publish_tasks, task_names
from jumplora_bench.report import Grid, Report
from jumplora_bench.scrape import value
from jumplora_bench.server_process import BenchServer, served
from jumplora_bench.shapes import ShapeName
from jumplora_bench.tokenizer import random_text

ALONE = "alone"
TOLERANCE = 0.05  # of the quota, over a window of a minute or more
_DISTINCT = 64  # requests that are asked in turn
_TOKENS = ("jumplora_prompt_tokens_total", "jumplora_generation_tokens_total")


@dataclass(frozen=True, slots=True)
class QuotasPlan:
    """What to run; `backbone` is a folder or hub id that takes the place of the random `shape`.

    One loud key may send `requests` prompts a minute, the other use as many tokens as these have.
    """

    shape: ShapeName = "base"
    backbone: str | None = None
    dtype: str = "float32"
    threads: int = 1
    rows: int = 16
    source: int = 24
    new: int = 8
    density: float = 0.051
    requests: int = 600
    load: float = 10.0
    quiet_rate: float = 4.0
    seconds: float = 60.0

    @property
    def tokens(self) -> int:
        """Of prompts and answers, a minute."""
        return self.requests * (self.source + self.new)


@dataclass(frozen=True, slots=True)
class LoudKey:
    """A key with one quota: `most` of `what` a minute, `each` for a request."""

    name: str
    what: str
    most: int
    each: int
    task: str
    secret: str = field(default_factory=lambda: secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class Window:
    """What the quiet key got, and what the loud one did: its statuses and what it used."""

    quiet: Sequence[Reply]
    loud: Mapping[int, int] = field(default_factory=dict)
    used: float = 0.0
    share: float | None = None  # of what its quota allows in the window

    @property
    def p95(self) -> float | None:
        """Of the quiet key's answers, seconds; None without any."""
        seconds = [reply.seconds for reply in self.quiet if reply.status == 200]
        return percentile(seconds, 0.95) if seconds else None

    @property
    def refused(self) -> int:
        """Quiet requests that got no answer."""
        return sum(reply.status != 200 for reply in self.quiet)


def loud_keys(plan: QuotasPlan, tasks: Sequence[str]) -> list[LoudKey]:
    """One for each quota."""
    by_prompts, by_tokens = tasks
    return [
        LoudKey("by-prompts", "requests_per_minute", plan.requests, 1, by_prompts),
        LoudKey("by-tokens", "tokens_per_minute", plan.tokens, plan.source + plan.new, by_tokens),
    ]


def keys_file(keys: Sequence[LoudKey], quiet: str) -> str:
    """The server's file of keys: the loud ones, and the quiet one without a quota."""
    entries = [(key.name, key.secret, f"{key.what} = {key.most}\n") for key in keys]
    return "\n".join(
        f'[[keys]]\nid = "{name}"\nhash = "sha256:{hashlib.sha256(secret.encode()).hexdigest()}"\n'
        f'scopes = ["infer"]\n{quota}'
        for name, secret, quota in [*entries, ("quiet", quiet, "")]
    )


class QuotasBench:
    """One server, one quiet key, and windows of one loud key beside it."""

    def __init__(self, plan: QuotasPlan, server: BenchServer, quiet: tuple[str, str]) -> None:
        """`quiet` is the quiet key's task and secret."""
        self._plan = plan
        self._server = server
        self._rng = random.Random(0)
        self._quiet = self._requests(*quiet)

    def alone(self) -> Window:
        """The quiet key alone."""
        return Window(self._ask_quietly())

    def beside(self, key: LoudKey, load: float) -> Window:
        """A loud key at `load` times its quota."""
        seconds, quota = self._plan.seconds, key.most / 60
        requests = self._requests(key.task, key.secret)
        before = self._server.scrape()
        flood = Flood(requests, rate=load * quota / key.each)
        with flooded(self._server.url, flood, seconds) as counts:
            quiet = self._ask_quietly()
            loud = counts()
        after = self._server.scrape()
        used = float(loud[200])
        if key.each != 1:
            labels = {"task_id": key.task}
            used = sum(value(after, n, labels) - value(before, n, labels) for n in _TOKENS)
        return Window(quiet, loud, used, used / (quota * seconds))

    def warm_up(self) -> None:
        """Ask with the quiet key, so that the first window has no first requests."""
        asyncio.run(at_a_rate(self._server.url, self._quiet, self._plan.quiet_rate, 3.0))

    def _ask_quietly(self) -> list[Reply]:
        plan = self._plan
        return asyncio.run(at_a_rate(self._server.url, self._quiet, plan.quiet_rate, plan.seconds))

    def _requests(self, task: str, secret: str) -> tuple[bytes, ...]:
        new, source = self._plan.new, self._plan.source
        limits = {"min_new_tokens": new, "max_new_tokens": new, "truncate": source}
        return tuple(
            with_key(prepared(task, random_text(source, self._rng), **limits), secret)
            for _ in range(_DISTINCT)
        )


def measure_quotas(
    plan: QuotasPlan,
    command: str,
    *,
    on_start: Callable[[int], None],
    on_step: Callable[[str], None],
    on_state: Callable[[str], None],
) -> Report:
    """Build store and server, run all windows in turn. Raises ServerEnded."""
    what = f"backbone {plan.backbone}" if plan.backbone else f"T5-{plan.shape} shape"
    title = (
        f"Quotas: {what}, {plan.dtype}, {plan.rows} rows, {plan.source} tokens in, {plan.new} out, "
        f"{plan.quiet_rate:g} quiet requests/s, windows of {plan.seconds:g} s"
    )
    report = Report("quotas", title, command)
    quiet_task, *tasks = task_names(3)
    quiet_secret, keys = secrets.token_hex(16), loud_keys(plan, tasks)
    with tempfile.TemporaryDirectory(prefix="jumplora-bench-") as folder:
        scratch = Path(folder)
        on_state("writing backbone and tasks")
        path = (
            resolve_backbone(plan.backbone)
            if plan.backbone
            else write_backbone(scratch / "backbone", plan.shape)
        )
        publish_tasks(
            scratch / "store", read_backbone(path), [quiet_task, *tasks], density=plan.density
        )
        (scratch / "keys.toml").write_text(keys_file(keys, quiet_secret), encoding="utf-8")
        on_state("starting the server")
        settings = {
            "dtype": plan.dtype,
            "threads": plan.threads or torch.get_num_threads(),
            "max_rows": plan.rows,
            "keys_file": scratch / "keys.toml",
            "open_metrics": "yes",
        }
        with served(path, scratch / "store", scratch / "server.log", settings) as server:
            bench = QuotasBench(plan, server, (quiet_task, quiet_secret))
            bench.warm_up()
            on_start(1 + 2 * len(keys))
            on_step(ALONE)
            found: dict[str, tuple[LoudKey | None, Window]] = {ALONE: (None, bench.alone())}
            for key in keys:
                for load in (1.0, plan.load):
                    name = f"{load:g} x {key.most} {key.what.replace('_', ' ')}"
                    on_step(name)
                    found[name] = (key, bench.beside(key, load))
    fill(report, found, even=lambda name: name.startswith("1 x "))
    return report


def fill(
    report: Report,
    found: Mapping[str, tuple[LoudKey | None, Window]],
    *,
    even: Callable[[str], bool],
) -> None:
    """One line a window. `even` says of which the loud key keeps to its quota."""
    rows = []
    for name, (key, window) in found.items():
        loud = Counter(window.loud)
        counts = "/".join(str(loud[status]) for status in (200, 429, 503)) if key else ""
        share = "" if window.share is None else f"{window.share:.3f}"
        is_met = None
        if window.share is not None:
            holds = set(loud) == {200} if even(name) else abs(window.share - 1) <= TOLERANCE
            is_met = holds and window.p95 is not None and not window.refused
        p95 = "-" if window.p95 is None else f"{1000 * window.p95:.0f}"
        rows.append([name, counts, share, p95, str(window.refused), verdict(is_met)])
    report.grids.append(
        Grid(
            "A loud key, and a quiet one beside it",
            ["loud key", "200/429/503", "used / quota", "quiet p95 ms", "quiet refused", "bar"],
            rows,
        )
    )
    report.notes.append(
        "Used / quota: prompts that were answered, or tokens of prompts and answers by the "
        "server's counters, over what the quota allows in the window. Quiet p95: timed from when "
        "each request was due. Bar: at 1 x nothing is refused, over it what was used is within "
        f"{TOLERANCE:.0%} of the quota; and no quiet request without an answer. All share this "
        "machine's cores."
    )
    report.data = {
        "windows": {
            name: {
                "quiet_p95_seconds": window.p95,
                "quiet_refused": window.refused,
                "loud": {str(status): n for status, n in sorted(window.loud.items())},
                "used": window.used,
                "share_of_quota": window.share,
            }
            for name, (_, window) in found.items()
        }
    }
