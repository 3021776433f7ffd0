"""Which slots each row or token of a batch applies, in the form the kernels take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from jumplora_server.engine.cuda.forms import DeviceForm
from jumplora_server.engine.cuda.slot import DeviceAdapter

TOKENS: Final = 64  # tokens of a tile of an encode


class AddDeltas(Protocol):
    """`launch.add_decode` and `launch.add_encode`, or their references."""

    def __call__(self, work: Tensor, module: int, x: Tensor, y: Tensor, /) -> None:
        """y += x D^T, as the work list says."""


class KeptEntries(Protocol):
    """`launch.kept`, or its reference."""

    def __call__(self, table: Tensor, module: int, shape: tuple[int, int], /) -> Tensor:
        """The mask of a factored module, bool [d_out, d_in]."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """The three things a runner asks of its kernels: Triton's, or the slow references."""

    add_decode: AddDeltas
    add_encode: AddDeltas
    kept: KeptEntries


class DecodePlan:
    """One decode step: every row's lineage as addresses in device memory."""

    def __init__(self, lineages: Tensor, modules: Mapping[str, int], kernels: Kernels) -> None:
        self._lineages = lineages  # int64 [depth, rows]
        self._modules = modules
        self._kernels = kernels

    def add(self, module: str, x: Tensor, y: Tensor) -> None:
        """y[row] += x[row] D^T for every slot of the row's lineage; one launch."""
        number = self._modules.get(module)
        if number is not None and self._lineages.shape[0]:
            self._kernels.add_decode(self._lineages, number, x, y)


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring tokens [start, stop) of one slot."""

    adapter: DeviceAdapter
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Level:
    """The work of one position in the lineages: a token is in one span of a level at most."""

    spans: tuple[Span, ...]
    tiles: Tensor  # int64 [n_tiles, 3]

    def library(self, module: str) -> list[tuple[Span, DeviceForm]]:
        """The spans whose form of a module the kernels leave to the library's products."""
        found = []
        for span in self.spans:
            form = span.adapter.forms.get(module)
            if form is not None and form.record.form in ("dense", "low rank"):
                found.append((span, form))
        return found

    def has_kernel_work(self, module: str) -> bool:
        """Whether any span has a packed or factored form of a module."""
        forms = (span.adapter.forms.get(module) for span in self.spans)
        return any(form and form.record.form in ("packed", "factored") for form in forms)


class EncodePlan:
    """One encode: levels of spans, so that ancestors are added before their descendants."""

    def __init__(
        self, levels: Sequence[Level], modules: Mapping[str, int], kernels: Kernels
    ) -> None:
        self._levels = levels
        self._modules = modules
        self._kernels = kernels
        self._source: Tensor | None = None
        self._turned: Tensor | None = None

    def add(self, module: str, x: Tensor, y: Tensor) -> None:
        """y[tokens] += x[tokens] D^T, one launch a level; x [n, d_in], y [n, d_out]."""
        number = self._modules.get(module)
        if number is None:
            return
        for level in self._levels:
            if level.has_kernel_work(module):
                self._kernels.add_encode(level.tiles, number, self._transposed(x), y)
            for span, form in level.library(module):
                update = form.product(x[span.start : span.stop].float(), "encode")
                y[span.start : span.stop] += update.to(y.dtype)

    def _transposed(self, x: Tensor) -> Tensor:
        """x^T [d_in, n], kept for the next module: q and v of a block read the same x."""
        if self._source is not x or self._turned is None:
            self._source, self._turned = x, x.t().contiguous()
        return self._turned


def make_levels(
    lineages: Sequence[tuple[DeviceAdapter, ...]],
    spans: Sequence[tuple[int, int]],
    device: torch.device,
) -> list[Level]:
    """Cut a batch of prompts into levels.

    Args:
        lineages: per prompt its slots, oldest ancestor first.
        spans: per prompt its tokens [start, stop), ascending.
    """
    levels = []
    for position in range(max(map(len, lineages), default=0)):
        joined: list[Span] = []
        for lineage, (start, stop) in zip(lineages, spans, strict=True):
            if position >= len(lineage):
                continue
            adapter = lineage[position]
            if joined and joined[-1].adapter is adapter and joined[-1].stop == start:
                start = joined.pop().start
            joined.append(Span(adapter, start, stop))
        tiles = [
            (span.adapter.address, first, min(first + TOKENS, span.stop))
            for span in joined
            for first in range(span.start, span.stop, TOKENS)
        ]
        levels.append(Level(tuple(joined), torch.tensor(tiles, device=device)))
    return levels
