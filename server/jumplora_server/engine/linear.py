"""The linear layers of a backbone: the forms of a weight, and sites, which add the rows' deltas.

x [n, d_in] -> [n, d_out], without bias, as T5 has none.

Every form gives a row the same bits whatever rows stand beside it, given at least `MIN_ROWS` rows.
That is what makes a mixed batch equal to each request alone (tests/server/engine/test_linear.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from jumplora_adapters.network import Site
from jumplora_server.engine.weights import to_dtype

# BLAS takes another path, with another summation order, below 4 rows; the caller pads to this.
MIN_ROWS = 4
QUANTISED_ELEMENTS = 1 << 22  # of a weight, at a time
REST_PARTS = 254  # of an int8 step: half of one, which rounding leaves over, is 127 of them


class Linear(Protocol):
    """A weight in the form its dtype and device are fastest in."""

    nbytes: int

    def __call__(self, x: Tensor) -> Tensor:
        """x [n, d_in] -> [n, d_out]."""

    def onto(self, y: Tensor, x: Tensor) -> Tensor:
        """y [n, d_out] + self(x); the sum may be written into y."""


class Product(Protocol):
    """x W^T of a weight, for any number of rows."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """x [n, d_in] -> [n, d_out]."""


class Plan(Protocol):
    """Which deltas each row of one batch adds, whatever applies them."""

    def has(self, module: str) -> bool:
        """Whether any row adds a delta of `module`. What no row does costs no more than this."""

    def add(self, module: str, x: Tensor, y: Tensor) -> None:
        """y[rows] += x[rows] D^T for every slot that has `module`; x [n, d_in], y [n, d_out]."""

    def instead(self, module: str) -> Sequence[tuple[Product, slice | Tensor]]:
        """Other weights than the backbone's, and the rows that take their products instead."""


class PlainLinear:
    """The weight as it is: bfloat16 anywhere, float32 on a GPU, and the slow reference on a CPU."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight  # [d_out, d_in]
        self.nbytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """x [n, d_in] -> [n, d_out]."""
        return F.linear(x, self.weight)

    def onto(self, y: Tensor, x: Tensor) -> Tensor:
        """y [n, d_out] + self(x), in y's memory on a GPU."""
        return y.addmm_(x, self.weight.t()) if x.is_cuda else y + self(x)


class PackedLinear:
    """float32 on a CPU, the weight prepacked once into oneDNN's blocked layout.

    At 8 rows it takes 0.53 to 0.77 of the time of a plain linear (768 x 768 and 3072 x 768, one
    thread): decode reads the whole weight, and the plain call pays for packing it at every step.
    """

    def __init__(self, weight: Tensor) -> None:
        self.nbytes = weight.nbytes
        # 8 is the row count the layout is chosen for: decode, where the packing matters most.
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 8)

    def __call__(self, x: Tensor) -> Tensor:
        """x [n, d_in] -> [n, d_out]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")
        return y

    def onto(self, y: Tensor, x: Tensor) -> Tensor:
        """y [n, d_out] + self(x)."""
        return y + self(x)

    @staticmethod
    def is_available() -> bool:
        """Whether this torch build has oneDNN's prepacked linear."""
        has_mkldnn: bool = torch._C._has_mkldnn
        return has_mkldnn and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


class Int8Linear:
    """int8 weights per output channel, activations quantised per row, exact int32 sums.

    Per row, never per tensor: one outlier row must not coarsen its batch mates. Symmetric, so that
    no zero-point correction is needed. A row's result has the same bits alone and in any batch.
    """

    def __init__(self, weight: Tensor) -> None:
        self.scale, self.weight = quantise_weight(weight)  # [d_out], [d_out, d_in]
        self.nbytes = self.weight.nbytes + self.scale.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """x [n, d_in] float32 -> [n, d_out] float32."""
        row_scale, quantised = quantise_rows(x)
        return self._product(row_scale, quantised)

    def finely(self, x: Tensor) -> Tensor:
        """The same with two bytes a number of x, the second for what the first leaves over."""
        row_scale, quantised = quantise_rows(x)
        rest = ((x / row_scale - quantised) * REST_PARTS).round_().to(torch.int8)
        first, second = (
            self._product(row_scale, quantised),
            self._product(row_scale / REST_PARTS, rest),
        )
        return first + second

    def _product(self, row_scale: Tensor, quantised: Tensor) -> Tensor:
        if quantised.shape[1] == 1:  # where the library's product is wrong
            sums = quantised.int() * self.weight.t().int()
        else:
            sums = torch._int_mm(quantised, self.weight.t())  # [n, d_out] int32
        return sums.to(torch.float32).mul_(row_scale).mul_(self.scale)

    def onto(self, y: Tensor, x: Tensor) -> Tensor:
        """y [n, d_out] + self(x)."""
        return y + self(x)


def quantise_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 of each output: (scale [d_out] float32, values [d_out, d_in] int8)."""
    scale = torch.empty(weight.shape[0])
    values = torch.empty(weight.shape, dtype=torch.int8)
    # In parts, for a whole embedding's temporary tensors would take four times its bytes.
    rows = max(1, QUANTISED_ELEMENTS // weight.shape[1])
    for first in range(0, weight.shape[0], rows):
        part = weight[first : first + rows].float()
        own = scale[first : first + rows]
        own.copy_(part.abs().amax(dim=1).clamp_min(1e-12) / 127)
        values[first : first + rows] = (part / own[:, None]).round_()
    return scale, values


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 of each row: (scale [n, 1] float32, values [n, d] int8)."""
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min_(1e-12).div_(127)
    return scale, (x / scale).round_().to(torch.int8)


def min_rows(dtype: str) -> int:
    """Fewest rows a step computes: integer sums are exact at any count, float ones are not."""
    return 1 if dtype == "int8" else MIN_ROWS


def int8_linear_reference(x: Tensor, layer: Int8Linear) -> Tensor:
    """The slow twin of `Int8Linear`: the same quantisation, the sums in int64. Used by tests."""
    row_scale, quantised = quantise_rows(x)
    sums = quantised.to(torch.int64) @ layer.weight.to(torch.int64).t()
    return sums.to(torch.float32) * row_scale * layer.scale


def at_least_min_rows(x: Tensor) -> Tensor:
    """x [n, d], filled up with rows of zeros where it has fewer than `MIN_ROWS`."""
    missing = MIN_ROWS - x.shape[0]
    return F.pad(x, (0, 0, 0, missing)) if missing > 0 else x


def linear_bytes(shape: tuple[int, int], dtype: str) -> int:
    """What `make_linear` makes of a weight of this shape takes."""
    d_out, d_in = shape
    if dtype == "int8":
        return d_out * d_in + 4 * d_out
    return d_out * d_in * to_dtype(dtype).itemsize


def make_linear(weight: Tensor, dtype: str, device: torch.device) -> Linear:
    """The fastest form for a weight [d_out, d_in] under a `dtype` setting."""
    if dtype == "int8":
        return Int8Linear(weight)
    if dtype == "bfloat16":
        return PlainLinear(weight.to(device, torch.bfloat16))
    weight = weight.to(device, torch.float32)
    if device.type == "cpu" and PackedLinear.is_available():
        return PackedLinear(weight)
    return PlainLinear(weight)


class Projection:
    """Sites of one shape with one input, side by side: one product, then each site's deltas."""

    def __init__(self, sites: Sequence[Site], linear: Linear) -> None:
        assert len({site.shape for site in sites}) == 1, "sites side by side are of one shape"
        self._names = [site.name for site in sites]
        self._width = sites[0].shape[0]
        self.linear = linear

    def __call__(self, x: Tensor, plan: Plan) -> Tensor:
        """x [n, d_in] -> [n, sites * d_out]."""
        return self._with_deltas(x, self._product(x, plan), plan)

    def onto(self, y: Tensor, x: Tensor, plan: Plan) -> Tensor:
        """y [n, sites * d_out] + self(x); the sum may be written into y."""
        if any(plan.instead(name) for name in self._names):
            return self._with_deltas(x, y + self._product(x, plan), plan)
        return self._with_deltas(x, self.linear.onto(y, x), plan)

    def has_deltas(self, plan: Plan) -> bool:
        """Whether a row of the batch adds anything here."""
        return any(plan.has(name) for name in self._names)

    def _product(self, x: Tensor, plan: Plan) -> Tensor:
        """The backbone's product, but for the rows that take another weight's at a site."""
        y = self.linear(x)
        for name, part in self._parts(y):
            for product, rows in plan.instead(name):
                if isinstance(rows, slice):
                    part[rows] = product(x[rows])
                else:
                    part.index_copy_(0, rows, product(x.index_select(0, rows)))
        return y

    def _with_deltas(self, x: Tensor, y: Tensor, plan: Plan) -> Tensor:
        for name, part in self._parts(y):
            if plan.has(name):
                plan.add(name, x, part)
        return y

    def _parts(self, y: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each site's columns of y [n, sites * d_out]."""
        for i, name in enumerate(self._names):
            yield name, y[:, i * self._width : (i + 1) * self._width]
