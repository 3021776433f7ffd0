"""How strongly the product of two factors is added: the s of W0 + s * G(B A)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jumplora_adapters.errors import ConvertError

RankScaling = Literal["r", "sqrt-r"]


@dataclass(frozen=True, slots=True)
class Scaling:
    """alpha over the rank, alpha over its root (rsLoRA, arXiv 2312.03732), or s itself.

    Exactly one of `alpha` and `scale` is given; ConvertError otherwise.
    """

    alpha: float | None = None
    scale: float | None = None
    rank_scaling: RankScaling = "r"

    def __post_init__(self) -> None:
        if (self.alpha is None) == (self.scale is None):
            given = "neither" if self.alpha is None else "both"
            raise ConvertError(
                "the checkpoint does not hold its scaling: give --alpha (divided by the rank) or"
                f" --scale (used as it is), got {given}"
            )
        value = self.scale if self.alpha is None else self.alpha
        if value is None or not math.isfinite(value) or value == 0:
            raise ConvertError(f"the scaling must be finite and not zero, got {value}")

    def at(self, rank: int) -> float:
        """s for factors of this rank."""
        if self.scale is not None:
            return self.scale
        assert self.alpha is not None
        return self.alpha / (math.sqrt(rank) if self.rank_scaling == "sqrt-r" else rank)
