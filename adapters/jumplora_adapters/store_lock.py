"""The store's lock, against threads and processes alike, and how long a caller waits for it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jumplora_adapters.errors import StoreBusy, StoreError
from jumplora_adapters.regular_file import NotRegular, open_regular, try_lock

LOCK = ".lock"
LOCK_SECONDS = 10.0
_PAUSE_SECONDS = 0.02  # flock has no time limit, so one thread of each process asks again


class Patience:
    """How long one caller waits, in all its waits together."""

    def __init__(
        self, seconds: float = LOCK_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self._spent = 0.0
        self._clock = clock

    @property
    def left(self) -> float:
        """Seconds that may still be waited."""
        return max(0.0, self.seconds - self._spent)

    @contextmanager
    def waiting(self) -> Iterator[float]:
        """Within this the caller waits, at most for the seconds that are yielded."""
        began = self._clock()
        try:
            yield self.left
        finally:
            self._spent += self._clock() - began


class StoreLock:
    """`<root>/.lock`, held with flock. The file stays: it is also the mark of a store.

    So it is made only where `require_store` finds a store that never had one, and raises nothing:
    in the folder of a volume that is not mounted, it would be the mark of an empty store.
    """

    def __init__(self, root: Path, require_store: Callable[[], object]) -> None:
        self._path = root / LOCK
        self._require_store = require_store
        self._gate = threading.Lock()  # threads queue here, without asking again and again

    @contextmanager
    def held(self, patience: Patience) -> Iterator[None]:
        """Hold the lock. Raises StoreBusy when `patience` ends, StoreError and OSError."""
        with patience.waiting() as seconds:
            descriptor = self._acquire(seconds, patience)
        try:
            yield
        finally:
            os.close(descriptor)  # closing releases the lock
            self._gate.release()

    def _acquire(self, seconds: float, patience: Patience) -> int:
        deadline = time.monotonic() + seconds
        if not self._gate.acquire(timeout=seconds):
            raise self._busy(patience)
        try:
            while True:
                descriptor = self._lock_file()
                if descriptor is not None:
                    return descriptor
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._busy(patience)
                time.sleep(min(_PAUSE_SECONDS, left))
        except BaseException:
            self._gate.release()
            raise

    def _lock_file(self) -> int | None:
        """The locked file; None while another has it, or when it was replaced just now."""
        try:
            descriptor = self._open()
        except NotRegular as error:
            raise StoreError(
                f"the store cannot be written: {self._path} is {error.kind}, where the store's "
                "lock file belongs: remove it"
            ) from error
        return descriptor if try_lock(descriptor, self._path) else None

    def _open(self) -> int:
        try:
            return open_regular(self._path, "change")
        except FileNotFoundError:
            self._require_store()
            return open_regular(self._path, "create")

    def _busy(self, patience: Patience) -> StoreBusy:
        return StoreBusy(
            f"another change held the store's lock {self._path} for {patience.seconds:g} s; "
            "nothing was changed: try again, and if that does not help, end the process that "
            f"holds it (`fuser {self._path}` names it)"
        )
