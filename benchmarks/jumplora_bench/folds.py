"""How deep a lineage is folded, as a server with the settings' defaults does it."""

from __future__ import annotations

from collections.abc import Sequence

from jumplora_adapters.format import Adapter
from jumplora_server.engine.engine import Engine
from jumplora_server.residency.folding import Folding
from jumplora_server.settings import Settings


def trunk_depth(engine: Engine, lineage: Sequence[Adapter]) -> int:
    """How many of a lineage's first versions are its trunk; 0: none."""
    fold, share, budget = (
        Settings.model_fields[name].default
        for name in ("fold", "fold_share", "adapter_budget_bytes")
    )
    rule = Folding.of(engine, fold, share, budget)
    return rule.depth([adapter.manifest.targets for adapter in lineage[:-1]])


def trunk_depths(engine: Engine, chain: Sequence[Adapter]) -> list[int]:
    """The depths of the trunks that the versions of a chain use together."""
    depths = {trunk_depth(engine, chain[:length]) for length in range(1, len(chain) + 1)}
    return sorted(depths - {0})
