"""What hinders the threads that work on files, read at a scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.registry import Collector

from jumplora_server.metrics.table import STORE_FAULT, THREAD_STUCK


class TroubleCollector(Collector):
    """Seconds that loader and watcher stand still, and whether the store can be read."""

    def __init__(
        self, stuck_seconds: Callable[[], Mapping[str, float]], store_fault: Callable[[], bool]
    ) -> None:
        """`stuck_seconds` by the name of the thread, 0 while it moves."""
        self._stuck_seconds = stuck_seconds
        self._store_fault = store_fault

    def describe(self) -> Iterable[Metric]:
        """Name the families, so that the registry refuses a second owner of a name."""
        return [THREAD_STUCK.family(), STORE_FAULT.family()]

    def collect(self) -> Iterator[Metric]:
        """Yield both families."""
        stuck, fault = THREAD_STUCK.family(), STORE_FAULT.family()
        for thread, seconds in self._stuck_seconds().items():
            stuck.add_metric((thread,), seconds)
        fault.add_metric((), float(self._store_fault()))
        yield stuck
        yield fault
