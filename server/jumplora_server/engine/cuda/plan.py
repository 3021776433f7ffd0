"""Which slots each row or token of a batch applies, in the form the kernels take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

import torch
from torch import Tensor

from jumplora_server.engine.cuda.expanded import (
    EXPAND_FROM,
    PLANES,
    Chunk,
    Scratch,
    make_chunks,
)
from jumplora_server.engine.cuda.slot import DeviceAdapter
from jumplora_server.engine.sampling import to_device

TOKENS: Final = 64  # tokens of a tile of an encode

Way = Literal["none", "library", "pick"] | int
"""How a span's form of a module is applied; a number: expanded, into so many planes."""


class AddDeltas(Protocol):
    """`launch.add_decode` and `launch.add_encode`, or their references."""

    def __call__(self, work: Tensor, module: int, x: Tensor, y: Tensor, /) -> None:
        """y += x D^T, as the work list says."""


class KeptEntries(Protocol):
    """`launch.kept`, or its reference."""

    def __call__(self, table: Tensor, module: int, shape: tuple[int, int], /) -> Tensor:
        """The mask of a factored module, bool [d_out, d_in]."""


class AddExpanded(Protocol):
    """`launch.add_expanded`, or its reference."""

    def __call__(
        self, chunk: Chunk, module: int, x: Tensor, y: Tensor, scratch: Scratch, /
    ) -> None:
        """y += x D^T, as the chunk's tiles say."""


@dataclass(frozen=True, slots=True)
class OwnStep:
    """Where the rows of a decode step stand."""

    positions: Tensor  # int64 [rows], of each row's new token
    is_live: Tensor  # int32 [rows], 0 for rows whose caches must not change


class AttendOwn(Protocol):
    """`launch.attend_own`, or its reference."""

    def __call__(
        self, qkv: Tensor, keys: Tensor, values: Tensor, step: OwnStep, bias: Tensor, /
    ) -> Tensor:
        """Append to the caches of live rows and attend to them: [rows, inner]."""


class AttendSource(Protocol):
    """`launch.attend_source`, or its reference."""

    def __call__(
        self, q: Tensor, keys: Tensor, values: Tensor, places: Tensor, lengths: Tensor, /
    ) -> Tensor:
        """Attend to each row's prompt: [rows, inner]."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """What a runner asks of its kernels: Triton's, or the slow references."""

    add_decode: AddDeltas
    add_encode: AddDeltas
    add_expanded: AddExpanded
    kept: KeptEntries
    attend_own: AttendOwn
    attend_source: AttendSource


class DecodePlan:
    """One decode step: every row's lineage as addresses in device memory."""

    def __init__(
        self, lineages: Tensor, targeted: int, modules: Mapping[str, int], kernels: Kernels
    ) -> None:
        self._lineages = lineages  # int64 [depth, rows]
        self._targeted = targeted  # a bit a module
        self._modules = modules
        self._kernels = kernels

    def has(self, module: str) -> bool:
        """Whether a row of the step has a delta of `module`."""
        return bool(self._targeted >> self._modules[module] & 1)

    def add(self, module: str, x: Tensor, y: Tensor) -> None:
        """y[row] += x[row] D^T for every slot of the row's lineage; one launch."""
        self._kernels.add_decode(self._lineages, self._modules[module], x, y)

    def instead(self, module: str) -> tuple[()]:
        """None: a GPU has no trunks."""
        return ()


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring tokens [start, stop) of one slot, of long prompts or of short ones."""

    adapter: DeviceAdapter
    start: int
    stop: int
    is_long: bool


@dataclass(frozen=True, slots=True)
class Work:
    """What one level does for one module."""

    picked: Tensor | None  # int64 [n_tiles, 3]: slot address, first token, token after the last
    chunks: tuple[Chunk, ...]
    library: tuple[Span, ...]  # left to the library's products


class Level:
    """The work of one position in the lineages: a token is in one span of a level at most."""

    def __init__(self, spans: Sequence[Span], scratch: Scratch, device: torch.device) -> None:
        self._spans = spans
        self._scratch = scratch
        self._device = device
        # Most modules of a batch want the same, and the device is given it once.
        self._works: dict[tuple[int, tuple[Way, ...]], Work] = {}
        self._modules = frozenset().union(*(span.adapter.forms for span in spans))

    def has(self, module: str) -> bool:
        """Whether any of its slots has a delta of `module`."""
        return module in self._modules

    def work(self, module: str, shape: tuple[int, int]) -> Work:
        """How each span's form of a module [d_out, d_in] is applied."""
        ways = tuple(_way(span, module) for span in self._spans)
        key = (self._scratch.capacity(1, shape), ways)
        if key not in self._works:
            self._works[key] = self._divide(ways, shape)
        return self._works[key]

    def _divide(self, ways: tuple[Way, ...], shape: tuple[int, int]) -> Work:
        by_way: dict[Way, list[Span]] = {}
        for span, way in zip(self._spans, ways, strict=True):
            by_way.setdefault(way, []).append(span)
        picked = [
            (span.adapter.address, first, min(first + TOKENS, span.stop))
            for span in by_way.get("pick", ())
            for first in range(span.start, span.stop, TOKENS)
        ]
        chunks = [
            Chunk(self._on_device(slots), self._on_device(tiles), planes)
            for planes in PLANES.values()
            for slots, tiles in make_chunks(
                [(span.adapter.address, span.start, span.stop) for span in by_way.get(planes, ())],
                self._scratch.capacity(planes, shape),
            )
        ]
        return Work(
            picked=self._on_device(picked) if picked else None,
            chunks=tuple(chunks),
            library=tuple(by_way.get("library", ())),
        )

    def _on_device(self, numbers: Sequence[int] | Sequence[tuple[int, ...]]) -> Tensor:
        return to_device(torch.tensor(numbers), self._device)


def _way(span: Span, module: str) -> Way:
    form = span.adapter.forms.get(module)
    if form is None:
        return "none"
    if form.record.form in ("dense", "low rank"):
        return "library"
    if form.record.form == "packed" and span.is_long:
        return PLANES[form.record.values]
    return "pick"


class EncodePlan:
    """One encode: levels of spans, so that ancestors are added before their descendants."""

    def __init__(
        self,
        levels: Sequence[Level],
        modules: Mapping[str, int],
        kernels: Kernels,
        scratch: Scratch,
    ) -> None:
        self._levels = levels
        self._modules = modules
        self._kernels = kernels
        self._scratch = scratch
        self._source: Tensor | None = None
        self._turned: Tensor | None = None

    def has(self, module: str) -> bool:
        """Whether a slot of any level has a delta of `module`."""
        return any(level.has(module) for level in self._levels)

    def add(self, module: str, x: Tensor, y: Tensor) -> None:
        """y[tokens] += x[tokens] D^T, level by level; x [n, d_in], y [n, d_out]."""
        number = self._modules[module]
        for level in self._levels:
            work = level.work(module, (y.shape[1], x.shape[1]))
            if work.picked is not None:
                self._kernels.add_encode(work.picked, number, self._transposed(x), y)
            for chunk in work.chunks:
                self._kernels.add_expanded(chunk, number, x, y, self._scratch)
            for span in work.library:
                form = span.adapter.forms[module]
                update = form.product(x[span.start : span.stop].float(), "encode")
                y[span.start : span.stop] += update.to(y.dtype)

    def instead(self, module: str) -> tuple[()]:
        """None: a GPU has no trunks."""
        return ()

    def _transposed(self, x: Tensor) -> Tensor:
        """x^T [d_in, n], kept for the next module: q and v of a block read the same x."""
        if self._source is not x or self._turned is None:
            self._source, self._turned = x, x.t().contiguous()
        return self._turned


def make_levels(
    lineages: Sequence[tuple[DeviceAdapter, ...]],
    spans: Sequence[tuple[int, int]],
    scratch: Scratch,
    device: torch.device,
) -> list[Level]:
    """Cut a batch of prompts into levels.

    Args:
        lineages: per prompt its slots, oldest ancestor first.
        spans: per prompt its tokens [start, stop), ascending.
        scratch: where modules will be expanded.
    """
    levels = []
    for position in range(max(map(len, lineages), default=0)):
        joined: list[Span] = []
        for lineage, (start, stop) in zip(lineages, spans, strict=True):
            if position < len(lineage):
                joined.append(Span(lineage[position], start, stop, stop - start >= EXPAND_FROM))
                if len(joined) > 1 and (both := _joined(*joined[-2:])):
                    joined[-2:] = [both]
        levels.append(Level(joined, scratch, device))
    return levels


def _joined(left: Span, right: Span) -> Span | None:
    """One span of two neighbours that are computed alike."""
    if left.adapter is right.adapter and left.is_long == right.is_long and left.stop == right.start:
        return replace(left, stop=right.stop)
    return None
