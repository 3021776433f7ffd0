"""Which ancestors of a version are merged into a trunk: a pure rule over settings and headers.

What is resident, pinned or asked for must not matter here, so that a version computes the same
bits in every process with the same settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from jumplora_server.residency.engine import Folds
from jumplora_server.residency.entries import Known, VersionFacts
from jumplora_server.setting_groups import Fold

CHAIN = 15  # versions of the chain whose trunks "auto" counts
ANCHOR = 3  # a trunk stands at this depth if the period allows it: chains of four are common


@dataclass(frozen=True, slots=True)
class Folding:
    """When a version uses a trunk. Bytes are those in the engine.

    `chain_bytes` is what the trunks of a chain of 15 may take together; only "auto" asks for it.
    `trunk_bytes` says what a trunk takes whose versions have these targets.
    """

    fold: Fold
    budget_bytes: int
    chain_bytes: int
    trunk_bytes: Callable[[Iterable[str]], int]

    @classmethod
    def of(cls, engine: Folds, fold: Fold, share: float, budget_bytes: int) -> Self:
        """The rule for an engine: trunks get `share` of the budget, at most one more backbone.

        Raises ValueError where "always" is asked of an engine that cannot fold.
        """
        if not engine.can_fold:
            if fold == "always":
                raise ValueError(
                    "JUMPLORA_FOLD is always, but this engine cannot fold: folding needs"
                    " JUMPLORA_DEVICE cpu and JUMPLORA_DTYPE float32 or int8; with"
                    " JUMPLORA_FOLD=auto the server folds where it can"
                )
            fold = "never"
        most = min(int(share * budget_bytes), engine.weight_bytes)
        return cls(fold, budget_bytes, most, engine.trunk_bytes)

    def depth(self, ancestors: Sequence[Collection[str]]) -> int:
        """How many of a version's ancestors are merged into the trunk that it uses; 0: none.

        Each is given by its targets, oldest first. Whether a trunk stands at a depth follows from
        the ancestors up to there. So a version and the ancestors that it adds after its trunk use
        the same trunk.
        """
        if self.fold == "never":
            return 0
        deepest, sites, nbytes = 0, set[str](), 0
        for depth, targets in enumerate(ancestors, start=1):
            if not sites.issuperset(targets):
                sites.update(targets)
                try:
                    nbytes = self.trunk_bytes(sites)
                except KeyError:  # not a site: the load says what is wrong with that file
                    break
            if self._stands(depth, nbytes):
                deepest = depth
        return deepest

    def _stands(self, depth: int, nbytes: int) -> bool:
        if self.fold == "always":
            return nbytes <= self.budget_bytes
        period = self.period(nbytes)
        return period is not None and _is_at(depth, period)

    def is_out_of_reach(self, planned: Known) -> bool:
        """Whether a version has ancestors that should be merged always, and no trunk fits."""
        is_asked = self.fold == "always" and bool(planned.facts.ancestors)
        return is_asked and planned.parts == planned.facts.ancestors

    def period(self, nbytes: int) -> int | None:
        """How many levels lie between two trunks of `nbytes`; None where not even one may stay."""
        for period in range(1, CHAIN):
            trunks = sum(_is_at(depth, period) for depth in range(1, CHAIN))
            if trunks * nbytes <= self.chain_bytes:
                return period
        return None


def _is_at(depth: int, period: int) -> bool:
    return depth % period == ANCHOR % period


def plan(lineage: Sequence[Known], digest: str, folding: Folding) -> tuple[Known, ...]:
    """What a version needs in the engine, trunks first, then ancestors, then the version itself.

    `lineage` is the version and all that it stands on, ancestors first. Ancestors that only a trunk
    needs are left out.
    """
    by_digest = {known.facts.digest: known for known in lineage}
    needed, trunks, rest = {digest}, dict[str, Known](), list[Known]()
    for known in reversed(lineage):
        if known.facts.digest not in needed:
            continue
        before = [by_digest[ancestor] for ancestor in known.facts.ancestors]
        depth = folding.depth([each.manifest.targets for each in before])
        parts = known.facts.ancestors[depth:]
        if depth:
            trunk = _trunk(before[:depth], folding)
            trunks[trunk.facts.digest] = trunk
            parts = (trunk.facts.digest, *parts)
        needed.update(parts)
        rest.append(replace(known, parts=parts))
    return (*trunks.values(), *reversed(rest))


def _trunk(folds: Sequence[Known], folding: Folding) -> Known:
    """The trunk of these versions, oldest first. Its name tells all of them."""
    digests = " ".join(known.facts.digest for known in folds)
    name = f"trunk-{hashlib.sha256(digests.encode()).hexdigest()}"
    nbytes = folding.trunk_bytes({site for known in folds for site in known.manifest.targets})
    facts = VersionFacts(name, task="", ancestors=(), disk_bytes=nbytes)
    return Known(facts, folds[-1].manifest, parts=(), folds=tuple(folds))
