"""Which weights and deltas the rows of a step use, as the kernels walk them."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from jumplora_server.engine.native.forms import NativeAdapter
from jumplora_server.engine.native.layout import LANES, MAX_LANES, Block, Family, Segment

Lineage = tuple[NativeAdapter, ...]
"""What a row uses: a trunk or none, then deltas, oldest first."""


@dataclass(frozen=True, slots=True)
class Work:
    """The parts of a step that layout.Step points to."""

    segments: ctypes.Array[Segment] = field(default_factory=Segment * 0)
    families: ctypes.Array[Family] = field(default_factory=Family * 0)
    blocks: ctypes.Array[Block] = field(default_factory=Block * 0)
    targeted: bytes = b""
    merged: bytes = b""
    inner: int = 0  # numbers of x A^T of the low-rank ones, of the operation that has most


@dataclass(frozen=True, slots=True)
class Member:
    """Rows [start, stop) of activations that belong to one prompt or one sequence."""

    start: int
    stop: int
    trunk: NativeAdapter | None
    deltas: Lineage


def encode_work(spans: Iterable[tuple[int, int]], lineages: Iterable[Lineage], sites: int) -> Work:
    """Prompts' tokens: neighbours of one lineage are together, up to 64 tokens."""
    members = _members(spans, lineages)
    runs = itertools.groupby(members, key=lambda member: (id(member.trunk), ids(member.deltas)))
    return _work(members, [[*run] for _, run in runs], MAX_LANES, sites)


def decode_work(lineages: Sequence[Lineage], sites: int) -> Work:
    """A row of each sequence: neighbours whose deltas begin with the same one, up to 16 rows."""
    members = _members(((i, i + 1) for i in range(len(lineages))), lineages)
    runs = itertools.groupby(members, key=lambda member: (id(member.trunk), ids(member.deltas[:1])))
    return _work(members, [[*run] for _, run in runs], LANES, sites)


def trunk_of(lineage: Lineage) -> NativeAdapter | None:
    """The trunk that a lineage begins with, if it does."""
    return lineage[0] if lineage and lineage[0].is_trunk else None


def ids(lineage: Lineage) -> tuple[int, ...]:
    """What tells two lineages apart."""
    return tuple(map(id, lineage))


def _members(spans: Iterable[tuple[int, int]], lineages: Iterable[Lineage]) -> list[Member]:
    return [
        Member(*span, trunk, lineage if trunk is None else lineage[1:])
        for span, lineage in zip(spans, lineages, strict=True)
        for trunk in (trunk_of(lineage),)
    ]


@dataclass(slots=True)
class _Growing:
    families: list[Family] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    lane: int = 0
    inner: int = 0

    def add(self, members: Sequence[Member]) -> None:
        """A family of neighbours, and a block for each of their deltas."""
        row, stop = members[0].start, members[-1].stop
        first = len(self.blocks)
        for position in range(max(len(member.deltas) for member in members)):
            at = slice(position, position + 1)
            for delta, same in itertools.groupby(members, key=lambda each: ids(each.deltas[at])):
                if delta:
                    self._add_block([*same], position)
        self.families.append(Family(row, stop - row, self.lane, first, len(self.blocks) - first))
        self.lane += _lanes(stop - row)

    def _add_block(self, members: Sequence[Member], position: int) -> None:
        row, rows = members[0].start, members[-1].stop - members[0].start
        delta = members[0].deltas[position]
        self.blocks.append(Block(row, rows, delta.address, self.inner))
        self.inner += _lanes(rows) * delta.inner


def _work(members: Sequence[Member], runs: Iterable[list[Member]], most: int, sites: int) -> Work:
    growing = _Growing()
    for run in runs:
        if run[0].deltas:
            for cut in _cut(run, most):
                growing.add(cut)
    trunks = {id(m.trunk): m.trunk for m in members if m.trunk is not None}.values()
    deltas = {id(delta): delta for m in members for delta in m.deltas}.values()
    segments = [*_segments(members)] if trunks else []
    return Work(
        (Segment * len(segments))(*segments),
        (Family * len(growing.families))(*growing.families),
        (Block * len(growing.blocks))(*growing.blocks),
        _bits(deltas, sites),
        _bits(trunks, sites),
        growing.inner,
    )


def _segments(members: Sequence[Member]) -> Iterator[Segment]:
    for _, run in itertools.groupby(members, key=lambda member: id(member.trunk)):
        same = [*run]
        trunk = same[0].trunk
        address = None if trunk is None else trunk.address
        yield Segment(same[0].start, same[-1].stop - same[0].start, address)


def _cut(members: Sequence[Member], most: int) -> Iterator[list[Member]]:
    """Parts of at most `most` rows; a member may lie in several."""
    part: list[Member] = []
    start = members[0].start
    for member in members:
        at = member.start
        while at < member.stop:
            if at == start + most:
                yield part
                part, start = [], at
            stop = min(member.stop, start + most)
            part.append(Member(at, stop, member.trunk, member.deltas))
            at = stop
    yield part


def _bits(adapters: Iterable[NativeAdapter], sites: int) -> bytes:
    """A bit for each site that any of them has."""
    bits = 0
    for adapter in adapters:
        bits |= adapter.targeted
    return bits.to_bytes(-(-sites // 8), "little")


def _lanes(rows: int) -> int:
    return -(-rows // LANES) * LANES
