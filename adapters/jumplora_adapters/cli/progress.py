"""The one look of progress on a terminal: a bar on stderr, so that stdout stays the result's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar() -> Progress:
    """A bar that is not shown yet; its tasks have a field `state`, the text at its end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
        console=Console(stderr=True),
    )


@contextmanager
def counted(name: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yields what to call with each number of things that are done, of `total`.

    The bar appears with the first of them, so that an error before stands alone.
    """
    bar = progress_bar()
    line = bar.add_task(name, total=total, state="")
    with ExitStack() as running:

        def on_done(count: int) -> None:
            if not (quiet or bar.live.is_started):
                running.enter_context(bar)
            bar.advance(line, count)

        yield on_done
