"""The linear layers of a network as a model calls them: y = site(x), the rows' own deltas added."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from jumplora_adapters.network import Site
from jumplora_server.engine.delta import Plan
from jumplora_server.engine.linear import Linear


class Projection:
    """Sites with one input, side by side: one product for all, then each site's deltas.

    The sites have as many outputs each.
    """

    def __init__(self, sites: Sequence[Site], linear: Linear) -> None:
        self._names = [site.name for site in sites]
        self._width = sites[0].shape[0]
        self.linear = linear

    def __call__(self, x: Tensor, plan: Plan) -> Tensor:
        """x [n, d_in] -> [n, sites * d_out]."""
        return self._with_deltas(x, self.linear(x), plan)

    def onto(self, y: Tensor, x: Tensor, plan: Plan) -> Tensor:
        """y [n, sites * d_out] + self(x); the sum may be written into y."""
        return self._with_deltas(x, self.linear.onto(y, x), plan)

    def has_deltas(self, plan: Plan) -> bool:
        """Whether a row of the batch adds anything here."""
        return any(plan.has(name) for name in self._names)

    def _with_deltas(self, x: Tensor, y: Tensor, plan: Plan) -> Tensor:
        for i, name in enumerate(self._names):
            if plan.has(name):
                plan.add(name, x, y[:, i * self._width : (i + 1) * self._width])
        return y
