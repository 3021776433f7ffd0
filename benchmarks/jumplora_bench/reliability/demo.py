"""A server with a copy of the demo's store, ready and warm, for the parts that besiege it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from jumplora_adapters.backbone import read_backbone
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.siege.quiet import RATE, Calm, QuietTask
from jumplora_bench.reliability.site import Site, wait_until

DEMO = Path(__file__).parents[3] / "adapters/demo"
LOADED_SECONDS = 120.0
QUIET_NOTE = (
    f"the quiet task sends {RATE:.0f} requests a second, each timed from when it was due; "
    "times are of its p95 alone."
)
SETTINGS: dict[str, object] = {
    "log_level": "info",  # a line for each request: names of clients reach the log
    "log_format": "text",
    "metrics_max_age": 0,
}


@contextmanager
def demo_site(python: Path, settings: Mapping[str, object] = SETTINGS) -> Iterator[Site]:
    """All tasks are READY, and the quiet one has answered."""
    with TemporaryDirectory(prefix="jumplora-siege-") as name:
        folder = Path(name)
        shutil.copytree(DEMO / "store", folder / "store")
        site = Site(read_backbone(DEMO / "backbone"), folder, settings, python=python)
        try:
            site.start()
            if not wait_until(lambda: _all_ready(site), LOADED_SECONDS):
                raise TimeoutError(f"not all tasks of the demo are READY: {site.log.read_text()}")
            yield site
        finally:
            site.close()


def _all_ready(site: Site) -> bool:
    tasks = site.request("GET", "/v1/adapters").raise_for_status().json()["adapters"]
    return all(task["state"] == "READY" for task in tasks)


def learned(site: Site) -> QuietTask:
    """The quiet task, with the right answers."""
    quiet = QuietTask(site.url)
    quiet.learn()
    return quiet


def check_calm(findings: Findings, calm: Calm, limit_seconds: float) -> None:
    """The quiet task was answered, rightly and in time."""
    refused, wrong = list(calm.refused[:1]), list(calm.wrong[:1])
    told = f"{len(calm.refused)} requests, the first: {refused}"
    findings.check("quiet task answered", not refused, told)
    findings.check("quiet task right", not wrong, f"{len(calm.wrong)} answers, the first: {wrong}")
    told = f"{calm.p95 * 1000:.0f} ms, at most {limit_seconds * 1000:.0f} are allowed"
    findings.check("quiet task in time", calm.p95 <= limit_seconds, told)


def milliseconds(calm: Calm, alone: Calm) -> tuple[str, str, str]:
    """Median and p95 as a table prints them, and how many times that of the quiet task alone."""
    times = calm.p95 / alone.p95
    return f"{calm.median * 1000:.0f}", f"{calm.p95 * 1000:.0f}", f"{times:.1f}"
