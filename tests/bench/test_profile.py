"""The floor of an operation: what its bytes or its arithmetic take at the machine's roofs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumplora_bench.cases.ours import EngineRefused
from jumplora_bench.profile import (
    Cost,
    ProfilePlan,
    _fill,
    _floor,
    _Line,
    _name,
    measure_profile,
)
from jumplora_bench.report import Report
from jumplora_bench.roofs import Roofs, measure_roofs
from jumplora_server.engine.native.layout import Kind
from jumplora_server.engine.native.tape import Timing

SLOW_MEMORY = Roofs(bytes_per_second=1e3, operations_per_second=1e15)
SLOW_ARITHMETIC = Roofs(bytes_per_second=1e15, operations_per_second=1e3)
positive = st.floats(1, 1e12)


@given(positive, positive, positive, positive)
def test_a_floor_is_the_slower_of_both(
    nbytes: float, operations: float, memory: float, speed: float
) -> None:
    floor = Roofs(memory, speed).floor(nbytes, operations)
    assert floor >= nbytes / memory
    assert floor >= operations / speed
    assert floor in (nbytes / memory, operations / speed)


def timing(kind: Kind, *sizes: int) -> Timing:
    return Timing(kind, sizes, 0.1)


@pytest.mark.parametrize(
    ("kind", "nbytes"),
    [
        pytest.param(Kind.LINEAR_F32, 4 * 20 * 30, id="four bytes a weight"),
        pytest.param(Kind.LINEAR_I8, 20 * 30, id="one byte a weight"),
    ],
)
def test_a_linear_reads_its_weights_once(kind: Kind, nbytes: int) -> None:
    found = timing(kind, 20, 30)
    assert _floor(found, 5, 2, (), SLOW_MEMORY) == pytest.approx(nbytes / 1e3)
    assert _floor(found, 5, 2, (), SLOW_ARITHMETIC) == pytest.approx(2 * 20 * 30 * 5 * 2 / 1e3)


@pytest.mark.parametrize("kind", [Kind.DELTA_FEW, Kind.DELTA_MANY])
def test_a_delta_reads_what_all_tasks_have_of_its_modules(kind: Kind) -> None:
    costs = [Cost(7, 70), Cost(400, 50), Cost(), Cost(200, 25), Cost(9, 90)]
    found = timing(kind, 0, 0, 0, 1, 3)  # the modules 1, 2 and 3
    memory = _floor(found, tokens=7, tasks=3, costs=costs, roofs=SLOW_MEMORY)
    assert memory == pytest.approx(600 / 1e3)
    arithmetic = _floor(found, tokens=7, tasks=3, costs=costs, roofs=SLOW_ARITHMETIC)
    assert arithmetic == pytest.approx(2 * 75 * 7 / 1e3)
    none = timing(kind, 0, 0, 0, 2, 1)
    assert _floor(none, tokens=7, tasks=3, costs=costs, roofs=SLOW_MEMORY) == 0


def test_other_operations_have_no_floor() -> None:
    others = [kind for kind in Kind if "LINEAR" not in kind.name and "DELTA" not in kind.name]
    assert others
    for kind in others:
        assert _floor(timing(kind, 1, 1, 1, 1, 1), 1, 1, (), SLOW_MEMORY) is None


def test_only_native_kernels_are_timed() -> None:
    plan = ProfilePlan("tiny", "float32", rows=1, source=4, new=1, rounds=1, kernels="torch")
    with pytest.raises(EngineRefused, match="kernels torch compute with torch here"):
        measure_profile(plan, "a command", lambda state: None)


def test_linears_are_told_apart_by_their_size() -> None:
    assert _name(timing(Kind.LINEAR_F32, 20, 30)) == "linear f32 30 x 20"
    assert _name(timing(Kind.DELTA_FEW, 1, 2, 3, 4, 1)) == "delta few 2 x 1"
    assert _name(timing(Kind.NORM, 1)) == "norm"


def test_the_table_has_the_slowest_first_and_a_sum() -> None:
    report = Report("profile", "Profile", "jumplora bench profile")
    lines = {
        "norm": _Line(2, 0.001),
        "linear": _Line(4, 0.003, 0.002),
        "delta": _Line(1, 0.002, 0.001),
    }
    _fill(report, "decode", "ms a step", lines)
    (grid,) = report.grids
    assert grid.rows == [
        ["linear", "4", "3.00", "2.00"],
        ["delta", "1", "2.00", "1.00"],
        ["norm", "2", "1.00", ""],
        ["all", "", "6.00", "3.00"],
    ]
    assert report.data["native decode"] == {
        "seconds": {"norm": 0.001, "linear": 0.003, "delta": 0.002},
        "floors": {"linear": 0.002, "delta": 0.001},
    }


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_roofs_are_plausible(dtype: str) -> None:
    found = measure_roofs(dtype)
    assert 1e8 < found.bytes_per_second < 1e13
    assert 1e8 < found.operations_per_second < 1e15
