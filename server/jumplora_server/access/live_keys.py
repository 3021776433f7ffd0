"""The keys that hold now, and the thread that follows their file.

The file may be on a disk that hangs, so it is read on that thread alone, and at the start. A file
with faults changes nothing: the keys of before hold until it is mended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from jumplora_adapters.regular_file import Stamp
from jumplora_server.access.caller import Caller
from jumplora_server.access.gate import Refusal, admitted
from jumplora_server.access.keyring import Keyring
from jumplora_server.access.keys import Key
from jumplora_server.access.keys_file import KeysFault
from jumplora_server.access.needs import Need
from jumplora_server.access.source import KeySource, Text, stamp_at
from jumplora_server.pulse import Pulse

LOOK_SECONDS = 1.0
MAX_LOGGED = 50  # ids on one line of the log
_log = logging.getLogger(__name__)


class LiveKeys:
    """Started and stopped once. `keyring` and `fault` may be read from any thread."""

    def __init__(
        self,
        source: KeySource,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        look_seconds: float = LOOK_SECONDS,
        changed: Callable[[frozenset[str]], None] = lambda ids: None,
    ) -> None:
        """Reads the file once. Raises KeysFault. `wall_clock` says in Unix seconds when keys
        expire; `changed` gets the ids of all keys that there are now, whenever they were read."""
        self.source = source
        self.pulse = Pulse("keys", clock)
        self.fault: str | None = None
        self._wall_clock = wall_clock
        self._look_seconds = look_seconds
        self._changed = changed
        self._content: bytes | None = None
        self._read: Stamp | None = None  # of what was read last
        self._seen: Stamp | None = None  # at the last look: a file is read once it stays the same
        self._condition = threading.Condition()
        self._is_asked = False
        self._is_stopped = False
        self._thread = threading.Thread(
            target=self.pulse.run, args=(self._run,), name="keys", daemon=True
        )
        text = source.read()
        self.keyring = source.keyring(None if text is None else text.content)
        if text is not None:
            self._note(text)
        changed(self.keyring.ids)

    @property
    def pulses(self) -> tuple[Pulse, ...]:
        """Of the thread, where there is one."""
        return () if self.source.file is None else (self.pulse,)

    def admit(self, need: Need, header: str | None) -> Caller | Refusal:
        """Who asks, by the Authorization header and the keys that hold now."""
        return admitted(self.keyring, need, header, self._wall_clock())

    def start(self) -> None:
        """Start to follow the file, if there is one."""
        if self.source.file is not None:
            self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """End the thread; one that hangs in a read does not hold the process."""
        with self._condition:
            self._is_stopped = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def reload(self) -> None:
        """Have the file read now, whatever its stamp says. Waits for nothing."""
        with self._condition:
            self._is_asked = True
            self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(
                    lambda: self._is_asked or self._is_stopped, self._look_seconds
                )
                if self._is_stopped:
                    return
                is_asked, self._is_asked = self._is_asked, False
            with self.pulse.doing("reading the keys file"):
                try:
                    self.look(is_asked=is_asked)
                except Exception as error:  # whatever it is, the next look may go well
                    self._blame([f"{type(error).__name__}: {error}"], is_asked=is_asked)

    def look(self, *, is_asked: bool = False) -> None:
        """Look at the file once, and take it over if it is another one and has no faults."""
        try:
            if not is_asked and not self._is_due():
                return
            text = self.source.read()
            if text is not None:
                self._take(text, is_asked=is_asked)
        except KeysFault as fault:
            self._blame(fault.lines, is_asked=is_asked)

    def _is_due(self) -> bool:
        """Whether the file is to be read: it changed, and does so no more.

        A file that is written in place is half of one for a moment, which may well be a list of
        fewer keys.
        """
        assert self.source.file is not None
        try:
            stamp = stamp_at(self.source.file)
        except OSError as error:
            self._read = self._seen = None
            raise KeysFault([f"it cannot be read: {error.strerror or error}"]) from error
        before, self._seen = self._seen, stamp
        return stamp != self._read and stamp == before

    def _take(self, text: Text, *, is_asked: bool) -> None:
        is_other = text.content != self._content
        if not is_other and self.fault is None:
            self._note(text)
            if is_asked:
                _log.info("the keys file %s is as it was", self.source.file)
            return
        self._read = text.stamp
        before, after = self.keyring, self.source.keyring(text.content)
        self.keyring = after
        self._changed(after.ids)
        self._note(text)
        if self.fault is not None:
            _log.warning("the keys file %s can be used again", self.source.file)
        self.fault = None
        _log.info("the keys file %s was read: %s", self.source.file, changes(before, after))

    def _note(self, text: Text) -> None:
        is_new = text.content != self._content
        self._content, self._read = text.content, text.stamp
        if is_new and text.may_be_written_by_all:
            _log.warning(
                "all users of this machine may write the keys file %s, and so make keys: "
                "`chmod o-w` takes that away",
                self.source.file,
            )

    def _blame(self, lines: Sequence[str], *, is_asked: bool) -> None:
        """Log the faults when they are news, or were asked for."""
        fault = "\n".join(lines)
        if fault != self.fault or is_asked:
            for line in lines:
                _log.error("the keys file %s: %s", self.source.file, line)
            _log.error(
                "the keys file %s has faults, and the keys of before hold until it has none",
                self.source.file,
            )
        self.fault = fault


def changes(before: Keyring, after: Keyring) -> str:
    """What is other, by the keys' ids."""
    old, new = _by_id(before), _by_id(after)
    changed = {key_id for key_id in old.keys() & new.keys() if old[key_id] != new[key_id]}
    found = {
        "added": new.keys() - old.keys(),
        "removed": old.keys() - new.keys(),
        "changed": changed,
    }
    parts = [f"{what} {_listed(sorted(ids))}" for what, ids in found.items() if ids]
    return "; ".join(parts) or "no key is other than before"


def _listed(ids: Sequence[str]) -> str:
    more = len(ids) - MAX_LOGGED
    return ", ".join(ids[:MAX_LOGGED]) + (f" and {more} more" if more > 0 else "")


def _by_id(keyring: Keyring) -> dict[str, Key]:
    return {key.id: key for key in keyring.keys}
