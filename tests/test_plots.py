"""All plots of the project can be read in black and white; a module that draws belongs here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from grey import LEAST_OF_TEXT, check_figure, contrast
from jumplora_adapters.continual.report.heat_maps import draw_matrix, draw_overlap
from jumplora_adapters.continual.report.lines import draw_gate, draw_scores
from jumplora_adapters.continual.report.runs import read_runs
from jumplora_adapters.continual.report.summary import GroupSummary, summarise
from jumplora_adapters.plots.heat_map import draw_heat, ink, luminance, written
from jumplora_adapters.plots.overlap_map import Panel, draw_overlaps, pair_cells
from jumplora_adapters.plots.style import Look
from jumplora_bench.plots import BarPlot, LinePlot, figure_of
from jumplora_server.evaluation.certainty import Certainty
from jumplora_server.evaluation.confusion_plot import draw_confusion
from run_folders import write_run

ROOT = Path(__file__).parents[1]
DRAWN_HERE = {
    "adapters/jumplora_adapters/continual/report/heat_maps.py",
    "adapters/jumplora_adapters/continual/report/lines.py",
    "adapters/jumplora_adapters/plots/overlap_map.py",
    "benchmarks/jumplora_bench/plots.py",
    "server/jumplora_server/evaluation/confusion_plot.py",
}
DRAWN_THERE = {"adapters/jumplora_adapters/training/plot.py"}  # test_curves.py


def test_no_module_draws_unseen() -> None:
    found = {
        str(path.relative_to(ROOT))
        for folder in ("adapters/jumplora_adapters", "server/jumplora_server", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if "Figure(" in path.read_text("utf-8")
    }
    assert found == DRAWN_HERE | DRAWN_THERE


@pytest.fixture(scope="module")
def summaries(tmp_path_factory: pytest.TempPathFactory) -> tuple[GroupSummary, ...]:
    """Eight groups, three of them gated; two gated and two dense chains look alike but for one."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        *(write_run(folder / f"gated-{n}", seed=n, own=0.8 + n / 50) for n in (0, 1)),
        write_run(folder / "dense", gate="none", loss=0.2),
        write_run(folder / "pruned", gate="none", prune=[0.12] * 4, loss=0.12),
        write_run(folder / "alone", method="independent", own=0.85),
        write_run(folder / "alone-dense", method="independent", gate="none", own=0.82),
        write_run(folder / "joint", method="joint", gate="none", own=0.9),
        write_run(folder / "ella", method="ella", loss=0.05, density=0.05),
        write_run(folder / "ella-dense", method="ella", gate="none", loss=0.07),
    ]
    return summarise(read_runs(runs)[0])


def drawn(summaries: tuple[GroupSummary, ...]) -> list[Figure]:
    scores = draw_scores(summaries, "exact_match")
    assert scores is not None
    gated = [summary for summary in summaries if summary.gate]
    return [scores, draw_gate(gated), draw_matrix(summaries[0]), draw_overlap(gated)]


def test_plots_of_a_report(summaries: tuple[GroupSummary, ...]) -> None:
    assert len(summaries) == 8
    for figure in drawn(summaries):
        check_figure(figure)


@pytest.mark.parametrize("tasks", [2, 6, 7, 16, 70])
def test_maps_of_overlap(tasks: int) -> None:
    """Every number has a contrast to its cell; where there are too many, there are none."""
    pairs = [(a, b, (a + b) / 200, 0.05) for b in range(tasks) for a in range(b)]
    cells = pair_cells(tasks, pairs)
    assert cells[1, 0] == pairs[0][2]
    assert cells[0, 1] == 0.05
    figure = draw_overlaps([f"task{n}" for n in range(tasks)], [Panel("", cells)])
    assert len(figure.axes[0].texts) == (tasks * (tasks - 1) if tasks <= 15 else 0)
    check_figure(figure)


def test_mistaken_options() -> None:
    certainty = Certainty(
        options=("a", "b", "c"),
        accuracy=0.5,
        calibration_error=0.1,
        error_by_chance=0.1,
        temperatures=(1.0,),
        calibrated_by="nothing",
        mass_median=1.0,
        coverage=(),
        abstained=0,
        confusion=((9, 1, 0), (4, 5, 2), (0, 0, 0)),
    )
    figure = draw_confusion(certainty, "title")
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == [*"91452"]
    check_figure(figure)


def test_plots_of_benchmarks() -> None:
    lines = {f"case {n}": [(x, x + n) for x in range(1, 9)] for n in range(12)}
    check_figure(figure_of(LinePlot("title", "x", "y", lines)))
    check_figure(figure_of(LinePlot("title", "x", "y", lines, is_log=(True, True))))
    check_figure(figure_of(BarPlot("title", "s", {"one": (1, 0.9, 1.1), "two": (2, 1, 3)})))


@given(st.floats(0, 1))
def test_ink_is_read_on_any_cell(share: float) -> None:
    figure = Figure()
    axes = figure.subplots()
    norm = Normalize(0, 1)
    image = draw_heat(axes, np.array([[share]]), norm, [["1"]])
    paper = luminance(image.cmap(norm(share)))
    assert contrast({"black": 0.0, "white": 1.0}[ink(norm, share)], paper) >= LEAST_OF_TEXT


def two_lines(**looks: object) -> Figure:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label="one", **Look.of(0).line(2))
    axes.plot([0, 1], [1, 0], label="two", **(Look.of(0).line(2) | looks))
    return figure


def pale_number() -> Figure:
    figure = Figure()
    axes = figure.subplots()
    cells = np.array([[0.5]])
    draw_heat(axes, cells, Normalize(0, 1), written(cells, "{:.1f}"))
    axes.texts[0].set_color("#aaaaaa")
    return figure


def two_bars() -> Figure:
    figure = Figure()
    axes = figure.subplots()
    axes.bar([0, 1], [1, 2], color="red")
    axes.bar([2, 3], [1, 2], color="blue")
    return figure


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: two_lines(color="#000000"), "look alike"),
        (lambda: two_lines(ls=":", color="#E69F00"), "two is too light"),
        (pale_number, "has a contrast of"),
        (two_bars, "two kinds of bars look alike"),
    ],
    ids=["colours alone", "a light line", "a pale number", "bars of two colours"],
)
def test_the_check_finds(make: Callable[[], Figure], fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_figure(make())


def test_the_check_passes_what_differs() -> None:
    check_figure(two_lines(ls="--"))
    check_figure(two_lines(marker="X"))
