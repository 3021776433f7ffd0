"""A real Prometheus for tests: its binary from `PROMETHEUS_BIN`, the shipped configuration."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from ports import held_port

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "prometheus"
T = TypeVar("T")


def program(name: str) -> Path:
    """Return the path of `prometheus` or `promtool`, or skip the test, saying how to get them."""
    default = ROOT / ".cache" / "prometheus" / "usr" / "bin"
    folder = Path(os.environ.get("PROMETHEUS_BIN", default))
    if not (folder / name).is_file():
        assert "REQUIRE_PROMETHEUS" not in os.environ, f"no {name} in {folder}, and it is required"
        pytest.skip(f"no {name} in {folder}: run deploy/prometheus/fetch.sh or set PROMETHEUS_BIN")
    return folder / name


def eventually(check: Callable[[], T], seconds: float) -> T:
    """Return the first answer of `check` that is not an AssertionError or a refused connection.

    The last of these is raised when `seconds` are over.
    """
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        try:
            return check()
        except (AssertionError, httpx.TransportError):
            if time.monotonic() > deadline:
                raise
        pause.wait(0.1)


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an instant query's answer."""

    labels: dict[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Prometheus:
    """The HTTP API of a running Prometheus.

    It has one client: making one reads all certificates of the system, which takes longer than any
    query.
    """

    url: str
    http: httpx.Client

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an API call; an error of the API fails the test with its text."""
        answer = self.http.get(f"{self.url}/api/v1/{path}", params=parameters)
        # While it starts, Prometheus answers in plain text that it is not ready.
        assert "json" in answer.headers.get("content-type", ""), answer.text
        body = answer.json()
        assert body["status"] == "success", f"{path} {parameters}: {body}"
        return body["data"]

    def query(self, expr: str) -> list[Sample]:
        """Return the series of an expression at this moment."""
        result = self.get("query", query=expr)["result"]
        return [Sample(item["metric"], float(item["value"][1])) for item in result]

    def over_time(self, expr: str, seconds: float = 300) -> list[tuple[float, float]]:
        """Return moment and value of all samples that an expression had of late, once a second."""
        now = time.time()
        span = {"start": str(now - seconds), "end": str(now), "step": "1"}
        result = self.get("query_range", query=expr, **span)["result"]
        return [(float(at), float(value)) for item in result for at, value in item["values"]]

    def rules(self) -> list[dict[str, Any]]:
        """Return all recording and alerting rules with their health."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


# A second look at the same server, as in a cluster: another job, and a label that the first lacks.
OTHER_JOB = "lora"
OTHER_NAMESPACE = "blue"


def hurried(rules: str, times: int) -> str:
    """The rules with every duration that many times shorter: windows, offsets, `for`, intervals.

    Nothing else is changed, so the expressions are those that are shipped. Their numbers are shares
    and counts of requests, which do not depend on the unit of time.
    """
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}

    def shorter(found: re.Match[str]) -> str:
        before, number, unit, behind = found.groups()
        milliseconds = int(number) * seconds[unit] * 1000 // times
        return f"{before}{milliseconds}ms{behind}"

    return re.sub(
        r"(\[|offset |for: |interval: )(\d+)([smhd])(\]|$|(?=[\s)]))", shorter, rules, flags=re.M
    )


@contextmanager
def prometheus(
    folder: Path,
    target: str,
    *,
    jobs: Sequence[str] = ("jumplora",),
    times: int = 1,
    twice: bool = False,
) -> Iterator[Prometheus]:
    """Run Prometheus on the shipped configuration, with `target` as the server of all `jobs`.

    It scrapes and evaluates once a second. With `times` the rules are hurried, and it all happens
    twice a second.

    `twice` scrapes it once more, as OTHER_JOB in OTHER_NAMESPACE.
    """
    binary = program("prometheus")
    text = (SHIPPED / "prometheus.yml").read_text(encoding="utf-8")
    rules = (SHIPPED / "jumplora.rules.yml").read_text(encoding="utf-8")
    each = "1s" if times == 1 else "500ms"
    for shipped, ours in (
        ("scrape_interval: 15s", f"scrape_interval: {each}"),
        ("evaluation_interval: 15s", f"evaluation_interval: {each}"),
        ('"server:8000"', f'"{target}"'),
    ):
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, ours)
    before, named, block = text.partition("  - job_name: jumplora")
    assert named
    text = before + "".join(f"  - job_name: {job}{block}" for job in jobs)
    if twice:  # the list of jobs is the last part of the file
        labels = f"{{namespace: {OTHER_NAMESPACE}}}"
        text += (
            f"  - job_name: {OTHER_JOB}\n    static_configs:\n"
            f'      - {{targets: ["{target}"], labels: {labels}}}\n'
        )
    (folder / "prometheus.yml").write_text(text, encoding="utf-8")
    assert rules.count("    interval: 1m\n") == 1
    ours = rules.replace("interval: 1m", "interval: 1s") if times == 1 else hurried(rules, times)
    (folder / "jumplora.rules.yml").write_text(ours, encoding="utf-8")
    with held_port() as port:
        yield from _started(binary, folder, f"127.0.0.1:{port}")


def _started(binary: Path, folder: Path, address: str) -> Iterator[Prometheus]:
    """Start Prometheus in a folder with its configuration, yield it once it answers, end it."""
    command = [
        str(binary),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log, httpx.Client(timeout=10) as http:
        api = Prometheus(f"http://{address}", http)
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            eventually(lambda: api.get("status/buildinfo"), 20)
            yield api
        finally:
            process.terminate()
            process.wait(timeout=20)
