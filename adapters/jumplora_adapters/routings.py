"""The routing files of a store in one walk, reading again only those that may have changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from jumplora_adapters.errors import StoreError
from jumplora_adapters.regular_file import Stamp, is_settled, kind_of, now_ns, stamp_of
from jumplora_adapters.routing import ROUTING, Routing, read_routing


class Routings:
    """What every task's `routing.json` says. Thread-safe: what is kept is replaced as a whole."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kept: dict[str, tuple[Stamp, Routing]] = {}

    def survey(self, tasks: Iterable[str]) -> dict[str, Routing | StoreError]:
        """Of the tasks that have such a file: what it says, or what is wrong with it."""
        found: dict[str, Routing | StoreError] = {}
        kept: dict[str, tuple[Stamp, Routing]] = {}
        for task in tasks:
            began = now_ns()
            path = f"{self._root}/{task}/{ROUTING}"
            try:
                state = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                found[task] = StoreError(f"{path} cannot be read: {error.strerror}")
                continue
            known = self._kept.get(task)
            if known is not None and known[0] == stamp_of(state):
                found[task], kept[task] = known[1], known
                continue
            found[task] = routing = self._read(task, state.st_mode)
            if isinstance(routing, Routing) and is_settled(state, began):
                kept[task] = stamp_of(state), routing
        self._kept = kept
        return found

    def _read(self, task: str, mode: int) -> Routing | StoreError:
        folder = self._root / task
        if not stat.S_ISREG(mode):
            return StoreError(f"{folder / ROUTING} is {kind_of(mode)}; a file belongs there")
        try:
            return read_routing(folder)
        except StoreError as error:
            return error.with_traceback(None)
