"""Which folders of a store hold which version, without walking over all of them for each question.

A folder is listed again when its stamp shows a change, by this process or another.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from jumplora_adapters.manifest import is_task_id
from jumplora_adapters.regular_file import Stamp, is_settled, now_ns, stamp_of
from jumplora_adapters.store_files import SUFFIX, version_digests

FEW_FOLDERS = 64  # looked at for each question: 0.2 ms
REFRESH_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a folder held; `stamp` is None where that may change without another stamp."""

    stamp: Stamp | None
    names: tuple[str, ...]


_NOTHING = _Listing(None, ())


class StoreIndex:
    """Thread-safe; any process may change the folder.

    A version that had no file is found as soon as it has one. In a store of many tasks another
    copy of one that had a file may be noticed REFRESH_SECONDS later.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = str(root)
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks = _NOTHING
        self._folders: dict[str, _Listing] = {}
        self._holders: dict[str, tuple[str, ...]] = {}
        self._refreshed_at = float("-inf")

    def files_of(self, digest: str) -> tuple[tuple[Path, Stamp], ...]:
        """The version's files in the order of their tasks, each with its stamp."""
        with self._lock:
            is_fresh = self._is_due()
            if is_fresh:
                self._refresh()
            found, is_whole = self._look(digest)
            if not is_fresh and not (found and is_whole):
                self._refresh()
                found, _ = self._look(digest)
            return found

    def files_of_all(self, digests: Iterable[str]) -> dict[str, tuple[tuple[Path, Stamp], ...]]:
        """`files_of` each, for one look at the folders."""
        with self._lock:
            self._refresh()
            return {digest: self._look(digest)[0] for digest in digests}

    def tasks(self) -> tuple[str, ...]:
        """Names of the folders that may hold a task, sorted; none where there is no store."""
        with self._lock:
            self._list_tasks()
            return self._tasks.names

    def holdings(self) -> dict[str, tuple[str, ...]]:
        """By task the digests of its version files, sorted; all folders are looked at."""
        with self._lock:
            self._refresh()
            return {task: listing.names for task, listing in self._folders.items()}

    # From here on the lock is held.

    def _is_due(self) -> bool:
        is_small = len(self._folders) <= FEW_FOLDERS
        return is_small or self._clock() - self._refreshed_at >= REFRESH_SECONDS

    def _look(self, digest: str) -> tuple[tuple[tuple[Path, Stamp], ...], bool]:
        """The files that are there now, and whether none is missing."""
        holders = self._holders.get(digest, ())
        found: list[tuple[Path, Stamp]] = []
        for task in holders:
            path = f"{self._root}/{task}/{digest}{SUFFIX}"
            try:
                state = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(state.st_mode):
                found.append((Path(path), stamp_of(state)))
        return tuple(found), len(found) == len(holders)

    def _refresh(self) -> None:
        self._list_tasks()
        folders: dict[str, _Listing] = {}
        is_changed = self._folders.keys() != set(self._tasks.names)
        for task in self._tasks.names:
            before = self._folders.get(task, _NOTHING)
            folders[task] = listing = _listed(f"{self._root}/{task}", before)
            is_changed = is_changed or listing.names != before.names
        self._folders = folders
        if is_changed:
            holders: dict[str, list[str]] = {}
            for task, listing in folders.items():
                for digest in listing.names:
                    holders.setdefault(digest, []).append(task)
            self._holders = {digest: tuple(tasks) for digest, tasks in holders.items()}
        self._refreshed_at = self._clock()

    def _list_tasks(self) -> None:
        began = now_ns()
        try:
            state = os.stat(self._root)
            if self._tasks.stamp != stamp_of(state):
                with os.scandir(self._root) as entries:
                    names = sorted(
                        entry.name
                        for entry in entries
                        if is_task_id(entry.name) and entry.is_dir(follow_symlinks=False)
                    )
                stamp = stamp_of(state) if is_settled(state, began) else None
                self._tasks = _Listing(stamp, tuple(names))
        except OSError:
            self._tasks = _NOTHING


def _listed(folder: str, before: _Listing) -> _Listing:
    """The folder's versions; none where it is gone, or a link, or may not be read."""
    began = now_ns()
    try:
        state = os.lstat(folder)
        if before.stamp == stamp_of(state):
            return before
        if not stat.S_ISDIR(state.st_mode):
            return _NOTHING
        names = tuple(version_digests(folder))
    except OSError:
        return _NOTHING
    return _Listing(stamp_of(state) if is_settled(state, began) else None, names)
