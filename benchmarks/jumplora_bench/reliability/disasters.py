"""What befalls the whole store: its lock is held, its disk is full, its root goes and returns."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.site import NoAnswer, Site, wait_until
from jumplora_bench.reliability.traffic import asks_right
from jumplora_bench.reliability.versions import Version
from jumplora_bench.reliability.vitals import listing, status_of
from jumplora_bench.scrape import value

LOCK_SECONDS = 10.0  # what a waiter for the lock may wait
SLACK_SECONDS = 4.0
ROOT_SECONDS = 5.0
LOOKS_SECONDS = 3.0  # several looks of the watcher while the root is away
PAUSE_SECONDS = 0.1
PROBES = ("/livez", "/v1/adapters", "/metrics")


def hold_lock(site: Site, findings: Findings, versions: Sequence[Version]) -> None:
    """Another process holds the store's lock: changes get 503 in time, all at once; reads work."""
    findings.case = "lock held"
    times: list[float] = []

    def change(version: Version) -> None:
        began = time.monotonic()
        response = _try_put(site, version)
        times.append(time.monotonic() - began)
        code = "no answer" if response is None else str(response.status_code)
        findings.check("PUT is 503", code == "503", code)
        if response is not None and code == "503":
            findings.check("Retry-After", "retry-after" in response.headers, "is missing")

    with (site.store / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = [threading.Thread(target=change, args=(version,)) for version in versions]
        began = time.monotonic()
        for thread in waiting:
            thread.start()
        for path in PROBES:
            status = status_of(site, path, 5)
            findings.check("reads while the lock is held", status == "200", f"{path} {status}")
        limit = began + LOCK_SECONDS + SLACK_SECONDS
        for thread in waiting:
            thread.join(max(0.0, limit - time.monotonic()))
        is_over = not any(thread.is_alive() for thread in waiting)
        findings.check("waiters end together", is_over, f"{len(times)} of {len(waiting)} ended")
    for thread in waiting:
        thread.join()
    response = _try_put(site, versions[0])
    code = "no answer" if response is None else str(response.status_code)
    findings.check("PUT after the lock is free", code in ("200", "201"), code)


def lose_root(
    site: Site,
    findings: Findings,
    served: Sequence[Version],
    name: str,
    take: Callable[[], object],
    give: Callable[[], object],
) -> None:
    """The store goes away and comes back: what is served stays so, and readyz tells."""
    findings.case = f"root gone: {name}"
    page = site.request("GET", "/readyz").text
    take()
    try:
        tells = wait_until(lambda: _readyz(site) != page, ROOT_SECONDS)
        findings.check("readyz tells", tells, page[:150])
        findings.check("jumplora_store_fault is 1", _store_fault(site) == 1, "it is not")
        limit = time.monotonic() + LOOKS_SECONDS
        while time.monotonic() < limit:
            _check_all_served(site, findings, served, "served while the root is away")
            time.sleep(PAUSE_SECONDS)
        status = status_of(site, "/livez", 5)
        findings.check("alive while the root is away", status == "200", status)
    finally:
        give()
    back = wait_until(lambda: _readyz(site) == page, ROOT_SECONDS)
    findings.check("ready when the root is back", back, _readyz(site)[:150])
    is_over = wait_until(lambda: _store_fault(site) == 0, ROOT_SECONDS)
    findings.check("jumplora_store_fault is 0 again", is_over, "it is not")
    _check_all_served(site, findings, served, "served when the root is back")
    response = _try_put(site, served[0])
    code = "no answer" if response is None else str(response.status_code)
    findings.check("PUT when the root is back", code in ("200", "201"), code)


def fill_disk(site: Site, findings: Findings, served: Sequence[Version], new: Version) -> None:
    """No room: 507, nothing left behind, others answer; with room again the same PUT succeeds.

    The store is a file system of its own, small enough to be filled.
    """
    findings.case = "disk full"
    ballast = site.store / ".tmp-ballast"
    before = listing(site.store)
    for free in (0, len(new.content) // 2):
        _fill(ballast, free)
        response = _try_put(site, new)
        code = "no answer" if response is None else str(response.status_code)
        findings.check("PUT on a full disk is 507", code == "507", f"{code} ({free} bytes free)")
        ballast.unlink(missing_ok=True)
        left = sorted(listing(site.store).keys() - before.keys())
        findings.check("nothing left on a full disk", not left, f"{left[:3]}")
        _check_all_served(site, findings, served, "served on a full disk")
    response = _try_put(site, new)
    code = "no answer" if response is None else str(response.status_code)
    findings.check("PUT with room again", code in ("200", "201"), code)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A mount at `folder`, which exists and is ours; OSError where this user may not mount."""
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PermissionError(done.stderr.strip())
    try:
        yield
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Take the mount away, though files in it may be open; nothing where none is."""
    if _is_mounted(folder):
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(source: Path, folder: Path) -> None:
    """Mount a folder at another (bind)."""
    subprocess.run(["mount", "--bind", source, folder], check=True)


def move_content(source: Path, target: Path) -> None:
    """All entries of a folder into another, the folder itself stays: an empty mount point."""
    target.mkdir(exist_ok=True)
    for name in os.listdir(source):
        with suppress(FileNotFoundError):  # a temporary file of the server that went
            (source / name).rename(target / name)


def return_content(source: Path, target: Path) -> None:
    """Entries back; what came up at the target in between goes."""
    for name in os.listdir(target):
        path = target / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    move_content(source, target)


def _is_mounted(folder: Path) -> bool:
    # Path.is_mount does not see a folder that is bound to one of the same file system.
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return str(folder) in {line.split()[4] for line in lines}


def _fill(path: Path, free: int) -> None:
    """Write until the disk is full, then give back `free` bytes."""
    with path.open("wb", buffering=0) as file:
        with suppress(OSError):
            while file.write(bytes(65536)):
                pass
        size = file.tell()
        file.truncate(max(0, size - free))


def _check_all_served(
    site: Site, findings: Findings, served: Sequence[Version], check: str
) -> None:
    for version in served:
        wrong = asks_right(
            lambda body: site.try_request("POST", "/generate", json=body, seconds=10), version
        )
        findings.check(check, wrong == "", f"{version.task}: {wrong}")


def _try_put(site: Site, version: Version) -> httpx.Response | None:
    try:
        return site.put(version.task, version.content, seconds=LOCK_SECONDS * 3)
    except NoAnswer:
        return None


def _readyz(site: Site) -> str:
    response = site.try_request("GET", "/readyz", seconds=5)
    return "no answer" if response is None else response.text


def _store_fault(site: Site) -> float:
    response = site.try_request("GET", "/metrics", seconds=5)
    return -1.0 if response is None else value(response.text, "jumplora_store_fault")
