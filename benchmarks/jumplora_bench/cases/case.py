"""What is timed: a case makes one lap at a time, and says what it generated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Tokens = tuple[tuple[int, ...], ...]
"""Generated token ids, one row a prompt, the start token left out."""


@dataclass(frozen=True, slots=True)
class Work:
    """What every case computes: the same prompts on the same backbone, `new` tokens each, greedy.

    `threads` is what every program may use, on the CPU.
    """

    backbone: Path
    prompts: Tokens
    new: int
    threads: int
    device: str

    @property
    def rows(self) -> int:
        """Prompts, which are computed together."""
        return len(self.prompts)

    @property
    def source(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prompts))


@dataclass(frozen=True, slots=True)
class Lap:
    """One round of a case. `encode_seconds` is the encoder's part, where the program tells it."""

    seconds: float
    tokens: Tokens
    encode_seconds: float | None = None


class Case(Protocol):
    """One program with one kind of work, ready to run."""

    @property
    def name(self) -> str: ...

    def run(self) -> Lap:
        """All of the work, once."""
