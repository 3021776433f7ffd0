"""What a run shows while it works: progress bars on a terminal, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress

from jumplora_adapters.cli.progress import progress_bar
from jumplora_adapters.continual.scorebook import CellScores
from jumplora_adapters.training.fit import StepReport


class Watch:
    """Receives everything as it happens; this one shows nothing."""

    def told(self, text: str) -> None:
        """Something worth knowing."""

    def began(self, name: str, position: int, count: int) -> None:
        """A stage begins, from 1 to `count`."""

    def stepped(self, report: StepReport) -> None:
        """An optimizer step was made."""

    def scored(self, state: str, task: str, scores: CellScores) -> None:
        """A cell is known."""

    def warned(self, text: str) -> None:
        """Something a reader should know."""


class TerminalWatch(Watch):
    """A bar of the tasks, a bar of the current task's steps, and a line for every score."""

    def __init__(self, bar: Progress) -> None:
        """`bar` appears with the first task, so that an error before it stands alone."""
        self._bar = bar
        self._tasks = bar.add_task("tasks", total=None, state="")
        self._steps = bar.add_task("", total=None, state="", visible=False)

    def told(self, text: str) -> None:
        self._bar.console.print(text, soft_wrap=True)

    def began(self, name: str, position: int, count: int) -> None:
        self._bar.start()
        self._bar.update(self._tasks, completed=position - 1, total=count, state=name)
        self._bar.reset(self._steps, description=name, total=None, state="", visible=True)

    def stepped(self, report: StepReport) -> None:
        state = f"loss {report.loss:.3f}  f {report.fraction:.2f}"
        if report.density is not None:
            state += f"  density {report.density:.1%}"
        self._bar.update(self._steps, completed=report.step, total=report.steps, state=state)

    def scored(self, state: str, task: str, scores: CellScores) -> None:
        chosen = scores.best_option
        options = "" if chosen is None else f", among the options {chosen:.1%}"
        where = state.removesuffix(f"/{task}")  # "alone" says it all beside the task
        self.told(f"{where:10} {task:12} exact {scores.exact_match:6.1%}{options}")

    def warned(self, text: str) -> None:
        self._bar.console.print(f"warning: {text}", style="yellow", soft_wrap=True)


@contextmanager
def watching(*, quiet: bool) -> Iterator[Watch]:
    """The watch to give to a run."""
    if quiet:
        yield Watch()
        return
    bar = progress_bar()
    try:
        yield TerminalWatch(bar)
    finally:
        bar.stop()
