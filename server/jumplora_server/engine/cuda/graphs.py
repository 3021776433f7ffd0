"""The decode step over static buffers: captured as one CUDA graph, or run eagerly without a GPU.

A graph replays the same launches on the same addresses, so shapes are padded to a few sizes, and
what changes from step to step (tokens, positions, live rows, slots) is written into one buffer.
On a CPU the same function runs on the same buffers, which is how padding and dead rows are tested.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.cuda import _POOL_HANDLE


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """The sizes that one graph is for; every one is padded, so that there are few."""

    rows: int  # rows of the target cache that are computed, live or not
    depth: int  # slots a lineage; 0 is the bare backbone, which launches no delta kernel
    targeted: int = 0  # a bit for each module that any row has a delta of; others launch nothing


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What one step decodes, one item a live row."""

    rows: Sequence[int]
    tokens: Sequence[int]
    positions: Sequence[int]
    places: Sequence[int]  # in the source cache
    lineages: Sequence[Sequence[int]]  # addresses of slot tables, oldest ancestor first
    targeted: int = 0  # as in DecodeShape


@dataclass(frozen=True, slots=True)
class StepBuffers:
    """Views into one int64 buffer [4 + depth, rows], so that one copy fills them all."""

    tokens: Tensor  # [rows]
    positions: Tensor  # [rows]
    live: Tensor  # [rows] the live rows, the first one repeated to fill it
    places: Tensor  # [rows] in the source cache
    lineages: Tensor  # [depth, rows]


Compute = Callable[[DecodeShape, StepBuffers], Tensor]
"""Logits [rows, vocab] of a step; must neither synchronise nor depend on the buffers' content."""


def shape_of(inputs: StepInputs, *, max_rows: int) -> DecodeShape:
    """The padded shape for a step; the caches hold `max_rows` rows."""
    return DecodeShape(
        rows=_padded(max(inputs.rows) + 1, 4, max_rows),
        depth=_padded(max(map(len, inputs.lineages)), 0, None),
        targeted=inputs.targeted,
    )


def fill(shape: DecodeShape, inputs: StepInputs, start_token: int) -> Tensor:
    """The content of a step's buffer, int64 [4 + depth, rows].

    Dead rows compute a start token at position 0 without deltas, and write nothing: `live` names
    a live row in their place, whose numbers are then stored twice.
    """
    tokens, positions = [start_token] * shape.rows, [0] * shape.rows
    places = [inputs.places[0]] * shape.rows
    lineages = [[0] * shape.rows for _ in range(shape.depth)]
    for row, token, position, source, lineage in zip(
        inputs.rows, inputs.tokens, inputs.positions, inputs.places, inputs.lineages, strict=True
    ):
        tokens[row], positions[row], places[row] = token, position, source
        for place, address in enumerate(lineage):
            lineages[place][row] = address
    live = [*inputs.rows, *[inputs.rows[0]] * (shape.rows - len(inputs.rows))]
    # torch.tensor would look at each number's type: four times as long, while the device waits.
    numbers = array("q", itertools.chain(tokens, positions, live, places, *lineages))
    return torch.frombuffer(numbers, dtype=torch.int64).view(4 + shape.depth, shape.rows)


class DecodeStep:
    """The decode step of one shape, on buffers that never move."""

    def __init__(self, shape: DecodeShape, compute: Compute, device: torch.device) -> None:
        self._shape = shape
        self._compute = compute
        self._device = device
        size = (4 + shape.depth, shape.rows)
        self._buffer = torch.zeros(size, dtype=torch.int64, device=device)
        self._host = torch.zeros(size, dtype=torch.int64, pin_memory=device.type == "cuda")
        tokens, positions, live, places = self._buffer[:4].unbind()
        self._buffers = StepBuffers(tokens, positions, live, places, lineages=self._buffer[4:])
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None

    def run(self, content: Tensor, graph_memory: _POOL_HANDLE | None) -> Tensor:
        """Logits [rows, vocab] for what `fill` returned; overwritten by the next run on a GPU."""
        # The step before was waited for (its tokens were read), so its copy is over.
        self._host.copy_(content)
        self._buffer.copy_(self._host, non_blocking=True)
        if self._device.type != "cuda":
            return self._compute(self._shape, self._buffers)
        if self._graph is None:
            self._capture(graph_memory)
        assert self._graph is not None
        assert self._logits is not None
        self._graph.replay()
        return self._logits

    def _capture(self, graph_memory: _POOL_HANDLE | None) -> None:
        """Run once, so that kernels are compiled, then record. Both write what a replay writes."""
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self._compute(self._shape, self._buffers)
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": the loader's thread may allocate and copy while this one records.
        with torch.cuda.graph(
            graph, pool=graph_memory, stream=stream, capture_error_mode="thread_local"
        ):
            self._logits = self._compute(self._shape, self._buffers)
        self._graph = graph


class DecodeSteps:
    """The steps of all shapes seen so far; their graphs share one memory pool."""

    def __init__(self, compute: Compute, device: torch.device) -> None:
        self._compute = compute
        self._device = device
        self._steps: dict[DecodeShape, DecodeStep] = {}
        # Graphs may share memory because they never run at the same time.
        self._memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def run(self, shape: DecodeShape, content: Tensor) -> Tensor:
        """Logits [rows, vocab] of a step of that shape; the first of its shape is captured."""
        step = self._steps.get(shape)
        if step is None:
            step = self._steps[shape] = DecodeStep(shape, self._compute, self._device)
        return step.run(content, self._memory)


def _padded(size: int, least: int, most: int | None) -> int:
    """The next of 0, least, 2 * least, 4 * least ... (powers of two for least 0), up to `most`."""
    if size <= least:
        return least
    step = max(least, 1)
    padded = step << (-(-size // step) - 1).bit_length()
    return padded if most is None else min(padded, most)
