"""How deep a lineage is folded, as a server with the settings' defaults does it on T5-base."""

from __future__ import annotations

# A trunk at every second or third version is what the default share of a 1 GiB budget holds.
_EVERY = {"int8": 2, "float32": 3}


def trunk_depth(dtype: str, length: int) -> int:
    """How many of a lineage's first versions are its trunk, 0 for none.

    The deepest depth that is 3 modulo 2 (int8) or modulo 3 (float32) and leaves a version over.
    """
    every = _EVERY.get(dtype)
    if every is None:
        return 0
    deepest = length - 1
    return max(0, deepest - (deepest - 3) % every)


def trunk_depths(dtype: str, length: int) -> list[int]:
    """The depths of the trunks that all versions of a chain of this length use together."""
    return sorted({trunk_depth(dtype, each) for each in range(1, length + 1)} - {0})
