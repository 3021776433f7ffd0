"""The bounds of generation parameters: one table, for requests and for an adapter's defaults.

Requests are held to it when they are parsed, manifests when they are written or published. A
version that was published earlier may be outside of it; then a request has to set the field itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import Field


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that are allowed: from `least` (or only above it) to `most`."""

    least: float
    most: float
    is_open: bool = False  # `least` itself is not allowed

    def field(self) -> Any:
        """The same as a field of pydantic, for annotations."""
        if self.is_open:
            return Field(gt=self.least, le=self.most)
        return Field(ge=self.least, le=self.most)

    def allows(self, value: float) -> bool:
        """Whether `value` is in the range."""
        return (self.least < value if self.is_open else self.least <= value) and value <= self.most

    def __str__(self) -> str:
        return f"{'over ' if self.is_open else ''}{_number(self.least)} to {_number(self.most)}"


MAX_NEW_TOKENS = Range(1, 8192)
MIN_NEW_TOKENS = Range(0, 8192)
TEMPERATURE = Range(0.01, 100.0)
TOP_K = Range(1, 1_000_000)
TOP_P = Range(0.0, 1.0, is_open=True)
REPETITION_PENALTY = Range(0.1, 10.0)
NO_REPEAT_NGRAM_SIZE = Range(0, 8192)
NUM_BEAMS = Range(1, 16)
LENGTH_PENALTY = Range(-10.0, 10.0)
ANSWERS = Range(1, 16)
MAX_SEED = 2**63 - 1
MAX_STOPS = 4
MAX_STOP_CHARS = 64

RANGES: Mapping[str, Range] = MappingProxyType(
    {
        "max_new_tokens": MAX_NEW_TOKENS,
        "min_new_tokens": MIN_NEW_TOKENS,
        "temperature": TEMPERATURE,
        "top_k": TOP_K,
        "top_p": TOP_P,
        "repetition_penalty": REPETITION_PENALTY,
        "no_repeat_ngram_size": NO_REPEAT_NGRAM_SIZE,
        "num_beams": NUM_BEAMS,
        "length_penalty": LENGTH_PENALTY,
    }
)
STOPS = f"up to {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters"


@dataclass(frozen=True, slots=True)
class OutOfBounds:
    """One parameter that is outside of the table; `given` and `allowed` are texts for people."""

    name: str
    given: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.name}: {self.given} given; {self.allowed} allowed"


def find_out_of_bounds(generation: Mapping[str, Any]) -> tuple[OutOfBounds, ...]:
    """The parameters of well-formed defaults that the table does not allow, in their order."""
    faults = []
    for name, value in generation.items():
        if name == "stop":
            if (given := _fault_of_stops(value)) is not None:
                faults.append(OutOfBounds(name, given, f"{STOPS} are"))
        elif name in RANGES and not RANGES[name].allows(value):
            faults.append(OutOfBounds(name, _number(value), f"{RANGES[name]} is"))
    return tuple(faults)


def _fault_of_stops(stops: tuple[str, ...]) -> str | None:
    if len(stops) > MAX_STOPS:
        return f"{len(stops)} texts"
    longest = max(map(len, stops), default=1)
    if longest > MAX_STOP_CHARS:
        return f"a text of {longest} characters"
    return "an empty text" if "" in stops else None


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
