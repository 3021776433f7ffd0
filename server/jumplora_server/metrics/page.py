"""The metrics page: one text for all scrapers that ask within a moment."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

# The part of the time that pages may take to make, however often they are asked for.
MOST_OF_THE_TIME = 0.1


class Page:
    """The page of one registry; any thread."""

    def __init__(
        self, registry: CollectorRegistry, clock: Callable[[], float], seconds: float
    ) -> None:
        """One is kept for `seconds`; with 0 each scrape makes a new one."""
        self._registry = registry
        self._clock = clock
        self._seconds = seconds
        self._lock = threading.Lock()
        self._ends = -math.inf  # when it is too old
        self._text = b""

    def render(self) -> tuple[bytes, str]:
        """The page in Prometheus' text format, and its content type.

        A page takes a quarter of a millisecond of Python a task, or more, so scrapers share pages.
        One is kept for its seconds, and longer where it took long to make: at most a tenth of the
        time is spent on pages. All that wait for the next one get the same. With 0 seconds each
        scrape makes a new page, however long that takes.
        """
        asked = self._clock()
        with self._lock:
            if self._ends <= asked:
                began = self._clock()
                self._text = generate_latest(_WithoutCreated(self._registry))
                took = self._clock() - began
                self._ends = began + self._seconds
                if self._seconds:  # 0 asks for a new page each time
                    self._ends = max(self._ends, began + took / MOST_OF_THE_TIME)
            return self._text, CONTENT_TYPE_PLAIN_0_0_4


class _WithoutCreated(Collector):
    """A registry's families without the client's `_created` samples.

    The client can only switch these off for the whole process, which would change the pages of
    other registries in it; and they would be a sixth of ours.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if family.type in ("counter", "histogram"):
                created = family.name + "_created"
                family.samples = [s for s in family.samples if s.name != created]
            yield family
