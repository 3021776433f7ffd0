"""Where a gate's threshold is set: the k-th magnitude over many modules, exactly.

Z is made for one module at a time. Magnitudes are counted by their float32 bits, whose order is
that of the numbers, so nothing is sorted and no module's Z is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jumplora_adapters.errors import GateCollapsed
from jumplora_adapters.training.layer import AdaptedLinear

_LOW_BITS = 16
_HIGH = 1 << 15  # values of the upper half of a magnitude's bits: the sign bit is 0
_LOW = 1 << _LOW_BITS

Products = Sequence[Callable[[], Tensor]]
"""What gives each module's float32 matrix anew; called twice."""


def threshold_for(layers: Sequence[AdaptedLinear]) -> float:
    """The largest tau that lets exactly as many entries of Z pass as A and B have in all.

    It is an entry of |Z| itself, the comparison being strict; ties with it do not pass. (With one
    global threshold the official code takes the next larger entry, and keeps one less.) Raises
    GateCollapsed where no such threshold above 0 exists.
    """
    wanted = sum(layer.A.numel() + layer.B.numel() for layer in layers)
    total = sum(layer.base.numel() for layer in layers)
    if wanted >= total:
        raise GateCollapsed(
            f"the factors have {wanted} entries and the update only {total}: a gate would keep "
            "everything, so choose a smaller rank"
        )
    products = [layer.product for layer in layers]
    if not all(bool(torch.isfinite(product()).all()) for product in products):
        raise GateCollapsed("the update has entries that are not finite: lower the learning rate")
    tau = kth_magnitude(products, total - wanted)
    if tau == 0.0:  # its logarithm could not be learned
        raise GateCollapsed(
            f"fewer than {wanted + 1} of the update's {total} entries are not zero when "
            "the gate is set, which leaves no threshold above 0: raise the learning rate, or train "
            "more steps before the gate"
        )
    return tau


def kth_magnitude(products: Products, k: int) -> float:
    """The k-th smallest |entry| (from 1) over all matrices together, which must be finite."""
    high = sum(_counts(_bits(product()) >> _LOW_BITS, _HIGH) for product in products)
    assert isinstance(high, Tensor)
    up_to = high.cumsum(0)
    bucket = int(torch.searchsorted(up_to, k))
    before = int(up_to[bucket] - high[bucket])
    low = torch.zeros(_LOW, dtype=torch.int64)
    for product in products:
        bits = _bits(product())
        low += _counts(bits[bits >> _LOW_BITS == bucket] & (_LOW - 1), _LOW)
    rest = int(torch.searchsorted(low.cumsum(0), k - before))
    found = torch.tensor((bucket << _LOW_BITS) | rest, dtype=torch.int32)
    return float(found.view(torch.float32))


def _bits(matrix: Tensor) -> Tensor:
    """int32 [entries]: the bits of every magnitude."""
    return matrix.float().abs().flatten().view(torch.int32)


def _counts(values: Tensor, size: int) -> Tensor:
    """int64 [size], on the CPU: how often each of 0 .. size - 1 occurs."""
    return torch.bincount(values, minlength=size).cpu()
