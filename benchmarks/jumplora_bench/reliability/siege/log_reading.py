"""What a text log must not hold: tracebacks, and characters that act on what shows it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from jumplora_bench.reliability.siege.judge import first_acting

_TRACEBACK = "Traceback (most recent call last)"


def faults_of_log(path: Path) -> Counter[str]:
    """ "check: the line" of each fault, and how often lines with the same beginning had it."""
    faults: Counter[str] = Counter()
    previous = ""
    for raw in path.read_bytes().split(b"\n"):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            faults[f"log bytes: no UTF-8 in {raw[:120]!r}"] += 1
            continue
        if line.startswith(_TRACEBACK):
            faults[f"traceback: after {_without_time(previous)[:160]}"] += 1
        if acting := first_acting(line):
            faults[f"log characters: U+{ord(acting):04X} in {_without_time(line)[:120]!r}"] += 1
        previous = line
    return faults


def _without_time(line: str) -> str:
    return line.partition(" ")[2]
