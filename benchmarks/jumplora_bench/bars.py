"""What the measured ratios are held against: pairs of cases, each with the bar it should pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jumplora_bench.rounds import Spread, ratios


@dataclass(frozen=True, slots=True)
class Bar:
    """`over / under` of two cases' seconds; `limit` None: only printed."""

    measure: str
    over: str
    under: str
    side: Literal["at least", "at most"] = "at least"
    limit: float | None = None

    @property
    def told(self) -> str:
        """The bar as it is printed."""
        if self.limit is None:
            return ""
        return f"{'>=' if self.side == 'at least' else '<='} {self.limit:.2f}"

    def is_met(self, value: float) -> bool | None:
        """None where there is no bar."""
        if self.limit is None:
            return None
        return value >= self.limit if self.side == "at least" else value <= self.limit


def verdict(is_met: bool | None) -> str:
    """A word for a table's cell."""
    return "" if is_met is None else "met" if is_met else "missed"


def compare(
    bars: Sequence[Bar], seconds: Mapping[str, Sequence[float]]
) -> list[tuple[Bar, Spread]]:
    """The ratio of every bar whose two cases ran."""
    return [
        (bar, ratios(seconds[bar.over], seconds[bar.under]))
        for bar in bars
        if seconds.get(bar.over) and seconds.get(bar.under)
    ]
