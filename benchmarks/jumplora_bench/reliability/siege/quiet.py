"""The quiet task: few requests at fixed times, each timed from when it was due, each checked."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from jumplora_bench.answers import percentile

TASK = "dbpedia"
PROMPTS = (
    "The Aller is a river in Lower Saxony, Germany, a tributary of the Weser.",
    "It is a species of beetle in the family Carabidae, found in Brazil.",
    "The company makes bicycles and was founded in Milan in 1885.",
)
RATE = 4.0  # requests a second
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Calm:
    """What became of the quiet task's requests in one phase. Seconds are from when each was due."""

    seconds: Sequence[float]
    refused: Sequence[str]
    wrong: Sequence[str]

    @property
    def p95(self) -> float:
        """Of those that were answered; infinite where none was."""
        return percentile(self.seconds, 0.95) if self.seconds else math.inf

    @property
    def median(self) -> float:
        """Of those that were answered."""
        return percentile(self.seconds, 0.5) if self.seconds else math.inf


@dataclass(slots=True)
class QuietTask:
    """Asks `TASK` of the server at `url`; a connection of its own for each request."""

    url: str
    _right: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def learn(self) -> None:
        """Take the answers of a server that does nothing else as the right ones."""
        self._right = [self._ask(prompt)[0] for prompt in PROMPTS]

    def watch(self, seconds: float, stop: threading.Event | None = None) -> Calm:
        """Ask for that time, or until `stop`; requests are never held back by late answers."""
        taken: list[float] = []
        refused: list[str] = []
        wrong: list[str] = []
        stop = stop or threading.Event()

        def ask(turn: int, due: float) -> None:
            prompt = turn % len(PROMPTS)
            text, trouble = self._ask(PROMPTS[prompt])
            with self._lock:
                if trouble:
                    refused.append(trouble)
                    return
                taken.append(time.monotonic() - due)
                if text != self._right[prompt]:
                    wrong.append(f"{text!r} instead of {self._right[prompt]!r}")

        threads = []
        began = time.monotonic()
        for turn in range(math.ceil(seconds * RATE)):
            due = began + turn / RATE
            if stop.wait(max(0.0, due - time.monotonic())):
                break
            threads.append(threading.Thread(target=ask, args=(turn, due), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join(2 * PATIENCE)
        return Calm(taken, refused, wrong)

    def _ask(self, text: str) -> tuple[str, str]:
        """The answer, and why there is none."""
        body = {"task_id": TASK, "text": text, "parameters": {"max_new_tokens": 8}}
        # Not httpx: its client takes 20 ms to be made, more than the server takes to answer.
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE)
        try:
            headers = {"content-type": "application/json"}
            connection.request("POST", "/generate", json.dumps(body), headers)
            response = connection.getresponse()
            told = response.read().decode(errors="replace")
        except (OSError, HTTPException) as error:
            return "", f"no answer: {type(error).__name__} {error}"
        finally:
            connection.close()
        if response.status != 200:
            return "", f"{response.status} {told[:120]}"
        try:
            return str(json.loads(told)["generated_text"]), ""
        except (ValueError, KeyError, TypeError):
            return "", f"no answer of ours: {told[:120]}"
