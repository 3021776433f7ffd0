"""What a change costs the engine: two checkouts' engines in one run, case by case in turn.

    .venv/bin/python -m jumplora_bench.side_by_side --old OTHER --rounds 21 --out benchmarks/results

OTHER is a checkout of another commit whose kernels were built (`pip install .` there, or a copy
with its `_kernels*.so`). Both run under this interpreter and its packages, on one backbone. For
each round and case there is one ratio; the interval is of their median.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from jumplora_adapters.cli.progress import progress_bar
from jumplora_bench.backbone import write_backbone
from jumplora_bench.cases.worker import Worker, WorkerEnded
from jumplora_bench.machine import commit
from jumplora_bench.report import Grid, Report, console
from jumplora_bench.rounds import same_share

HERE = Path(__file__).parents[2]
MOST = 1.02  # that the interval may lie above
_WORKER = Path(__file__).with_name("side_by_side_worker.py")
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and the interval that holds it with 95 %."""

    median: float
    low: float
    high: float


def median_interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Of at least one value: the percentile bootstrap of the median."""
    rng = random.Random(seed)
    medians = sorted(
        statistics.median(rng.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    low, high = medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES) - 1]
    return Interval(statistics.median(values), low, high)


@dataclass(frozen=True, slots=True)
class Lap:
    """One case, once."""

    seconds: float
    encode_seconds: float
    tokens: tuple[tuple[int, ...], ...]


class Checkout(Worker):
    """A commit's engine in a process of its own."""

    def __init__(self, root: Path, job: Mapping[str, object], log: Path) -> None:
        """Start it and wait until its adapters are installed. Raises RuntimeError."""
        folders = [str(root / name) for name in ("server", "adapters", "benchmarks")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
        super().__init__([sys.executable, "-P", _WORKER], environment, log)
        try:
            ready = self.begin(job)
        except WorkerEnded as error:
            raise RuntimeError(f"the engine of {root} ended. It said: {error}") from error
        self.cases: list[str] = ready["cases"]
        if not Path(ready["imported"]).is_relative_to(root):
            self.close()
            raise RuntimeError(f"{root} was asked for, {ready['imported']} was imported")

    def lap(self, case: str) -> Lap:
        """Run a case once."""
        answer = self.ask(case)
        tokens = tuple(tuple(row) for row in answer["tokens"])
        return Lap(answer["seconds"], answer["encode_seconds"], tokens)


Pairs = dict[str, list[tuple[Lap, Lap]]]  # by case: old and new of each round


def measure(old: Checkout, new: Checkout, rounds: int) -> Pairs:
    """The cases in turn, the two checkouts one after the other; a first round is not kept."""
    pairs: Pairs = {case: [] for case in new.cases if case in old.cases}
    with progress_bar() as bar:
        line = bar.add_task("measuring", total=(rounds + 1) * len(pairs), state="")
        for turn in range(rounds + 1):
            for case in pairs:
                bar.update(line, advance=1, state=case)
                # The order turns with the round, so that neither is always the first.
                laps = {
                    checkout: checkout.lap(case) for checkout in (old, new)[:: 1 - 2 * (turn % 2)]
                }
                if turn:
                    pairs[case].append((laps[old], laps[new]))
    return pairs


def rows_of(pairs: Pairs) -> list[list[str]]:
    """A line of the table for each case."""
    rows = []
    for case, laps in pairs.items():
        whole = median_interval([new.seconds / old.seconds for old, new in laps])
        encode = median_interval([new.encode_seconds / old.encode_seconds for old, new in laps])
        old, new = (statistics.median(pair[i].seconds for pair in laps) for i in (0, 1))
        share, _ = same_share(laps[-1][0].tokens, laps[-1][1].tokens)
        rows.append(
            [
                case,
                f"{1000 * old:.0f}",
                f"{1000 * new:.0f}",
                f"{whole.median:.3f} ({whole.low:.3f} to {whole.high:.3f})",
                f"{encode.median:.3f} ({encode.low:.3f} to {encode.high:.3f})",
                f"{share:.1%}",
                "met" if whole.low <= MOST else "missed",
            ]
        )
    return rows


def main(given: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = _options(given)
    command = (
        f"python -m jumplora_bench.side_by_side --old OTHER --shape {options.shape}"
        f" --rounds {options.rounds} --dtypes {' '.join(options.dtypes)}"
    )
    title = f"Two commits' engines in turn: T5-{options.shape} shape, 8 rows, 128 in, 16 out"
    report = Report("side-by-side", title, command)
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="jumplora-beside-")))
        job = {
            "backbone": str(write_backbone(folder / "backbone", options.shape)),
            "shape": options.shape,
            "dtypes": options.dtypes,
            "threads": options.threads,
        }
        old, new = (
            held.enter_context(Checkout(root.resolve(), job, folder / f"{name}.log"))
            for name, root in (("old", options.old), ("new", HERE))
        )
        pairs = measure(old, new, options.rounds)
    columns = ["case", "old, ms", "new, ms", "new / old", "of that encode", "same tokens", ""]
    report.grids.append(
        Grid(f"Median of {options.rounds} rounds, and its 95 % interval", columns, rows_of(pairs))
    )
    report.notes.append(
        f"Old is commit {commit(options.old)}. Met: the interval includes {MOST} or lies below."
    )
    report.data = {
        case: [{"old": a.seconds, "new": b.seconds} for a, b in laps]
        for case, laps in pairs.items()
    }
    report.show(console())
    if options.out is not None:
        report.write(options.out)


def _options(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--old", type=Path, required=True, help="the other commit's checkout")
    parser.add_argument("--shape", default="base", choices=["tiny", "base", "large"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "int8"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
