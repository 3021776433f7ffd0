"""CTranslate2 with the instruction set of older processors, in a process of its own.

It reads `CT2_FORCE_CPU_ISA` when its library is loaded, and chooses its own kernels by it. Its
products are another library's: on Intel MKL's, which computes them with AVX-512 all the same unless
`MKL_ENABLE_INSTRUCTIONS` says otherwise.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jumplora_bench.cases.case import Lap, Work
from jumplora_bench.cases.worker import Worker, WorkerEnded
from jumplora_bench.extra import PeerMissing

_WORKER = "jumplora_bench.cases.ct2_worker"
_ITS_OWN = "CT2_FORCE_CPU_ISA"
_OF_PRODUCTS = ("MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")


class RestrictedCase(Worker):
    """The worker as a case."""

    def __init__(
        self,
        name: str,
        model: Path,
        work: Work,
        compute_type: str,
        isa: str,
        log: Path,
        *,
        products: bool,
    ) -> None:
        """Start the worker and wait until it has loaded its model.

        `products`: restrict those too. Raises PeerMissing where the library does not compute with
        `isa` (AVX2, AVX512, GENERIC).
        """
        self.name = name
        variables = (_ITS_OWN, *_OF_PRODUCTS) if products else (_ITS_OWN,)
        restricted = dict.fromkeys(variables, isa)
        environment = {**os.environ, **restricted, "CT2_VERBOSE": "1"}
        super().__init__([sys.executable, "-m", _WORKER], environment, log)
        job = {
            "model": str(model),
            "compute_type": compute_type,
            "backbone": str(work.backbone),
            "prompts": work.prompts,
            "new": work.new,
            "threads": work.threads,
        }
        try:
            self.begin(job)
        except WorkerEnded as error:
            raise PeerMissing(f"CTranslate2 did not start with {isa}. It said: {error}") from error
        if f"Selected ISA: {isa}" not in log.read_text("utf-8", "replace"):
            self.close()
            raise PeerMissing(f"CTranslate2 did not take {_ITS_OWN}={isa}")

    def run(self) -> Lap:
        """One batch in the other process."""
        answer = self.ask("run")
        return Lap(answer["seconds"], tuple(tuple(row) for row in answer["tokens"]))
