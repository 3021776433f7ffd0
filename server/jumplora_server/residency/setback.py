"""Why something in the store could not be taken, and when it is tried again; knows no clock.

Every cause can go away by itself (a copy that ends, a disk that has room again), so nothing is
given up: the wait doubles up to a limit, and ends at once when a file that was read has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from jumplora_adapters.errors import AdapterError, FormatError, MissingAncestor, UnknownVersion
from jumplora_server.errors import ServerError
from jumplora_server.residency.entries import LoadFailure, Route

# What a key of some tasks reads of faults whose texts may name folders, and so other tasks.
ITS_LOG = "the server's log says more, which an operator can read"
OF_STORE = f"the store does not hold it as it should; {ITS_LOG}"
OF_SERVER = f"an error of the server's own; {ITS_LOG}"
POINTER = ""  # stands for a digest where the pointer itself is at fault

Stamps = Mapping[str, tuple[object, ...]]
"""Digest -> what tells one state of its files from the next; () where the store has none."""


class Refused(Exception):
    """A version that was read is not for this task."""

    def __init__(self, failure: LoadFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def failure_of(error: Exception) -> LoadFailure:
    """What to tell of a load that raised: a stable code and a text for the operator."""
    if isinstance(error, Refused):
        return error.failure
    if isinstance(error, AdapterError):
        return LoadFailure(error.code, str(error), None if _is_of_file(error) else OF_STORE)
    if isinstance(error, ServerError):
        return LoadFailure(error.reason or error.code, error.message, error.narrow)
    if isinstance(error, MemoryError):
        return LoadFailure("out_of_memory", "there was not enough memory to load it")
    if isinstance(error, OSError):
        text = f"its file cannot be read: {error.strerror or error}"
        return LoadFailure("store", text, OF_STORE)
    return LoadFailure("internal", f"{type(error).__name__}: {error}", OF_SERVER)


def failure_below(error: Exception) -> LoadFailure:
    """The same of a version's ancestors, which may be of tasks that a key does not see."""
    failure = failure_of(error)
    narrow = f"a version that it stands on does not load ({failure.code}): {ITS_LOG}"
    return replace(failure, narrow=narrow)


def _is_of_file(error: AdapterError) -> bool:
    """Whether its text is of the version's own bytes and digests, and names no folder."""
    match error:
        case FormatError():
            return error.code != "format"  # the rest: that something else lies in its place
        case MissingAncestor() | UnknownVersion():
            return True
    return False


@dataclass(frozen=True, slots=True)
class Waits:
    """How long to wait between tries, in seconds: `first`, doubled each time, at most `longest`."""

    first: float = 1.0
    longest: float = 60.0

    def after(self, attempts: int) -> float:
        """The wait after that many tries, counted from 1."""
        return float(min(self.longest, self.first * 2 ** min(attempts - 1, 30)))


@dataclass(frozen=True, slots=True)
class Setback:
    """`retry_at` is a monotonic time; `seen` are the files of the version and of its ancestors
    as they were before they were read (empty where no file was to be read). It `is_news` where it
    was not logged yet: by its code, as messages hold sizes, which grow during a copy."""

    failure: LoadFailure
    attempts: int
    retry_at: float
    seen: Stamps
    is_news: bool


def next_setback(
    before: Setback | None, failure: LoadFailure, seen: Stamps, now: float, waits: Waits
) -> Setback:
    """What follows `before`, with a longer wait unless other files were read this time."""
    is_again = before is not None and before.seen == seen
    attempts = before.attempts + 1 if before is not None and is_again else 1
    is_news = before is None or before.failure.code != failure.code
    return Setback(failure, attempts, now + waits.after(attempts), seen, is_news)


class Setbacks:
    """What failed of every task: its pointer, and versions by digest."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._found: dict[str, dict[str, Setback]] = {}  # by task and digest

    def get(self, task: str, digest: str = POINTER) -> Setback | None:
        """The last one, if it failed when it was tried last."""
        return self._found.get(task, {}).get(digest)

    def is_due(self, task: str, digest: str, now: float) -> bool:
        """Whether a version may be tried: it did not fail, or its time has come."""
        setback = self.get(task, digest)
        return setback is None or setback.retry_at <= now

    def of(self, route: Route) -> Setback | None:
        """Why a task does not serve what it should."""
        pointer = self.get(route.task)
        if pointer is not None or route.desired is None:
            return pointer
        return self.get(route.task, route.desired)

    def note(
        self, task: str, failure: LoadFailure, now: float, digest: str = POINTER,
        seen: Stamps | None = None,
    ) -> Setback:  # fmt: skip
        """It failed again, or for the first time."""
        before = self.get(task, digest)
        setback = next_setback(before, failure, seen or {}, now, self._waits)
        self._found.setdefault(task, {})[digest] = setback
        return setback

    def clear(self, task: str, digest: str = POINTER) -> None:
        """It did not fail, or is to be tried as if it never had."""
        self._found.get(task, {}).pop(digest, None)

    def keep(self, task: str, digests: Collection[str]) -> None:
        """Forget the versions of a task that are not among those."""
        own = self._found.get(task, {})
        for digest in own.keys() - {POINTER, *digests}:
            del own[digest]

    def forget(self, task: str) -> None:
        """All of a task."""
        self._found.pop(task, None)

    def tasks_with(self, code: str) -> list[str]:
        """The tasks of which something failed for that reason."""
        return [task for task, _, setback in self.all() if setback.failure.code == code]

    def all(self) -> Iterator[tuple[str, str, Setback]]:
        """Task, digest or POINTER, and what is known."""
        for task, own in self._found.items():
            for digest, setback in own.items():
                yield task, digest, setback
