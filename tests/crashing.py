"""Changes to a store that end the process after one of their steps, as a crash would.

Run as a script: `crashing.py FOLDER` reads FOLDER/cases.json, a list of cases, and makes each in a
child process that dies at once (no `finally`, no buffers flushed) after the named step.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from factories import toy_backbone
from jumplora_adapters.store import Step, Store

BACKBONE = toy_backbone()
CRASHED = 17


def change_store(store: Store, change: str, arguments: list[str]) -> None:
    """Make one change, given by the name of the store's method and its arguments."""
    if change == "publish":
        store.publish(Path(arguments[0]), BACKBONE)
    elif change == "stage_file":
        store.publish(Path(arguments[0]), BACKBONE, stage=0.5)
    elif change == "stage":
        store.stage(arguments[0], arguments[1], float(arguments[2]))
    else:
        methods: dict[str, Callable[..., object]] = {
            "rollback": store.rollback,
            "remove": store.remove,
            "remove_version": store.remove_version,
            "promote": store.promote,
            "unstage": store.unstage,
            "alias": store.alias,
        }
        methods[change](*arguments)


def fixed_clock() -> datetime:
    """Always the same time, so that histories can be compared."""
    return datetime(2026, 1, 1, tzinfo=UTC)


def crash_in(root: Path, change: str, arguments: list[str], step: str) -> None:
    """Make a change and die after `step`; return normally if that step never comes."""

    def die(done: Step) -> None:
        if done == step:
            os._exit(CRASHED)

    change_store(Store(root, clock=fixed_clock, on_step=die), change, arguments)


def main(folder: Path) -> None:
    """Run all cases; print the exit status of each child as a JSON list."""
    statuses: list[int] = []
    for case in json.loads((folder / "cases.json").read_text()):
        sys.stdout.flush()
        child = os.fork()  # no thread is running yet, and importing again would take seconds
        if child == 0:
            crash_in(Path(case["root"]), case["change"], case["arguments"], case["step"])
            os._exit(0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
