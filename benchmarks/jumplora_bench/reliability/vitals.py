"""A server from outside: memory, descriptors, threads, metric series, files of its store."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from jumplora_bench.reliability.site import Site

GAUGE_SECONDS = 0.5
OWN_SOCKETS = 24
"""At most so many sockets a server has open for itself, a late quiet task and the measuring."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """At one moment. `files` are open descriptors without sockets, which come with clients."""

    resident_bytes: int
    files: tuple[str, ...]
    sockets: int
    threads: int
    series: int


def vitals(site: Site) -> Vitals:
    """Raises OSError or httpx.HTTPError where the server is gone."""
    pid = site.server.process.pid
    page = site.request("GET", "/metrics").raise_for_status().text
    targets = _descriptors(pid)
    return Vitals(
        resident_bytes=resident_bytes(pid),
        files=tuple(sorted(each for each in targets if not each.startswith("socket:"))),
        sockets=sum(each.startswith("socket:") for each in targets),
        threads=len(os.listdir(f"/proc/{pid}/task")),
        series=sum(bool(line) and not line.startswith("#") for line in page.splitlines()),
    )


def listing(store: Path) -> dict[str, int]:
    """Every path below the store with its size, but for the store's own lock."""
    return {
        str(path.relative_to(store)): path.lstat().st_size if not path.is_dir() else 0
        for path in sorted(store.rglob("*"))
        if path.name != ".lock"
    }


def status_of(site: Site, path: str, seconds: float) -> str:
    """The status of a probe as text; "no answer" where there is none in time."""
    response: httpx.Response | None = site.try_request("GET", path, seconds=seconds)
    return "no answer" if response is None else str(response.status_code)


class Gauge:
    """Looks at a process until the end of the block: the most memory and sockets it had.

    `crowded_until` is when it last had more than OWN_SOCKETS, by the monotonic clock.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most_bytes = 0
        self.most_sockets = 0
        self.crowded_until = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        with suppress(OSError):  # the process ended
            while not self._stop.wait(GAUGE_SECONDS):
                self.most_bytes = max(self.most_bytes, resident_bytes(self._pid))
                sockets = sockets_of(self._pid)
                self.most_sockets = max(self.most_sockets, sockets)
                if sockets > OWN_SOCKETS:
                    self.crowded_until = time.monotonic()


def sockets_of(pid: int) -> int:
    """Sockets that a process has open, the listening one too."""
    return sum(target.startswith("socket:") for target in _descriptors(pid))


def resident_bytes(pid: int) -> int:
    """Resident memory of a process. Raises OSError where it is gone."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _descriptors(pid: int) -> list[str]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed in between
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found
