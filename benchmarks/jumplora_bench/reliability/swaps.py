"""Hot swaps under load: over HTTP, by a publisher that is killed, by a server that is killed."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import httpx

from jumplora_adapters.store import Step
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.site import NoAnswer, Site, wait_until
from jumplora_bench.reliability.traffic import Expected, Traffic, asks_right
from jumplora_bench.reliability.versions import Version

FOLLOW_SECONDS = 15.0
# Only a delete detaches, only an archive is staged, and a swap changes no routing.
_OF_OTHERS = ("detached", "staged", "routed")
STEPS = tuple(step for step in get_args(Step) if step not in _OF_OTHERS)
TURNS = (
    "http",
    "publisher",
    "http",
    "http",
    "server",
    "http",
    "publisher",
    "http",
    "publisher",
    "http",
)
"""What makes each swap, in turn: six over HTTP, three killed publishers, one killed server."""


class Publisher:
    """Publishes into the store from a process of its own, past the server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def publish(self, version: Version, step: str | None) -> bool:
        """Publish, and die after `step`; whether it died there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"file": str(version.path), "step": step}) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        if not told["killed"] and told["status"] != 0:
            raise RuntimeError(f"the publisher ended with {told['status']}")
        return bool(told["killed"])


@contextmanager
def publisher(site: Site) -> Iterator[Publisher]:
    """A publisher for the site's store with the site's interpreter."""
    program = Path(__file__).with_name("publisher.py")
    with subprocess.Popen(
        [site.python, program, site.store, site.backbone.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:  # closing its input ends it
        yield Publisher(process)


@dataclass(slots=True)
class Swaps:
    """The tasks that are swapped, the version each serves, and every version that was published."""

    site: Site
    findings: Findings
    versions: dict[str, Sequence[Version]]
    expected: Expected
    traffic: Traffic
    current: dict[str, Version]
    kept: dict[str, set[str]] = field(default_factory=dict)
    made: Counter[str] = field(default_factory=Counter)
    followed: list[float] = field(default_factory=list)

    def run(self, count: int, helper: Publisher, seed: int, on_swap: Callable[[int], None]) -> None:
        """Make `count` swaps, kinds in turn."""
        rng = random.Random(seed)
        for task, version in self.current.items():
            self.kept[task] = {version.digest}
        for turn in range(count):
            task = rng.choice(sorted(self.versions))
            others = [each for each in self.versions[task] if each != self.current[task]]
            version, kind = rng.choice(others), TURNS[turn % len(TURNS)]
            self.findings.case = f"swap by {kind}"
            self.expected.begin(version)
            if kind == "http":
                self._over_http(version)
            elif kind == "publisher":
                self._killed_publisher(version, helper, STEPS[self.made[kind] % len(STEPS)])
            else:
                self._killed_server(version, rng.random())
            self.made[kind] += 1
            on_swap(turn + 1)

    def check_kept(self) -> None:
        """Every version that was ever current is in the store, whole, and answers by its name."""
        for task, digests in self.kept.items():
            for digest in digests:
                path = self.site.store / task / f"{digest}.safetensors"
                is_whole = path.is_file() and _digest(path) == digest
                self.findings.check("no version lost", is_whole, f"{task}@{digest[:8]}")
                version = next(v for v in self.versions[task] if v.digest == digest)
                wrong = asks_right(self._ask_named(f"{task}@{digest}"), version)
                self.findings.check("old version answers", wrong == "", wrong)
        # Who was killed cannot tidy up; the next start does.
        self.site.stop()
        self.site.start()
        left = [p.name for p in self.site.store.rglob(".*") if p.name != ".lock"]
        self.findings.check("no leftover", not left, f"{left[:3]}")

    def _ask_named(self, name: str) -> Callable[[dict[str, object]], httpx.Response | None]:
        return lambda body: self.site.try_request(
            "POST", "/generate", json=body | {"task_id": name}
        )

    def _over_http(self, version: Version) -> None:
        try:
            response = self.site.put(version.task, version.content)
        except NoAnswer as error:
            self.findings.fault(f"PUT: {error}")
            self._follow_pointer(version.task)
            return
        is_right = response.status_code in (200, 201)
        what = f"{response.status_code} {response.text[:100]}"
        self.findings.check("PUT", is_right, what)
        self._settle(version) if is_right else self._follow_pointer(version.task)

    def _killed_publisher(self, version: Version, helper: Publisher, step: str) -> None:
        self.findings.case = f"publisher killed after {step!r}"
        is_killed = helper.publish(version, step)
        self.made[f"publisher killed after {step!r}" if is_killed else "publisher not killed"] += 1
        self._follow_pointer(version.task)

    def _killed_server(self, version: Version, share: float) -> None:
        """SIGKILL somewhere within a PUT, whose length is guessed from those before."""
        answers: list[int] = []

        def put() -> None:
            try:
                answers.append(self.site.put(version.task, version.content).status_code)
            except NoAnswer:
                return

        self.traffic.outage_begins()
        putting = threading.Thread(target=put)
        putting.start()
        time.sleep(share * 0.25)  # the moment is random, and any is right
        self.site.kill()
        putting.join()
        self.site.start()
        self.traffic.outage_ends()
        pointer = self._pointer(version.task)
        if answers and answers[0] in (200, 201):
            is_kept = pointer == version.digest
            self.findings.check("acknowledged and kept", is_kept, f"{pointer[:8]} is current")
        self._follow_pointer(version.task)

    def _follow_pointer(self, task: str) -> None:
        """The old or the new version is current, and that one answers."""
        pointer = self._pointer(task)
        version = next((v for v in self.versions[task] if v.digest == pointer), None)
        if not self.findings.check("pointer is sound", version is not None, pointer[:80]):
            return
        assert version is not None
        began = time.monotonic()
        follows = wait_until(
            lambda: self.site.status(task).get("version") == pointer, FOLLOW_SECONDS
        )
        self.findings.check("server follows", follows, f"not within {FOLLOW_SECONDS:.0f} s")
        self.followed.append(time.monotonic() - began)
        if follows:
            self._settle(version)

    def _settle(self, version: Version) -> None:
        self.current[version.task] = version
        self.kept[version.task].add(version.digest)
        self.expected.settle(version)

    def _pointer(self, task: str) -> str:
        try:
            return (self.site.store / task / "current").read_text().strip()
        except OSError as error:
            return f"{error}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
