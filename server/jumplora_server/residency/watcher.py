"""The watcher: one thread that notices when something in the store changes.

It compares what the store says with what was noticed before; what to do about it is not decided
here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from jumplora_adapters.errors import AdapterError, NoPointer, StoreError
from jumplora_server.pulse import Pulse

_log = logging.getLogger(__name__)

# A task counts as removed when two looks in a row miss it, the second after this time at most:
# tasks also go one by one when a volume is moved or unmounted, and then the store goes with them.
CONFIRM_SECONDS = 0.5

Survey = Callable[[], Mapping[str, str | StoreError]]
"""Task -> its desired version as the store says, or what is wrong with its pointer."""


class Watcher:
    """Started and stopped once. A store that cannot be read now is read again next time."""

    def __init__(
        self,
        survey: Survey,
        noticed: Callable[[], Mapping[str, str | None]],
        changed: Callable[[str], None],
        period_seconds: float,
        *,
        blamed: Callable[[str | None], object] = lambda fault: None,
        look_at_files: Callable[[], object] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`noticed` gives the desired version by task as is known (None: its pointer was at fault);
        `changed` is called with each task of which the store says something else, removed ones too.

        `blamed` is called with what is wrong with the store, when that is another than before, and
        with None when nothing is any more; `look_at_files` after each comparison: what did not load
        may be repaired.
        """
        self._survey = survey
        self._noticed = noticed
        self._changed = changed
        self._period_seconds = period_seconds
        self._blamed = blamed
        self._look_at_files = look_at_files
        self._condition = threading.Condition()
        self._is_notified = False
        self._is_stopped = False
        self._fault: str | None = None
        self._missing: set[str] = set()
        self.pulse = Pulse("watcher", clock)
        self._thread = threading.Thread(
            target=self.pulse.run, args=(self._run,), name="watcher", daemon=True
        )

    @property
    def fault(self) -> str | None:
        """Why the store could not be read when it was last compared."""
        return self._fault

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

    def look(self) -> Mapping[str, str | StoreError]:
        """Read the store; {} where that fails, which `fault` explains and the log once."""
        try:
            found = self._survey()
        except (AdapterError, OSError) as error:
            self._blame(str(error))
            return {}
        if self._fault is not None:
            _log.warning("the store can be read again")
            self._blamed(None)
        self._fault = None
        return found

    def compare(self) -> None:
        """Compare once and tell of the differences."""
        noticed = self._noticed()  # first: a task that appears in between must not seem removed
        found = self.look()
        if self._fault is not None:
            self._missing.clear()
            return
        missing = noticed.keys() - found.keys()
        unconfirmed, self._missing = missing - self._missing, set(missing)
        for task in sorted((found.keys() | noticed.keys()) - unconfirmed):
            if _is_news(found.get(task), task in noticed, noticed.get(task)):
                self._changed(task)
        self._look_at_files()

    def _run(self) -> None:
        while self._wait():
            try:
                with self.pulse.doing("reading the store"):
                    self.compare()
            except Exception as error:  # whatever it is, the next comparison may go well
                self._blame(f"{type(error).__name__}: {error}", error)

    def _blame(self, fault: str, bug: Exception | None = None) -> None:
        if self._fault != fault:
            _log.warning("the store cannot be read: %s", fault, exc_info=bug)
            self._blamed(fault)
        self._fault = fault

    def _wait(self) -> bool:
        period = self._period_seconds
        if self._missing:
            period = min(period, CONFIRM_SECONDS)
        with self._condition:
            self._condition.wait_for(lambda: self._is_notified or self._is_stopped, period)
            self._is_notified = False
            return not self._is_stopped


def _is_news(found: str | StoreError | None, is_known: bool, noticed: str | None) -> bool:
    """Whether what the store says of a task is not what was noticed."""
    if isinstance(found, NoPointer) and not is_known:
        return False  # a copy or a publish that is under way
    if isinstance(found, StoreError):
        return not is_known or noticed is not None
    return found is None or not is_known or found != noticed
