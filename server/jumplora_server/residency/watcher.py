"""The watcher: one thread that notices when the store's pointers change.

It compares what the store wants with what was noticed before; what to do about it is not decided
here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from jumplora_adapters.errors import AdapterError

_log = logging.getLogger(__name__)


class Watcher:
    """Started and stopped once. A store that cannot be read now is read again next time."""

    def __init__(
        self,
        pointers: Callable[[], Mapping[str, str]],
        noticed: Callable[[], Mapping[str, str]],
        changed: Callable[[str], None],
        period_seconds: float,
    ) -> None:
        """`pointers` and `noticed` give the desired version by task, as the store says and as is
        known; `changed` is called with each task in which they differ, removed ones too."""
        self._pointers = pointers
        self._noticed = noticed
        self._changed = changed
        self._period_seconds = period_seconds
        self._condition = threading.Condition()
        self._is_notified = False
        self._is_stopped = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread; the first comparison is made one period later."""
        self._thread.start()

    def notify(self) -> None:
        """Compare now."""
        with self._condition:
            self._is_notified = True
            self._condition.notify()

    def stop(self, timeout: float) -> None:
        """End the thread."""
        with self._condition:
            self._is_stopped = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def compare(self) -> None:
        """Compare once and tell of the differences."""
        noticed = self._noticed()  # first: a task that appears in between must not seem removed
        try:
            pointers = self._pointers()
        except (AdapterError, OSError) as error:
            if not self._is_failing:
                _log.warning("the store cannot be read: %s", error)
            self._is_failing = True
            return
        for task in sorted(pointers.keys() | noticed.keys()):
            if pointers.get(task) != noticed.get(task):
                self._changed(task)
        self._is_failing = False

    def _run(self) -> None:
        while self._wait():
            try:
                self.compare()
            except Exception:  # whatever it is, the next comparison may go well
                if not self._is_failing:
                    _log.exception("the comparison with the store failed")
                self._is_failing = True

    def _wait(self) -> bool:
        with self._condition:
            self._condition.wait_for(
                lambda: self._is_notified or self._is_stopped, self._period_seconds
            )
            self._is_notified = False
            return not self._is_stopped
