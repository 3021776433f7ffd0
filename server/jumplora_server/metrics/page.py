"""The metrics page: one text for all scrapers that ask within a moment."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from jumplora_server.access.caller import ANYBODY, Caller, TaskPatterns
from jumplora_server.metrics.views import CutPage

# The part of the time that pages may take to make, however often they are asked for.
MOST_OF_THE_TIME = 0.1
MOST_VIEW_BYTES = 16 * 1024 * 1024  # of those that are kept beside the page
_ViewKey = tuple[str | None, TaskPatterns]


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
        self._began = self._took = 0.0  # when it was made, and how long that took with its views
        self._text = b""
        self._cut: CutPage | None = None  # of the same page, once a caller of some tasks asked
        self._has_views = False
        self._views: OrderedDict[_ViewKey, bytes] = OrderedDict()  # of the same page
        self._timed: set[_ViewKey] = set()  # whose time prolonged it

    def render(self, caller: Caller = ANYBODY) -> tuple[bytes, str]:
        """The page in Prometheus' text format, as the caller sees it, and its content type.

        A page takes a quarter of a millisecond of Python a task, or more, so scrapers share pages.
        One is kept for its seconds, and longer where it took long to make: at most a tenth of the
        time is spent on pages. All that wait for the next one get the same. With 0 seconds each
        scrape makes a new page, however long that takes.

        A caller of some tasks gets a view of that same page. Views are kept with it, one for each
        key, and the time that the first of each took counts as the page's own.
        """
        asked = self._clock()
        with self._lock:
            if caller.tasks is not None and not self._has_views:
                self._has_views = True  # from now on pages are cut
                self._ends = -math.inf
            if self._ends <= asked:
                self._make()
            if caller.tasks is None or self._cut is None:
                return self._text, CONTENT_TYPE_PLAIN_0_0_4
            view = self._view(self._cut, caller, (caller.key_id, caller.tasks))
            return view, CONTENT_TYPE_PLAIN_0_0_4

    def _make(self) -> None:
        self._began, self._took = self._clock(), 0.0
        families = _WithoutCreated(self._registry)
        if self._has_views:
            self._cut = CutPage(families.collect())
            self._text = self._cut.text
        else:
            self._text = generate_latest(families)
        self._views.clear()
        self._timed.clear()
        self._ends = self._began + self._seconds
        self._spent(self._began)

    def _view(self, page: CutPage, caller: Caller, key: _ViewKey) -> bytes:
        view = self._views.get(key)
        if view is not None:
            self._views.move_to_end(key)
            return view
        began = self._clock()
        view = self._views[key] = page.seen_by(caller)
        if key not in self._timed:  # once, else many keys could keep a page for ever
            self._timed.add(key)
            self._spent(began)
        while len(self._views) > 1 and sum(map(len, self._views.values())) > MOST_VIEW_BYTES:
            self._views.popitem(last=False)
        return view

    def _spent(self, since: float) -> None:
        """Keep the page for longer where making it, and its views, took long."""
        self._took += self._clock() - since
        if self._seconds:  # 0 asks for a new page each time
            self._ends = max(self._ends, self._began + self._took / MOST_OF_THE_TIME)


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
