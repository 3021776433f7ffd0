"""The progress bar of a training on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from jumplora_adapters.cli.progress import progress_bar
from jumplora_adapters.training.fit import StepReport


@contextmanager
def shown(
    task: str, *, about: str = "", quiet: bool
) -> Iterator[Callable[[StepReport], None] | None]:
    """Yields what to call after each step; None when nothing is to be shown.

    The bar appears with the first step and below the line `about`, so that an error before it
    stands alone.
    """
    if quiet:
        yield None
        return
    bar = progress_bar()
    with ExitStack() as running:
        line = bar.add_task(task, total=None, state="")
        state: dict[str, str] = {}

        def on_step(report: StepReport) -> None:
            if not state:
                if about:
                    bar.console.print(about, soft_wrap=True, highlight=False)
                running.enter_context(bar)
            state["loss"] = f"{report.loss:.3f}"
            state["f"] = f"{report.fraction:.2f}"
            if report.density is not None:
                state["density"] = f"{report.density:.1%}"
            if report.dev is not None:
                state["dev"] = f"{report.dev:.1%}"
            text = "  ".join(f"{name} {value}" for name, value in state.items())
            bar.update(line, completed=report.step, total=report.steps, state=text)

        yield on_step
