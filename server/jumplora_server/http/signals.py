"""Signals that must not end the server: a terminal that closes, a supervisor's reload."""

from __future__ import annotations

import logging
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType

TAKEN = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_log = logging.getLogger(__name__)


class Signals:
    """What is done on SIGHUP, once there is something to do; else each signal is logged alone."""

    def __init__(self) -> None:
        # A handler may interrupt a line that is being logged, so another thread logs and acts; of
        # a queue's methods only this one's `put` may be called there.
        self._came: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._reload: Callable[[], None] | None = None

    def on_hangup(self, reload: Callable[[], None]) -> None:
        """Have `reload` called on each SIGHUP from now on. It must not wait."""
        self._reload = reload

    def take(self) -> None:
        """Keep them from ending the process; to be called before what takes long.

        SIGQUIT keeps its default, an end at once with a core dump. Only the main thread may set
        handlers; elsewhere nothing is done.
        """
        if threading.current_thread() is not threading.main_thread():
            return

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            self._came.put(number)

        for number in TAKEN:
            # Under nohup one is ignored already: then only what is done here is new.
            if signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN):
                signal.signal(number, note)
        threading.Thread(target=self._answer_each, name="signals", daemon=True).start()

    def _answer_each(self) -> None:
        while True:
            number = self._came.get()
            if number == signal.SIGHUP and self._reload is not None:
                _log.info("SIGHUP: the keys file is read again")
                self._reload()
                continue
            name = signal.Signals(number).name
            _log.warning("%s is ignored; nothing is reloaded, SIGTERM ends the server", name)
