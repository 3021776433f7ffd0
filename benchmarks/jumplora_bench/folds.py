"""How deep a lineage is folded, as a server with the settings' defaults does it."""

from __future__ import annotations

from collections.abc import Sequence

from jumplora_adapters.format import Adapter
from jumplora_server.engine.engine import Engine

# STAND-IN for residency/folding.py, T5-base and a budget of 1 GiB: replace the body of
# `trunk_depth` by that rule.
_EVERY = {"int8": 2, "float32": 3}


def trunk_depth(engine: Engine, lineage: Sequence[Adapter]) -> int:
    """How many of a lineage's first versions are its trunk; 0: none.

    The deepest depth that is 3 modulo 2 (int8) or modulo 3 (float32) and leaves a version over.
    """
    if not engine.can_fold:
        return 0
    deepest, every = len(lineage) - 1, _EVERY[engine.dtype]
    return max(0, deepest - (deepest - 3) % every)


def trunk_depths(engine: Engine, chain: Sequence[Adapter]) -> list[int]:
    """The depths of the trunks that the versions of a chain use together."""
    depths = {trunk_depth(engine, chain[:length]) for length in range(1, len(chain) + 1)}
    return sorted(depths - {0})
