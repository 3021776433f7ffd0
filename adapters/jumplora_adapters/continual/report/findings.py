"""What a report says before its tables: five sentences with numbers.

They repeat what the tables have and judge nothing that the comparisons do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from jumplora_adapters.continual.report.comparisons import Comparison
from jumplora_adapters.continual.report.labels import legend
from jumplora_adapters.continual.report.numbers import number, per_cent
from jumplora_adapters.continual.report.runs import Unfinished
from jumplora_adapters.continual.report.spread import Spread
from jumplora_adapters.continual.report.summary import Cost, GroupSummary, Measure
from jumplora_adapters.printable import counted

_ALL = 3  # groups up to which a sentence has the number of each; twice as many if named by letters
_FEW_SEEDS = 5  # below it two standard errors are a mild test
Names = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence, and in a word what it is about."""

    about: str
    text: str


def findings(
    summaries: Sequence[GroupSummary],
    compared: Sequence[Comparison],
    unfinished: Sequence[Unfinished] = (),
) -> tuple[Finding, ...]:
    """Always the same five."""
    names = legend([summary.group.label for summary in summaries])
    return (
        Finding("trained", _trained(summaries, unfinished, names)),
        Finding("at the end", _at_the_end(summaries, names)),
        Finding("forgotten", _forgotten(summaries, names)),
        Finding("gate", _gate(summaries, names)),
        Finding("conclusion", _conclusion(compared, names)),
    )


def _trained(
    summaries: Sequence[GroupSummary], unfinished: Sequence[Unfinished], names: Names
) -> str:
    groups = [summary.group for summary in summaries]
    runs = sum(len(group.runs) for group in groups)
    settings = "; ".join(
        label if name == label else f"{name}: {label}" for label, name in names.items()
    )
    orders = dict.fromkeys(
        f"{group.config.order.name} ({counted(len(group.tasks), 'task')})" for group in groups
    )
    backbones = dict.fromkeys(group.config.backbone.name for group in groups)
    left_out = f" Left out, not finished: {counted(len(unfinished), 'run')}." if unfinished else ""
    return (
        f"{counted(runs, 'run')} of {', '.join(orders)} on {', '.join(backbones)}: "
        f"{settings}.{left_out}"
    )


def _at_the_end(summaries: Sequence[GroupSummary], names: Names) -> str:
    bare = {
        (group.config.backbone.identity, group.tasks): mean(cell.mean for cell in cells.values())
        for summary in summaries
        for group, cells in [(summary.group, summary.cells["exact_match"][0])]
        if len(cells) == len(group.tasks)
    }
    beside = (
        f"; the bare backbone {100 * next(iter(bare.values())):.1f} %" if len(bare) == 1 else ""
    )
    found = _measured(summaries, "overall")
    return f"right, mean over the tasks: {_listed(found, names, _share)}{beside}."


def _forgotten(summaries: Sequence[GroupSummary], names: Names) -> str:
    found = _measured(summaries, "forgetting")
    if not found:
        return "not measured; that needs tasks that were learned one after another."
    return f"points lost since a task's best score: {_listed(found, names, _points)}."


def _gate(summaries: Sequence[GroupSummary], names: Names) -> str:
    gated = [summary for summary in summaries if summary.group.config.gate == "jumprelu"]
    if not (kept := _costs(gated, "density")):
        return "none of the runs has a gate."
    text = f"entries kept: {_listed(kept, names, _share)}"
    if shared := _costs(gated, "times_chance"):
        text += f"; shared by two tasks, times chance: {_listed(shared, names, _times)}"
    return f"{text}."


def _conclusion(compared: Sequence[Comparison], names: Names) -> str:
    """Of the overall accuracy, freely generated: it has the paper's claim."""
    pairs = [c for c in compared if c.measure == "overall" and c.scoring == "exact_match"]
    if not pairs:
        return "nothing to compare; that needs runs with and without a gate that are alike else."
    told = [_compared(pair, names) for pair in pairs[:_ALL]]
    if len(pairs) > _ALL:
        told.append(f"{len(pairs) - _ALL} more in the table of what the gate changes")
    return f"{'; '.join(told)}."


def _compared(pair: Comparison, names: Names) -> str:
    difference = pair.difference
    text = (
        f"{names[pair.first]} over {names[pair.second]}: "
        f"{per_cent(difference, 1, sign='+')} points of right answers"
    )
    if difference.count == 1:
        return f"{text}, of one seed, which decides nothing"
    seeds = f"{difference.count} seeds"
    if not pair.is_decided:
        return f"{text}, within the spread of {seeds}, which decides nothing"
    mild = ", which may still be chance" if difference.count < _FEW_SEEDS else ""
    return f"{text}, more than two standard errors of {seeds}{mild}"


_Found = Sequence[tuple[GroupSummary, Spread]]


def _measured(summaries: Sequence[GroupSummary], measure: Measure) -> _Found:
    return [
        (summary, value)
        for summary in summaries
        if (value := summary.measures["exact_match"][measure])
    ]


def _costs(summaries: Sequence[GroupSummary], cost: Cost) -> _Found:
    return [(summary, value) for summary in summaries if (value := summary.costs[cost])]


def _listed(found: _Found, names: Names, written: Callable[[Spread], str]) -> str:
    """The number of each group, or the least and the most of many; of one group, the number."""
    if len(found) == 1 == len(names):
        return written(found[0][1])
    named = [(names[summary.group.label], value) for summary, value in found]
    if len(named) <= (_ALL if names.keys() == {*names.values()} else 2 * _ALL):
        return ", ".join(f"{name} {written(value)}" for name, value in named)
    (least, low), (most, high) = (
        choose(named, key=lambda each: each[1].mean) for choose in (min, max)
    )
    return f"from {written(low)} ({least}) to {written(high)} ({most})"


def _share(value: Spread) -> str:
    return per_cent(value, 1, suffix=" %")


def _points(value: Spread) -> str:
    return per_cent(value, 1)


def _times(value: Spread) -> str:
    return number(value, 2)
