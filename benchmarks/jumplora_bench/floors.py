"""The least that a lap of ours can take: bytes and operations at this machine's measured roofs.

A decode step moves every weight that it uses, every delta and every cached key and value once; an
encode computes its products at the speed of torch's own, and the non-zeros of its rows at the speed
of a float32 product. Norms, softmax, the encoder's attention and all activations count nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from jumplora_adapters.backbone import Backbone
from jumplora_bench.cases.case import Work
from jumplora_bench.installed import Row, distinct
from jumplora_bench.roofs import Roofs, measure_roofs

_WIDTHS = {"float32": 4, "int8": 1}  # bytes of a weight
_NONZERO = 4  # a bfloat16 value and a 16-bit column
_CACHED = {"float32": 4, "int8": 2}  # bytes of a key's or value's number


@dataclass(frozen=True, slots=True)
class Phase:
    """Entries of the weights that compute in one phase."""

    kept: int  # under every trunk
    replaced: int  # that each trunk has its own of: q and v

    @property
    def entries(self) -> int:
        """What one token is multiplied with."""
        return self.kept + self.replaced


@dataclass(frozen=True, slots=True)
class Sizes:
    """A backbone as far as floors need it."""

    encode: Phase
    decode: Phase
    cached: int  # keys and values of one token in one cache, all blocks of the decoder

    @classmethod
    def of(cls, backbone: Backbone) -> Self:
        """Sorted by when a layer computes and whether a trunk replaces it."""
        counts = {(decoded, target): 0 for decoded in (False, True) for target in (False, True)}
        for name, site in backbone.sites.items():
            counts[site.is_decoded, name in backbone.targets] += site.shape[0] * site.shape[1]
        architecture = backbone.architecture
        return cls(
            Phase(counts[False, False], counts[False, True]),
            Phase(counts[True, False], counts[True, True]),
            2 * architecture.num_decoder_layers * architecture.inner,
        )


@dataclass(frozen=True, slots=True)
class Floor:
    """Seconds of one encode of all prompts, and of a decode step of all rows."""

    dtype: str
    encode: float
    step: float

    def lap(self, new: int) -> float:
        """An encode and `new` steps."""
        return self.encode + new * self.step


@dataclass(frozen=True, slots=True)
class Floors:
    """Of the cases of one run. Non-zeros are multiplied in float32, whatever the dtype."""

    sizes: Sizes
    roofs: Mapping[str, Roofs]  # by dtype, float32 among them
    source: int
    new: int

    @classmethod
    def measured(
        cls, backbone: Backbone, work: Work, dtypes: Sequence[str], *, shrink: int = 1
    ) -> Self:
        """Measure the roofs of these dtypes, of smaller reads and products with `shrink`."""
        wanted = [dtype for dtype in _WIDTHS if dtype in ("float32", *dtypes)]
        roofs = {dtype: measure_roofs(dtype, shrink) for dtype in wanted}
        return cls(Sizes.of(backbone), roofs, work.source, work.new)

    def of(self, dtype: str, rows: Sequence[Row]) -> Floor:
        """The floor of a case whose rows apply these parts."""
        deltas = [part for part in distinct(rows) if not part.trunk]
        encode = self._seconds(
            dtype,
            self._weight_bytes(dtype, self.sizes.encode, rows)
            + _NONZERO * sum(part.encoded for part in deltas),
            2 * self.source * len(rows) * self.sizes.encode.entries,
            2 * self.source * sum(part.encoded for row in rows for part in row),
        )
        keys = self.source + (self.new + 1) / 2  # of a row, the mean of its steps
        step = self._seconds(
            dtype,
            self._weight_bytes(dtype, self.sizes.decode, rows)
            + _NONZERO * sum(part.decoded for part in deltas)
            + _CACHED[dtype] * self.sizes.cached * keys * len(rows),
            2 * len(rows) * self.sizes.decode.entries,
            2 * sum(part.decoded for row in rows for part in row),
        )
        return Floor(dtype, encode, step)

    def _weight_bytes(self, dtype: str, phase: Phase, rows: Sequence[Row]) -> int:
        # None: rows without a trunk use the backbone's own q and v.
        versions = {next((part for part in row if part.trunk), None) for row in rows}
        return _WIDTHS[dtype] * (phase.kept + len(versions) * phase.replaced)

    def _seconds(self, dtype: str, nbytes: float, products: float, nonzeros: float) -> float:
        roofs = self.roofs[dtype]
        # Both kinds of arithmetic take the same cores: their times add up.
        arithmetic = (
            products / roofs.operations_per_second
            + nonzeros / self.roofs["float32"].operations_per_second
        )
        return max(nbytes / roofs.bytes_per_second, arithmetic)
