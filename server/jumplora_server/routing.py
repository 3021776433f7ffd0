"""The right to use one version of an adapter, from routing to the last token."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from jumplora_adapters.manifest import Manifest
from jumplora_server.core import AdapterRef


class Lease:
    """The right to use one version, counted from routing to the last token.

    A lease is held by whoever made it: `Residency.acquire` gives the caller one, and
    `EngineLoop.submit` takes a share of its own for each sequence. The version stays loadable
    until all are released.
    """

    __slots__ = ("_count", "_held", "_uncount", "manifest", "ref")

    def __init__(
        self,
        ref: AdapterRef | None,
        manifest: Manifest | None,
        count: Callable[[], None],
        uncount: Callable[[], None],
    ) -> None:
        """Take over one count that was already made; `count` makes another, `uncount` drops one."""
        self.ref = ref
        self.manifest = manifest
        self._count = count
        self._uncount = uncount
        self._held = [ref]

    @classmethod
    def base(cls) -> Lease:
        """A lease on the bare backbone, which is never unloaded."""
        return cls(None, None, _nothing, _nothing)

    @property
    def is_released(self) -> bool:
        """Whether `release` was called."""
        return not self._held

    def share(self) -> Lease:
        """Another lease on the same version, released on its own. This one must still be held."""
        assert self._held, "a released lease cannot be shared"
        self._count()
        return Lease(self.ref, self.manifest, self._count, self._uncount)

    def release(self) -> None:
        """Give the count back. Any thread, any number of times."""
        try:
            self._held.pop()  # atomic: only one of several callers succeeds
        except IndexError:
            return
        self._uncount()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _nothing() -> None:
    return None
