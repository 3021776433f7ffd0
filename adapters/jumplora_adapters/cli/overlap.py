"""`jumplora overlap`: Jaccard of supports, beside what chance would give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import ColumnStyle, print_json, print_table, reported_errors
from jumplora_adapters.cli.plot_file import drawing, png_file
from jumplora_adapters.cli.sources import (
    SPEC_HELP,
    Source,
    every_source,
    find_source,
    open_store,
)
from jumplora_adapters.network import short_name

if TYPE_CHECKING:
    from jumplora_adapters.backbone import Backbone
    from jumplora_adapters.overlap import ModuleOverlap, PairOverlap, Support

Scope = Literal["own", "lineage"]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", callback=png_file, help="The matrix of all pairs beside chance, as a PNG file."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
NUMBERS: tuple[tuple[str, ColumnStyle], ...] = (
    ("shared", "right"),
    ("union", "right"),
    ("Jaccard", "right"),
    ("chance", "right"),
    ("ratio", "right"),
)


def overlap(
    specs: Annotated[
        list[str] | None, typer.Argument(help=SPEC_HELP + " Default: every task.")
    ] = None,
    *,
    backbone: options.Backbone,
    store: options.StoreOrNone = None,
    scope: Annotated[
        Scope, typer.Option("--scope", help="An adapter's own delta, or its lineage's union.")
    ] = "own",
    modules: Annotated[bool, typer.Option("--modules", help="Also each module.")] = False,
    plot: Plot = None,
    quiet: Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Compare the supports of adapters pair by pair.

    Chance is what independent random supports of the same densities, module by module, would
    give: only the ratio of the two says whether tasks share or avoid entries.
    """
    with reported_errors():
        from jumplora_adapters.backbone import read_backbone, resolve_backbone
        from jumplora_adapters.cli.progress import counted
        from jumplora_adapters.overlap import overlaps

        sources = _sources(specs, store)
        network = read_backbone(resolve_backbone(backbone))
        supports: dict[str, dict[str, Support]] = {}
        with counted("read", len(sources), quiet=quiet) as on_read:
            for source in sources:
                supports[source.spec] = _supports(source, network, store, scope)
                on_read(1)
        count = len(supports) * (len(supports) - 1) // 2
        with counted("compared", count, quiet=quiet) as on_pairs:
            pairs = overlaps(supports, on_pairs)
        if plot is not None:
            write_plot(plot, [*supports], pairs)
    if as_json:
        print_json({"scope": scope, "pairs": [_entry(pair, modules) for pair in pairs]})
        return
    columns: list[tuple[str, ColumnStyle]] = [("first", "left"), ("second", "left")]
    if modules:
        columns.append(("module", "left"))
        rows = [
            (pair.first, pair.second, short_name(part.module), *_cells(part))
            for pair in pairs
            for part in pair.modules
        ]
        rows += [(pair.first, pair.second, "all", *_cells(pair)) for pair in pairs]
        print_table([*columns, *NUMBERS], rows, keys=3)
    else:
        print_table(
            [*columns, *NUMBERS],
            [(pair.first, pair.second, *_cells(pair)) for pair in pairs],
            keys=2,
        )


class Compared(Protocol):
    """A pair of adapters by name, and how much their supports overlap."""

    @property
    def first(self) -> str: ...
    @property
    def second(self) -> str: ...
    @property
    def jaccard(self) -> float: ...
    @property
    def chance(self) -> float: ...


def write_plot(path: Path, names: Sequence[str], pairs: Sequence[Compared]) -> None:
    """Draw the matrix of the pairs. Ends the command where matplotlib is missing."""
    with drawing(path, "the overlap of each pair"):
        from jumplora_adapters.plots.overlap_map import Panel, pair_cells, write_overlaps

        place = {name: n for n, name in enumerate(names)}
        cells = pair_cells(
            len(names),
            ((place[p.first], place[p.second], p.jaccard, p.chance) for p in pairs),
        )
        write_overlaps(path, names, [Panel("", cells)])


def _sources(specs: list[str] | None, store: Path | None) -> tuple[Source, ...]:
    if specs:
        sources = tuple(find_source(spec, store) for spec in dict.fromkeys(specs))
    elif store is not None:
        sources = every_source(store, "current")
    else:
        raise typer.BadParameter("name two adapters, or --store to compare all of its tasks")
    if len(sources) < 2:
        raise typer.BadParameter(
            f"an overlap needs two adapters, given {len(sources)}: name another, or --store to "
            "compare all of its tasks"
        )
    return sources


def _supports(
    source: Source, backbone: Backbone, store: Path | None, scope: Scope
) -> dict[str, Support]:
    """Module -> support, of the adapter alone or of all that its lineage touches."""
    from jumplora_adapters.format import read_adapter
    from jumplora_adapters.overlap import supports_of, union_supports

    adapter = read_adapter(
        source.path, backbone, expect_digest=source.digest, follow_links=source.digest is None
    )
    own = supports_of(adapter.deltas)
    if scope == "own" or not adapter.manifest.lineage:
        return own
    if store is None:
        raise typer.BadParameter(f"{source.spec} has ancestors: give the --store they are in")
    opened = open_store(store)
    return union_supports(
        [
            supports_of(
                read_adapter(
                    opened.path_of(link), backbone, expect_digest=link, follow_links=False
                ).deltas
            )
            for link in adapter.manifest.lineage
        ]
        + [own]
    )


def _cells(counts: PairOverlap | ModuleOverlap) -> tuple[str, str, str, str, str]:
    return (
        f"{counts.intersection:,}",
        f"{counts.union:,}",
        f"{counts.jaccard:.4f}",
        f"{counts.chance:.4f}",
        f"{counts.times_chance:.2f}",
    )


def _entry(pair: PairOverlap, modules: bool) -> dict[str, object]:
    entry: dict[str, object] = {"first": pair.first, "second": pair.second, **_numbers(pair)}
    if modules:
        entry["modules"] = [
            {"module": module.module, **_numbers(module)} for module in pair.modules
        ]
    return entry


def _numbers(counts: PairOverlap | ModuleOverlap) -> dict[str, float]:
    return {
        "first_density": counts.first_density,
        "second_density": counts.second_density,
        "intersection": counts.intersection,
        "union": counts.union,
        "jaccard": counts.jaccard,
        "chance": counts.chance,
        "times_chance": counts.times_chance,
    }
