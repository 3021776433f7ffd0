"""How a certainty is shown: lines, a table of mistaken options, a plot of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jumplora_adapters.cli.output import ColumnStyle, print_table, share
from jumplora_adapters.cli.plot_file import drawing

if TYPE_CHECKING:
    from jumplora_server.evaluation.certainty import Certainty


def certainty_facts(certainty: Certainty) -> list[tuple[str, str]]:
    """Name and value of each measure."""
    temperatures = " and ".join(f"{each:.3f}" for each in certainty.temperatures)
    by = "calibrated" if certainty.calibrated_by == "manifest" else "not calibrated"
    facts = [
        ("accuracy", f"{share(certainty.accuracy)} of the likeliest options"),
        (
            "calibration error",
            f"{certainty.calibration_error:.3f}, {by}, temperature {temperatures}",
        ),
        ("error by chance", chance_fact(certainty.error_by_chance)),
        ("mass of options", f"median {certainty.mass_median:.3f}"),
    ]
    for each in certainty.coverage:
        least = each.min_probability
        how = "" if least is None else f", with a min_probability of {least:.3f}"
        facts.append((f"at {100 * each.accuracy:.0f} % right", f"{share(each.share)} of rows{how}"))
    if certainty.abstained:
        facts.append(("abstained", f"{certainty.abstained} rows"))
    return facts


def chance_fact(error: float) -> str:
    """How low an error can be."""
    return f"{error:.3f}, as so many rows show where every probability is right"


def print_confusion(certainty: Certainty) -> None:
    """A line for each expected option; the columns are the numbers of those that were given."""
    numbers = [str(number) for number in range(1, len(certainty.options) + 1)]
    columns: list[tuple[str, ColumnStyle]] = [("", "right"), ("expected", "fold")]
    columns += [(name, "right") for name in ("rows", "right", *numbers)]
    print_table(
        columns,
        [
            (
                number,
                option,
                str(sum(given)),
                share(given[int(number) - 1] / sum(given)) if any(given) else "-",
                *(str(count) if count else "." for count in given),
            )
            for number, option, given in zip(
                numbers, certainty.options, certainty.confusion, strict=True
            )
        ],
        keys=2,
    )


def write_plot(certainty: Certainty, path: Path, title: str) -> None:
    """Draw the table of mistaken options. Ends the command where matplotlib is missing."""
    with drawing(path, "the mistaken options"):
        from jumplora_server.evaluation.confusion_plot import write_confusion

        write_confusion(certainty, path, title)
