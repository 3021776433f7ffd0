"""AdapterHub's BatchSplit, run by another interpreter that takes its turn in the same rounds."""

from __future__ import annotations

import os
from pathlib import Path

from jumplora_bench.cases.case import Lap, Work
from jumplora_bench.cases.torch_peers import RANK
from jumplora_bench.cases.worker import Worker, WorkerEnded
from jumplora_bench.extra import PeerMissing

_WORKER = Path(__file__).with_name("hub_worker.py")


class HubCase(Worker):
    """The worker as a case."""

    name = "AdapterHub BatchSplit"

    def __init__(self, python: Path, work: Work, log: Path) -> None:
        """Start the worker and wait until it has built its model. Raises PeerMissing."""
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        super().__init__([python, _WORKER], clean, log)
        job = {
            "backbone": str(work.backbone),
            "prompts": work.prompts,
            "new": work.new,
            "threads": work.threads,
            "rank": RANK,
        }
        try:
            self.versions: dict[str, str] = self.begin(job)["versions"]
        except WorkerEnded as error:
            raise PeerMissing(
                "the AdapterHub worker ended; it needs an interpreter with the packages adapters "
                f"and torch. It said: {error}"
            ) from error

    def run(self) -> Lap:
        """One generation in the other process."""
        answer = self.ask("run")
        return Lap(answer["seconds"], tuple(tuple(row) for row in answer["tokens"]))
