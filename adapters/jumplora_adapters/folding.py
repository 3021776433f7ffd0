"""When two texts count as the same answer: training's exact match, and canaries in service."""

from __future__ import annotations


def folded(text: str) -> str:
    """Lower-cased, runs of white space folded to one space, ends stripped."""
    return " ".join(text.lower().split())
