"""All pointers of a store in one walk, reading again only those that may have changed."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from jumplora_adapters.errors import NoPointer, StoreError
from jumplora_adapters.manifest import is_task_id
from jumplora_adapters.regular_file import Stamp, is_settled, kind_of, now_ns, stamp_of
from jumplora_adapters.store_files import CURRENT, read_pointer
from jumplora_adapters.store_lock import LOCK


class Pointers:
    """What every task's `current` holds. Thread-safe: what is kept is replaced, never changed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kept: dict[str, tuple[Stamp, str]] = {}

    def survey(self) -> dict[str, str | StoreError]:
        """By task the digest, or what is wrong. Raises StoreError where there is no store.

        A folder with neither a task nor the store's mark is none: a volume that is not mounted.
        """
        found: dict[str, str | StoreError] = {}
        kept: dict[str, tuple[Stamp, str]] = {}
        folders, links, is_marked = self._entries()
        for task in folders:
            began = now_ns()
            state = self._state(task)
            if state is None:
                continue
            known = self._kept.get(task)
            if isinstance(state, StoreError):
                found[task] = state
            elif known is not None and known[0] == stamp_of(state):
                found[task], kept[task] = known[1], known
            else:
                found[task] = digest = self._read(task)
                if isinstance(digest, str) and is_settled(state, began):
                    kept[task] = stamp_of(state), digest
        for task in links:
            found[task] = StoreError(f"{self._root / task} is a link; a task is a folder")
        if not found and not is_marked:
            raise StoreError(
                f"{self._root} has neither a task nor the file {LOCK} that marks a store: is its "
                "volume mounted?"
            )
        self._kept = kept
        return found

    def _entries(self) -> tuple[list[str], list[str], bool]:
        """Folders and links that may be tasks, by name, and whether the mark is there."""
        folders: list[str] = []
        links: list[str] = []
        is_marked = False
        try:
            with os.scandir(self._root) as entries:
                for entry in entries:
                    if entry.name == LOCK:
                        is_marked = entry.is_file(follow_symlinks=False)
                    elif not is_task_id(entry.name):
                        continue
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    elif entry.is_symlink():
                        links.append(entry.name)
        except FileNotFoundError as error:
            raise StoreError(f"the store {self._root} is not there") from error
        except OSError as error:
            raise StoreError(f"the store {self._root} cannot be read: {error.strerror}") from error
        return sorted(folders), sorted(links), is_marked

    def _state(self, task: str) -> os.stat_result | StoreError | None:
        """The state of an ordinary `current`, or what is wrong; None where the task is gone."""
        path = f"{self._root}/{task}/{CURRENT}"
        try:
            state = os.lstat(path)
        except FileNotFoundError:
            if not os.path.lexists(f"{self._root}/{task}"):
                return None
            return NoPointer(f"{path} is not there, so no version of task {task!r} is current")
        except OSError as error:
            if error.errno == errno.ENOTDIR:  # replaced by something else just now
                return None
            return StoreError(f"{path} cannot be read: {error.strerror}")
        if not stat.S_ISREG(state.st_mode):
            return StoreError(
                f"{path} is {kind_of(state.st_mode)}; a file with 64 hexadecimal digits belongs "
                "there"
            )
        return state

    def _read(self, task: str) -> str | StoreError:
        try:
            digest = read_pointer(self._root / task)
        except StoreError as error:
            return error.with_traceback(None)  # it is kept for a while, its frames need not be
        if digest is None:
            return NoPointer(f"{self._root / task / CURRENT} was removed just now")
        return digest
