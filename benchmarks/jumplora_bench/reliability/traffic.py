"""Clients that ask tasks in turn, each answer checked against the versions that may give it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.versions import PARAMETERS, PROMPTS, Version

PAUSE_SECONDS = 0.02  # between two requests of a client: the server keeps time for the rest
PATIENCE = 30.0


@dataclass(slots=True)
class Span:
    """When one version of a task may answer: from the begin of its publish to the end of the next.

    `until` None: nothing came after it yet.
    """

    version: Version
    since: float
    until: float | None = None


@dataclass(slots=True)
class Expected:
    """Which version of each task may answer at a time, and what it must say."""

    spans: dict[str, list[Span]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, version: Version) -> None:
        """From now on this version may answer, beside the one before."""
        with self.lock:
            self.spans.setdefault(version.task, []).append(Span(version, time.monotonic()))

    def settle(self, version: Version) -> None:
        """From now on only this version may answer a new request of its task."""
        now = time.monotonic()
        with self.lock:
            for span in self.spans[version.task]:
                if span.version is not version and span.until is None:
                    span.until = now

    def fault(self, task: str, prompt: int, sent: float, digest: str, text: str) -> str | None:
        """What is wrong with an answer that came just now; None if nothing is."""
        with self.lock:
            spans = list(self.spans[task])
        allowed = [s.version for s in spans if s.until is None or s.until >= sent]
        found = next((version for version in allowed if version.digest == digest), None)
        if found is None:
            names = [version.digest[:8] for version in allowed]
            return f"version {digest[:8]} of {task} answered, allowed were {names}"
        if text != found.texts[prompt]:
            return f"{digest[:8]} of {task} answered {text!r}, right is {found.texts[prompt]!r}"
        return None


def said_in(response: httpx.Response) -> dict[str, Any]:
    """The answer's JSON object; empty where it is none."""
    try:
        said = response.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


class Traffic:
    """`clients` threads until the end of the block; faults go to `findings`.

    Within an outage, and for requests that an outage cut, a missing answer is allowed; a wrong
    one is a fault.
    """

    def __init__(
        self,
        url: str,
        tasks: Sequence[str],
        expected: Expected,
        findings: Findings,
        *,
        clients: int = 2,
    ) -> None:
        self._url = url
        self._tasks = tuple(tasks)
        self._expected = expected
        self._findings = findings
        self._stop = threading.Event()
        self._outage = threading.Event()
        self._last_outage = 0.0
        self.answered = 0
        self.slowest = 0.0
        self._threads = [
            threading.Thread(target=self._run, args=(turn,), daemon=True) for turn in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def outage_begins(self) -> None:
        """The server is ended on purpose."""
        self._last_outage = time.monotonic()
        self._outage.set()

    def outage_ends(self) -> None:
        """It is ready again."""
        self._last_outage = time.monotonic()
        self._outage.clear()

    def _run(self, turn: int) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE) as client:
            while not self._stop.wait(PAUSE_SECONDS):
                task, prompt = self._tasks[turn % len(self._tasks)], turn % len(PROMPTS)
                turn += 1
                sent = time.monotonic()
                trouble = self._ask(client, task, prompt, sent)
                is_cut = self._outage.is_set() or self._last_outage >= sent
                if trouble is not None and not (is_cut and trouble.startswith("no answer")):
                    self._findings.fault(f"traffic: {trouble}")
                if self._outage.is_set():
                    self._stop.wait(0.2)

    def _ask(self, client: httpx.Client, task: str, prompt: int, sent: float) -> str | None:
        body = {"task_id": task, "inputs": PROMPTS[prompt], "parameters": PARAMETERS}
        try:
            response = client.post("/generate", json=body)
        except httpx.TransportError as error:
            return f"no answer of {task}: {type(error).__name__}"
        if response.status_code != 200:
            return f"no answer of {task}: {response.status_code} {response.text[:120]}"
        self.answered += 1
        self.slowest = max(self.slowest, time.monotonic() - sent)
        digest = response.headers.get("x-adapter-version", "")
        text = str(said_in(response).get("generated_text"))
        fault = self._expected.fault(task, prompt, sent, digest, text)
        self._findings.check("answers", fault is None, str(fault))
        return None


def asks_right(ask: Callable[[dict[str, object]], httpx.Response | None], version: Version) -> str:
    """Ask all prompts of a version once; "" if all answers are its own, else what came."""
    for prompt, text in zip(PROMPTS, version.texts, strict=True):
        body: dict[str, object] = {
            "task_id": version.task,
            "inputs": prompt,
            "parameters": PARAMETERS,
        }
        response = ask(body)
        if response is None:
            return "no answer"
        if response.status_code != 200:
            return f"{response.status_code} {response.text[:120]}"
        said = said_in(response).get("generated_text")
        if response.headers.get("x-adapter-version") != version.digest:
            return f"version {response.headers.get('x-adapter-version', '')[:8]} answered"
        if said != text:
            return f"{said!r} instead of {text!r}"
    return ""
