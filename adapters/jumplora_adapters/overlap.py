"""How much the supports of adapters overlap, beside what chance alone would give.

Two independent random supports of densities p and q meet in p*q of the entries, so a small
Jaccard index says nothing by itself (JumpLoRA's published 0.065 at 87.6 % sparsity is chance).
Works on packed bit masks only; values never matter and nothing is expanded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from jumplora_adapters.delta import Delta, sparse_part
from jumplora_adapters.errors import FormatError

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Support:
    """Which entries of one module's matrix are kept: packed bits as in `SparseDelta.mask`."""

    shape: tuple[int, int]  # (d_out, d_in)
    bits: Bits  # [ceil(d_out * d_in / 8)], padding bits zero

    @property
    def size(self) -> int:
        """Entries of the matrix."""
        return self.shape[0] * self.shape[1]

    @property
    def kept(self) -> int:
        """Entries in the support."""
        return _count(self.bits)


@dataclass(frozen=True, slots=True)
class ModuleOverlap:
    """Two supports of one module, in entries; the expectations are those of random supports."""

    module: str
    size: int
    first: int
    second: int
    intersection: int

    @property
    def union(self) -> int:
        """Entries kept by either."""
        return self.first + self.second - self.intersection

    @property
    def expected_intersection(self) -> float:
        """Entries that independent random supports of these two densities would share."""
        return self.first * self.second / self.size

    @property
    def expected_union(self) -> float:
        """Entries that independent random supports of these two densities would cover."""
        return self.first + self.second - self.expected_intersection

    @property
    def first_density(self) -> float:
        """Share of the entries that the first adapter keeps."""
        return self.first / self.size

    @property
    def second_density(self) -> float:
        """Share of the entries that the second adapter keeps."""
        return self.second / self.size

    @property
    def jaccard(self) -> float:
        """Intersection over union; 0 where both are empty."""
        return _ratio(self.intersection, self.union)

    @property
    def chance(self) -> float:
        """The Jaccard index expected of independent random supports."""
        return _ratio(self.expected_intersection, self.expected_union)

    @property
    def times_chance(self) -> float:
        """Jaccard over its chance level, as of `PairOverlap`."""
        return _ratio(self.jaccard, self.chance)


@dataclass(frozen=True, slots=True)
class PairOverlap:
    """Two adapters: counts pooled over the modules, so that large modules weigh more."""

    first: str
    second: str
    modules: tuple[ModuleOverlap, ...]

    @property
    def first_density(self) -> float:
        """Share of all entries that the first adapter keeps."""
        return _ratio(sum(module.first for module in self.modules), self.size)

    @property
    def second_density(self) -> float:
        """Share of all entries that the second adapter keeps."""
        return _ratio(sum(module.second for module in self.modules), self.size)

    @property
    def size(self) -> int:
        """Entries of all modules that either adapter has."""
        return sum(module.size for module in self.modules)

    @property
    def intersection(self) -> int:
        """Entries kept by both."""
        return sum(module.intersection for module in self.modules)

    @property
    def union(self) -> int:
        """Entries kept by either."""
        return sum(module.union for module in self.modules)

    @property
    def jaccard(self) -> float:
        """Pooled intersection over pooled union; 0 where both adapters are empty."""
        return _ratio(self.intersection, self.union)

    @property
    def chance(self) -> float:
        """Expected intersection over expected union, from each module's own densities."""
        return _ratio(
            sum(module.expected_intersection for module in self.modules),
            sum(module.expected_union for module in self.modules),
        )

    @property
    def times_chance(self) -> float:
        """Jaccard over its chance level: 1 is chance, 0 where nothing could overlap."""
        return _ratio(self.jaccard, self.chance)


def support_of(delta: Delta) -> Support:
    """The support of one delta: what its mask keeps, whatever is added of low rank.

    A delta of low rank alone keeps every entry.
    """
    size = delta.shape[0] * delta.shape[1]
    if (sparse := sparse_part(delta)) is not None:
        return Support(sparse.shape, sparse.mask.contiguous().numpy())
    bits = np.full((size + 7) // 8, 0xFF, dtype=np.uint8)
    if size % 8:
        bits[-1] = (1 << size % 8) - 1
    return Support(delta.shape, bits)


def supports_of(deltas: Mapping[str, Delta]) -> dict[str, Support]:
    """Module -> support of one adapter."""
    return {module: support_of(delta) for module, delta in deltas.items()}


def union_supports(adapters: Sequence[Mapping[str, Support]]) -> dict[str, Support]:
    """Module -> entries kept by any of the adapters: what a whole lineage touches."""
    union: dict[str, Support] = {}
    for supports in adapters:
        for module, support in supports.items():
            held = union.get(module)
            if held is None:
                union[module] = support
                continue
            _check_shapes(module, held, support)
            union[module] = Support(held.shape, held.bits | support.bits)
    return union


def overlap_pair(
    first: str, ours: Mapping[str, Support], second: str, theirs: Mapping[str, Support]
) -> PairOverlap:
    """The overlap of two named adapters; a module that one lacks has an empty support there."""
    modules: list[ModuleOverlap] = []
    for module in sorted(ours.keys() | theirs.keys()):
        left, right = ours.get(module), theirs.get(module)
        if left is not None and right is not None:
            _check_shapes(module, left, right)
        known = right if left is None else left
        assert known is not None  # one of the two names the module
        modules.append(
            ModuleOverlap(
                module=module,
                size=known.size,
                first=0 if left is None else left.kept,
                second=0 if right is None else right.kept,
                intersection=0 if left is None or right is None else _count(left.bits & right.bits),
            )
        )
    return PairOverlap(first, second, tuple(modules))


def overlaps(
    adapters: Mapping[str, Mapping[str, Support]], on_pairs: Callable[[int], None] | None = None
) -> tuple[PairOverlap, ...]:
    """Every unordered pair of the named adapters, in their order; `on_pairs` counts them."""
    found: list[PairOverlap] = []
    for first, second in combinations(adapters, 2):
        found.append(overlap_pair(first, adapters[first], second, adapters[second]))
        if on_pairs is not None:
            on_pairs(1)
    return tuple(found)


def _check_shapes(module: str, left: Support, right: Support) -> None:
    if left.shape != right.shape:
        raise FormatError(
            f"module {module!r} is {left.shape} in one adapter and {right.shape} in another:"
            " they belong to different backbones",
            code="shape",
        )


def _count(bits: Bits) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
