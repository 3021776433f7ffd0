"""A process that sends what is cheap to send and dear to handle: `flood URL KIND CLIENTS`.

Each client sends the requests of its kind one after another, as fast as they are answered. Prints
the statuses that came, twice a second. Ends when it is killed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, cycle
from urllib.parse import urlsplit

from jumplora_bench.reliability.siege.senders import say
from jumplora_bench.reliability.siege.shot import head, post
from jumplora_bench.reliability.siege.wire import exchange

_MIB = 1024**2
PATIENCE = 60.0


def _texts(count_: int, text: str, **parameters: object) -> bytes:
    return post({"task_id": "agnews", "text": [text] * count_, "parameters": parameters})


def _chunks(count_: int, chunk: bytes) -> bytes:
    fields = [("content-type", "application/json"), ("transfer-encoding", "chunked")]
    return head("POST", "/generate", fields) + chunk * count_ + b"0\r\n\r\n"


def _got(path: str) -> Callable[[], Iterator[bytes]]:
    return lambda: cycle((head("GET", path, [("connection", "close")]),))


def _made(make: Callable[[], bytes]) -> Callable[[], Iterator[bytes]]:
    return lambda: cycle((make(),))


def _unknown_tasks() -> Iterator[bytes]:
    for turn in count():
        yield post({"task_id": f"agnew-{turn}", "text": "a"})


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "16 texts of 64 KB": _made(lambda: _texts(16, "a b " * 16_000)),
    "16 texts of 64 KB, truncated": _made(lambda: _texts(16, "a b " * 16_000, truncate=100)),
    "64 texts of 16 KB": _made(lambda: _texts(64, "word " * 3_200)),
    "one text of 1 MB": _made(lambda: _texts(1, "a b " * 260_000)),
    "100,000 texts": _made(lambda: _texts(100_000, "a")),
    "80,000 unknown keys": _made(lambda: post({f"k{n}": 0 for n in range(80_000)})),
    "60,000 unknown parameters": _made(
        lambda: post({"text": "a", "parameters": {f"k{n}": 0 for n in range(60_000)}})
    ),
    "80,000 equal keys": _made(lambda: post(b"{" + b'"text": 0, ' * 80_000 + b'"text": 0}')),
    "1 MiB of [": _made(lambda: post(b"[" * (_MIB - 8))),
    "500,000 numbers": _made(lambda: post(b"[" + b"1," * 500_000 + b"1]")),
    "1 MB of escapes": _made(lambda: post(b'{"text": "' + b"\\u202e" * 170_000 + b'"}')),
    "a number of 1 MB": _made(lambda: post(b'{"text": ' + b"7" * 1_000_000 + b"}")),
    "a stop string of 1 MB": _made(lambda: _texts(1, "a", stop=["s" * 1_000_000])),
    "1,000,000 chunks of one byte": _made(lambda: _chunks(1_000_000, b"1\r\na\r\n")),
    "chunks of five bytes": _made(lambda: _chunks(200_000, b"5\r\naaaaa\r\n")),
    "unknown tasks": _unknown_tasks,
    "uploads without a key": _made(
        lambda: head("PUT", "/v1/adapters/agnews", [("content-length", str(_MIB))]) + bytes(_MIB)
    ),
    "heads of 60 KB": _made(lambda: head("GET", "/livez", [(f"x-{n}", "a") for n in range(7000)])),
    "GET /v1/adapters": _got("/v1/adapters"),
    "GET /metrics": _got("/metrics"),
    "GET /openapi.json": _got("/openapi.json"),
    "no route": _got("/" + "a/" * 4000),
}  # fmt: skip


def all_in_turn() -> Iterator[bytes]:
    """One request of each kind, again and again."""
    floods = [flood() for flood in FLOODS.values()]
    for each in cycle(floods):
        yield next(each)


KINDS = {**FLOODS, "all in turn": all_in_turn}


def main(url: str, kind: str, clients: int) -> None:
    """Until it is killed."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 80)
    came: Counter[str] = Counter()
    lock = threading.Lock()

    def run() -> None:
        for raw in KINDS[kind]():
            try:
                heard = exchange(address, raw, seconds=PATIENCE, linger=0)
                status = str(heard.answers[0].status) if heard.answers else heard.end
            except OSError as error:
                status = type(error).__name__
            with lock:
                came[status] += 1

    for _ in range(clients):
        threading.Thread(target=run, daemon=True).start()
    while True:
        time.sleep(0.5)
        with lock:
            if came:
                say(came=dict(came))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
