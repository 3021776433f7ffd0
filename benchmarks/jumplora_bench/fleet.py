"""Our engines with everything that is installed in them: the cases of ours, for every dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.delta import SparseDelta
from jumplora_adapters.format import Adapter
from jumplora_bench.cases.case import Case, Tokens, Work
from jumplora_bench.cases.ours import OursCase, make_engine
from jumplora_bench.cases.ours_beams import OursBeamsCase
from jumplora_bench.cases.torch_peers import BEAMS, RANK
from jumplora_bench.folds import trunk_depth, trunk_depths
from jumplora_bench.installed import Installed, Row, distinct, slots_of
from jumplora_bench.lineages import Lineage, LineageCase, lineage_cases
from jumplora_bench.lowrank import draw_all_linear
from jumplora_bench.masked import TURNS, Family, draw, draw_family, rolled, union_density
from jumplora_bench.names import (
    DENSITIES,
    MANY_ROWS,
    all_linear_name,
    bare_name,
    beams_name,
    mixed_name,
    rows_name,
    unfolded,
)
from jumplora_bench.prompts import random_prompts
from jumplora_bench.shapes import VOCABULARY
from jumplora_server.core import Kernels
from jumplora_server.engine.memory import trim_memory


@dataclass(frozen=True, slots=True)
class InstalledFamily:
    """What the adapters of a case took in one engine. Bytes of all of them together.

    `slots` are those of a row, trunk included, the most of all rows; `own_bytes` are the deltas' as
    their files hold them: masks and bfloat16 values.
    """

    name: str
    adapters: int
    slots: int
    density: float
    union: float
    packed_bytes: int
    own_bytes: int
    trunk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Folding:
    """The trunks of a case's rows: seconds to fold each, bytes of one, and of a whole chain's.

    `chain` are the trunks that all versions of the longest lineage use together.
    """

    name: str
    dtype: str
    seconds: Sequence[float]
    trunk_bytes: int
    length: int
    chain: int

    @property
    def chain_bytes(self) -> int:
        """What a chain takes above its own deltas once every version of it is resident."""
        return self.chain * self.trunk_bytes


class Fleet:
    """`wants` tells which cases are to be built; what none of them needs is not made."""

    def __init__(
        self,
        work: Work,
        backbone: Backbone,
        dtypes: Sequence[str],
        wants: Callable[[str], bool],
        kernels: Kernels = "auto",
    ) -> None:
        self.dtypes = dtypes
        self.families: list[InstalledFamily] = []
        self.foldings: list[Folding] = []
        # Of a case: its dtype, and what its rows apply.
        self.rows: dict[str, tuple[str, Sequence[Row]]] = {}
        self.backbone_bytes: dict[str, int] = {}
        self.kernels: dict[str, str] = {}  # those that compute, by dtype
        self._work = work
        self._backbone = backbone
        self._wants = wants
        self._wanted_kernels = kernels
        self._installed: dict[str, Installed] = {}
        self._mixed: dict[float, list[Adapter]] = {}
        self._families: dict[Family, list[Adapter]] = {}
        self._unions: dict[Family, float] = {}

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
        """Bare, beams, both densities, more rows, lineages, LoRAs, for every dtype."""
        for dtype in self.dtypes:
            if self._wants(name := bare_name(dtype)):
                yield self._case(name, dtype, [()] * self._work.rows)
            if self._wants(name := beams_name(dtype)):
                yield OursBeamsCase(name, self._engine(dtype).engine, self._work, BEAMS)
            for density in DENSITIES:
                if self._wants(name := mixed_name(self._work.rows, density, dtype)):
                    yield self._mixed_case(name, density, dtype)
            for rows in self._many_rows(dtype):
                yield self._rows_case(rows, dtype)
            for each in lineage_cases(self._work.rows, dtype):
                yield from self._lineage_case(each, dtype)
            if self._wants(name := all_linear_name(self._work.rows, dtype)):
                loras = self._engine(dtype).deltas(self.all_linear)
                own = [(part,) for part in loras]
                self._add_family(name, own, density=1.0, union=1.0)
                yield OursCase(name, self._engine(dtype).engine, self._work, slots_of(own))
        self._mixed.clear()  # the engines have them
        self._families.clear()
        trim_memory()

    def one_task_tokens(self, dtype: str) -> Tokens:
        """What our engine generates when all rows use the merged task. Not timed."""
        engine = self._engine(dtype).engine
        slot = engine.install(engine.pack(self.merged_task))
        lap = OursCase("one task", engine, self._work, [(slot,)] * self._work.rows).run()
        engine.remove(slot)
        return lap.tokens

    def _engine(self, dtype: str) -> Installed:
        if dtype not in self._installed:
            beams = BEAMS if self._wants(beams_name(dtype)) else 1
            rows = max(beams * self._work.rows, *self._many_rows(dtype), 0)
            engine = make_engine(self._work, dtype, self._wanted_kernels, rows=rows)
            trim_memory()
            self._installed[dtype] = Installed(engine, self._backbone)
            self.backbone_bytes[dtype] = engine.weight_bytes
            self.kernels[dtype] = engine.kernels
        return self._installed[dtype]

    def _many_rows(self, dtype: str) -> list[int]:
        """The row counts above the plan's that are measured; of int8 only."""
        if dtype != "int8":
            return []
        more = [rows for rows in MANY_ROWS if rows > self._work.rows]
        return [rows for rows in more if self._wants(rows_name(rows, dtype))]

    def _case(self, name: str, dtype: str, rows: Sequence[Row]) -> OursCase:
        self.rows[name] = (dtype, rows)
        return OursCase(name, self._engine(dtype).engine, self._work, slots_of(rows))

    def _mixed_case(self, name: str, density: float, dtype: str) -> Case:
        adapters = self._tasks(density)
        rows = [(part,) for part in self._engine(dtype).deltas(adapters)]
        self._add_family(name, rows, density=density, union=_union(adapters[:1]))
        return self._case(name, dtype, rows)

    def _rows_case(self, count: int, dtype: str) -> Case:
        """As many tasks as rows: those of the mixed case, and what `rolled` makes of them."""
        tasks, installed = self._tasks(DENSITIES[0]), self._engine(dtype)
        rows: list[Row] = []
        for row in range(count):
            turn, task = divmod(row, len(tasks))
            rows.append(installed.deltas([rolled(tasks[task], turn % TURNS)]))
        name = rows_name(count, dtype)
        self._add_family(name, rows, density=DENSITIES[0], union=_union(tasks[:1]))
        work = replace(self._work, prompts=random_prompts(count, self._work.source, VOCABULARY))
        return OursCase(name, installed.engine, work, slots_of(rows))

    def _lineage_case(self, case: LineageCase, dtype: str) -> Iterator[Case]:
        """In the form that a server gives it, and unfolded where that is another one."""
        default, plain = self._wants(case.name), self._wants(unfolded(case.name))
        if not (default or plain):
            return
        engine = self._engine(dtype)
        plain &= engine.engine.can_fold  # else both forms are the same
        folded_rows: list[Row] = []
        plain_rows: list[Row] = []
        longest: Lineage = ()
        for lineage in case.lineages(self._members(case.family)):
            if default:
                folded_rows.append(engine.folded(lineage, trunk_depth(engine.engine, lineage)))
            if plain:
                plain_rows.append(engine.deltas(lineage))
            longest = max(longest, lineage, key=len)
            trim_memory()
        density, union = case.family.density, self._unions[case.family]
        if default:
            self._add_family(case.name, folded_rows, density=density, union=union)
            self._add_folding(case.name, dtype, folded_rows, longest)
            yield self._case(case.name, dtype, folded_rows)
        if plain:
            self._add_family(unfolded(case.name), plain_rows, density=density, union=union)
            yield self._case(unfolded(case.name), dtype, plain_rows)

    def _tasks(self, density: float) -> list[Adapter]:
        if density not in self._mixed:
            with ThreadPoolExecutor() as threads:
                self._mixed[density] = list(
                    threads.map(
                        lambda row: draw(self._backbone, f"task{row}", density=density, seed=row),
                        range(self._work.rows),
                    )
                )
        return self._mixed[density]

    def _members(self, family: Family) -> list[Adapter]:
        if family not in self._families:
            members = draw_family(self._backbone, family, seed=1000 * family.length)
            self._families[family] = members
            self._unions[family] = _union(members[: family.length])
        return self._families[family]

    def _add_family(self, name: str, rows: Sequence[Row], *, density: float, union: float) -> None:
        parts = distinct(rows)
        deltas = [part for part in parts if not part.trunk]
        self.families.append(
            InstalledFamily(
                name,
                len(deltas),
                max(map(len, rows)),
                density,
                union,
                sum(part.nbytes for part in deltas),
                sum(part.own_bytes for part in deltas),
                sum(part.nbytes for part in parts if part.trunk),
            )
        )

    def _add_folding(self, name: str, dtype: str, rows: Sequence[Row], longest: Lineage) -> None:
        trunks = [part for part in distinct(rows) if part.trunk]
        if trunks:
            chain = len(trunk_depths(self._engine(dtype).engine, longest))
            nbytes = max(trunk.nbytes for trunk in trunks)
            seconds = [trunk.fold_seconds for trunk in trunks]
            self.foldings.append(Folding(name, dtype, seconds, nbytes, len(longest), chain))


def _union(lineage: Sequence[Adapter]) -> float:
    return union_density(
        {n: d for n, d in adapter.deltas.items() if isinstance(d, SparseDelta)}
        for adapter in lineage
    )
