"""The loads that ended lately: a request shows the part of one that it waited for."""

from __future__ import annotations

import threading
from collections import OrderedDict

from opentelemetry.trace import SpanContext
from opentelemetry.util.types import AttributeValue

from jumplora_server.tracing.tracer import Loading

MAX_LOADS = 256


class RecentLoads:
    """The last load of each version, with its span. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loads: OrderedDict[str, tuple[Loading, SpanContext]] = OrderedDict()

    def note(self, loading: Loading, span: SpanContext) -> None:
        """A load has ended."""
        with self._lock:
            self._loads[loading.version] = (loading, span)
            self._loads.move_to_end(loading.version)
            while len(self._loads) > MAX_LOADS:
                self._loads.popitem(last=False)

    def of(self, version: str) -> tuple[Loading, SpanContext] | None:
        """The last load of a version, if it was lately."""
        with self._lock:
            return self._loads.get(version)


def load_attributes(loading: Loading) -> dict[str, AttributeValue]:
    """What was loaded."""
    return {"jumplora.task": loading.task, "jumplora.version": loading.version}
