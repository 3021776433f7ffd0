"""A server from outside: memory, descriptors, threads, metric series, files of its store."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.reliability.site import Site


@dataclass(frozen=True, slots=True)
class Vitals:
    """At one moment. `files` are open descriptors that are no sockets: those come with clients."""

    resident_bytes: int
    files: tuple[str, ...]
    sockets: int
    threads: int
    series: int


def vitals(site: Site) -> Vitals:
    """Raises OSError or httpx.HTTPError where the server is gone."""
    folder = Path(f"/proc/{site.server.process.pid}")
    page = site.request("GET", "/metrics").raise_for_status().text
    targets = _descriptors(folder / "fd")
    return Vitals(
        resident_bytes=_resident(folder),
        files=tuple(sorted(each for each in targets if not each.startswith("socket:"))),
        sockets=sum(each.startswith("socket:") for each in targets),
        threads=len(os.listdir(folder / "task")),
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


def _resident(folder: Path) -> int:
    for line in (folder / "status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _descriptors(folder: Path) -> list[str]:
    found = []
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):  # closed in between
            found.append(os.readlink(folder / name))
    return found
