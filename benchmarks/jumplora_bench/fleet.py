"""Our engines with everything that is installed in them: the cases of ours, for every dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.delta import SparseDelta
from jumplora_adapters.format import Adapter
from jumplora_bench.cases.case import Case, Tokens, Work
from jumplora_bench.cases.ours import OursCase, Slots, make_engine
from jumplora_bench.cases.ours_beams import OursBeamsCase
from jumplora_bench.cases.torch_peers import BEAMS, RANK
from jumplora_bench.lowrank import draw_all_linear
from jumplora_bench.masked import Family, draw, draw_family, union_density
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.memory import trim_memory

# T5-large's published sparsities, 94.9 and 87.6 % (arXiv 2604.16171), and what lineages of four
# and of fifteen such deltas keep together.
DENSITIES = (0.051, 0.124)
LINEAGES = ((4, 0.124, 0.41), (15, 0.051, 0.54))  # slots, density of each, of their union
_LABELS = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}


def label_of(dtype: str) -> str:
    """The short name of a dtype in case names."""
    return _LABELS[dtype]


def mixed_name(rows: int, density: float, dtype: str) -> str:
    """The case of as many tasks as rows."""
    return f"ours {rows} tasks {density:.1%} {label_of(dtype)}"


def beams_name(dtype: str) -> str:
    """The case of a beam search a prompt, on the bare backbone."""
    return f"ours {BEAMS} beams {label_of(dtype)}"


def all_linear_name(rows: int, dtype: str) -> str:
    """The case of as many LoRAs as rows, on every linear layer but the head."""
    return f"ours {rows} all-linear LoRAs {label_of(dtype)}"


def lineage_name(slots: int, dtype: str) -> str:
    """The case of rows that each apply that many slots."""
    return f"ours lineage of {slots} {label_of(dtype)}"


@dataclass(frozen=True, slots=True)
class InstalledFamily:
    """What a lineage's slots took in one engine. Bytes of all of its adapters together.

    `own_bytes` are the deltas' as their files hold them: masks and bfloat16 values.
    """

    name: str
    adapters: int
    slots: int
    density: float
    union: float
    packed_bytes: int
    own_bytes: int


class Fleet:
    """`wants` tells which cases are to be built; what none of them needs is not made."""

    def __init__(
        self, work: Work, backbone: Backbone, dtypes: Sequence[str], wants: Callable[[str], bool]
    ) -> None:
        self.dtypes = dtypes
        self.families: list[InstalledFamily] = []
        self.backbone_bytes: dict[str, int] = {}
        self._work = work
        self._backbone = backbone
        self._wants = wants
        self._engines: dict[str, Engine] = {}
        self._mixed: dict[float, list[Adapter]] = {}
        self._families: dict[Family, list[Adapter]] = {}

    @cached_property
    def merged_task(self) -> Adapter:
        """The task whose merged weights one-task servers get: the first of the sparser ones."""
        return draw(self._backbone, "task0", density=DENSITIES[0], seed=0)

    @cached_property
    def all_linear(self) -> list[Adapter]:
        """A LoRA a row on every linear layer but the head."""
        return [
            draw_all_linear(self._backbone, f"lora{row}", rank=RANK, seed=row)
            for row in range(self._work.rows)
        ]

    def cases(self) -> Iterator[Case]:
        """Bare, beams, both densities, lineages of both lengths, LoRAs, for every dtype."""
        for dtype in self.dtypes:
            name = f"ours bare {label_of(dtype)}"
            if self._wants(name):
                yield OursCase(name, self._engine(dtype), self._work, [()] * self._work.rows)
            name = beams_name(dtype)
            if self._wants(name):
                yield OursBeamsCase(name, self._engine(dtype), self._work, BEAMS)
            for density in DENSITIES:
                name = mixed_name(self._work.rows, density, dtype)
                if self._wants(name):
                    yield OursCase(
                        name, self._engine(dtype), self._work, self._mixed_slots(density, dtype)
                    )
            for length, density, union in LINEAGES:
                name = lineage_name(length, dtype)
                if self._wants(name):
                    family = Family(length - 1, self._work.rows, density, union)
                    yield OursCase(
                        name, self._engine(dtype), self._work, self._lineages(name, family, dtype)
                    )
            name = all_linear_name(self._work.rows, dtype)
            if self._wants(name):
                slots = self._all_linear_slots(name, dtype)
                yield OursCase(name, self._engine(dtype), self._work, slots)

    def one_task_tokens(self, dtype: str) -> Tokens:
        """What our engine generates when all rows use the merged task. Not timed."""
        engine = self._engine(dtype)
        slot = engine.install(engine.pack(self.merged_task))
        lap = OursCase("one task", engine, self._work, [(slot,)] * self._work.rows).run()
        engine.remove(slot)
        return lap.tokens

    def _engine(self, dtype: str) -> Engine:
        if dtype not in self._engines:
            beams = BEAMS if self._wants(beams_name(dtype)) else 1
            engine = self._engines[dtype] = make_engine(self._work, dtype, beams=beams)
            trim_memory()
            self.backbone_bytes[dtype] = engine.weight_bytes
        return self._engines[dtype]

    def _mixed_slots(self, density: float, dtype: str) -> list[Slots]:
        if density not in self._mixed:
            with ThreadPoolExecutor() as threads:
                self._mixed[density] = list(
                    threads.map(
                        lambda row: draw(self._backbone, f"task{row}", density=density, seed=row),
                        range(self._work.rows),
                    )
                )
        adapters = self._mixed[density]
        slots, packed = self._install(adapters, dtype)
        self.families.append(
            InstalledFamily(
                mixed_name(self._work.rows, density, dtype),
                len(adapters),
                1,
                density,
                _union(adapters[:1]),
                packed,
                _own_bytes(adapters),
            )
        )
        return [(slot,) for slot in slots]

    def _lineages(self, name: str, family: Family, dtype: str) -> list[Slots]:
        if family not in self._families:
            self._families[family] = draw_family(self._backbone, family, seed=1000 * family.length)
        adapters = self._families[family]
        slots, packed = self._install(adapters, dtype)
        ancestors, leaves = slots[: family.ancestors], slots[family.ancestors :]
        self.families.append(
            InstalledFamily(
                name,
                len(adapters),
                family.length,
                family.density,
                _union(adapters[: family.length]),
                packed,
                _own_bytes(adapters),
            )
        )
        return [(*ancestors, leaf) for leaf in leaves]

    def _all_linear_slots(self, name: str, dtype: str) -> list[Slots]:
        adapters = self.all_linear
        slots, packed = self._install(adapters, dtype)
        self.families.append(
            InstalledFamily(name, len(adapters), 1, 1.0, 1.0, packed, _own_bytes(adapters))
        )
        return [(slot,) for slot in slots]

    def _install(self, adapters: Sequence[Adapter], dtype: str) -> tuple[list[int], int]:
        """Slots of the adapters, and the bytes that they take."""
        engine = self._engine(dtype)
        with ThreadPoolExecutor() as threads:
            packed = list(threads.map(engine.pack, adapters))
        trim_memory()
        return [engine.install(each) for each in packed], sum(each.nbytes for each in packed)


def _own_bytes(adapters: Sequence[Adapter]) -> int:
    return sum(delta.nbytes for adapter in adapters for delta in adapter.deltas.values())


def _union(lineage: Sequence[Adapter]) -> float:
    return union_density(
        {n: d for n, d in adapter.deltas.items() if isinstance(d, SparseDelta)}
        for adapter in lineage
    )
