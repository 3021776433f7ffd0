"""One odd request: its bytes, how it ends, and what it may get."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jumplora_bench.reliability.siege.judge import Form
from jumplora_bench.reliability.siege.wire import Ending

TASKS = ("agnews", "subject", "register")
"""Those of the demo that may be asked, pinned and taken away. `dbpedia` is the quiet task's."""
REFUSED = frozenset((400,))
INVALID = frozenset((400, 413, 422))
ANY_REFUSAL = frozenset(range(400, 500))
Headers = Sequence[tuple[str | bytes, str | bytes]]


@dataclass(frozen=True, slots=True)
class Shot:
    """`methods` has one entry for each answer that is due; `allowed` and `form` are the judge's.

    `may_be_cut`: the server may close without an answer that arrives, as its refusal may be lost
    behind bytes that it does not read.
    """

    raw: bytes
    methods: tuple[str, ...] = ("POST",)
    allowed: frozenset[int] | None = None
    ending: Ending = "wait"
    may_be_cut: bool = False
    form: Form | None = None


Kind = Callable[[random.Random], Shot]


def body_of(rng: random.Random, **more: object) -> dict[str, object]:
    """A sound body, but for what `more` changes."""
    body: dict[str, object] = {
        "task_id": rng.choice(TASKS),
        "text": "Oil prices ease",
        "parameters": {"max_new_tokens": rng.randrange(1, 9)},
    }
    return {**body, **more}


def head(
    method: str | bytes, target: str | bytes, headers: Headers = (), version: str = "HTTP/1.1"
) -> bytes:
    """A request head with a Host; header bytes as they are given."""
    lines = [_bytes(method) + b" " + _bytes(target) + b" " + version.encode(), b"host: siege"]
    lines += [_bytes(name) + b": " + _bytes(value) for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(body: object, target: str = "/generate", headers: Headers = ()) -> bytes:
    """A whole POST; `body` is sent as it is where it is bytes, else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    whole = [*headers, ("content-type", "application/json"), ("content-length", str(len(content)))]
    return head("POST", target, whole) + content


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
