"""What a part found: faults, each with its case, and how often each thing was checked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from jumplora_bench.answers import percentile
from jumplora_bench.report import Grid

_SHOWN = 150  # rows of a table
_KEPT = 20  # faults of one case and check in the JSON: thousands of requests may fail alike
_FIRST = 80
_WIDTH = 220


@dataclass(frozen=True, slots=True)
class Fault:
    """`case` is what was done, `what` is what the server did."""

    case: str
    what: str


class Findings:
    """Collects from any thread. The current case names what no check names itself."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.checks: Counter[str] = Counter()
        self.notes: list[str] = []
        self.case = "start"
        self._lock = threading.Lock()

    def fault(self, what: str, case: str | None = None) -> None:
        """Record one fault."""
        with self._lock:
            self.faults.append(Fault(case or self.case, what[:_WIDTH]))

    def check(self, name: str, is_right: bool, what: str, case: str | None = None) -> bool:
        """Count a check; a failed one is a fault. Returns `is_right`."""
        with self._lock:
            self.checks[name] += 1
        if not is_right:
            self.fault(f"{name}: {what}", case)
        return is_right

    def note(self, text: str) -> None:
        """Something the reader must know, such as a case that could not run."""
        with self._lock:
            if text not in self.notes:
                self.notes.append(text)

    def grids(self) -> list[Grid]:
        """Checks by name, and the faults by case."""
        failed = Counter(fault.what.split(":", 1)[0] for fault in self.faults)
        names = [*self.checks, *(name for name in failed if name not in self.checks)]
        rows = [(name, str(self.checks[name]), str(failed[name])) for name in names]
        grids = [Grid("Checks", ("check", "made", "failed"), rows)]
        if self.faults:
            columns = ("case", "failed checks", "times", "the first of them")
            grids.append(Grid("Faults by case", columns, self._by_case()))
        return grids

    def _by_case(self) -> list[tuple[str, str, str, str]]:
        cases: dict[str, list[str]] = {}
        for fault in self.faults:
            cases.setdefault(fault.case, []).append(fault.what)
        rows = []
        for case, whats in list(cases.items())[:_SHOWN]:
            names = dict.fromkeys(what.split(":", 1)[0] for what in whats)
            first = whats[0].partition(": ")[2][:_FIRST].replace("\n", " ")
            rows.append((case, ", ".join(names), str(len(whats)), first))
        return rows

    def data(self) -> dict[str, object]:
        """For the JSON: the first faults of each case and check, and how many there were."""
        times: Counter[tuple[str, str]] = Counter()
        kept = []
        for fault in self.faults:
            times[kind := (fault.case, fault.what.split(":", 1)[0])] += 1
            if times[kind] <= _KEPT:
                kept.append(asdict(fault))
        counts = {f"{case}: {check}": count for (case, check), count in times.items()}
        return {"checks": dict(self.checks), "faults": kept, "fault_counts": counts}


def shares(values: Iterable[float], scale: float = 1.0) -> tuple[str, str, str, str]:
    """Least, median, p90 and most, as a table prints them; dashes without any."""
    scaled = [value * scale for value in values]
    if not scaled:
        return "-", "-", "-", "-"
    least, median, most_of, most = (f"{percentile(scaled, at):.2f}" for at in (0.0, 0.5, 0.9, 1.0))
    return least, median, most_of, most
