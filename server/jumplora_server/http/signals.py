"""Signals that must not end the server: a terminal that closes, a supervisor's reload."""

from __future__ import annotations

import logging
import queue
import signal
import threading
from types import FrameType

IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_log = logging.getLogger(__name__)


def ignore_signals() -> None:
    """Ignore them with a line in the log each; to be called before what takes long.

    SIGQUIT keeps its default, an end at once with a core dump. Only the main thread may set
    handlers; elsewhere nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    # A handler may interrupt a line that is being logged, so another thread logs; of a queue's
    # methods only this one's `put` may be called there.
    came: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        came.put(number)

    for number in IGNORED:
        # Under nohup one is ignored already: then only the line in the log is new.
        if signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(number, note)
    threading.Thread(target=_log_each, args=(came,), name="signals", daemon=True).start()


def _log_each(came: queue.SimpleQueue[int]) -> None:
    while True:
        name = signal.Signals(came.get()).name
        _log.warning("%s is ignored; nothing is reloaded, SIGTERM ends the server", name)
