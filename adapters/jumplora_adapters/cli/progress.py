"""The one look of progress on a terminal: a bar on stderr, so that stdout stays the result's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

_LEAST_BYTES = 16 * 1024 * 1024  # a smaller file is sent before a bar is read


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


@contextmanager
def sending(name: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Yields what to call with the bytes that are sent so far, and with all there are.

    The bar appears for large files. It stays while the receiver works on what it got.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[state]}"),
        console=Console(stderr=True),
    )
    line = bar.add_task(name, total=None, state="")
    with ExitStack() as running:

        def on_sent(sent: int, total: int) -> None:
            if quiet or total < _LEAST_BYTES:
                return
            if not bar.live.is_started:
                running.enter_context(bar)
            state = "sent; the server reads it" if sent == total else ""
            bar.update(line, completed=sent, total=total, state=state)

        yield on_sent
