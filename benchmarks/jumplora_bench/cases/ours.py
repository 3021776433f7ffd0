"""Our engine, offline: all prompts encoded in one step, then one token a step for every row."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence as Rows

import torch

from jumplora_adapters.errors import AdapterError
from jumplora_bench.cases.case import Lap, Work
from jumplora_server.core import Batch, Encoding, Kernels, NoText, Sampling, Sequence
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import NativeUnavailable

Slots = tuple[int, ...]


class EngineRefused(AdapterError):
    """The engine does not compute so on this machine."""

    code = "engine"


def make_engine(
    work: Work, dtype: str, kernels: Kernels = "auto", *, rows: int | None = None
) -> Engine:
    """An engine with exactly the lengths of the work, and its rows where no number is given.

    Raises EngineRefused where dtype, device and kernels do not go together or do not run here.
    """
    # As the server does: torch says it once of a class of operations, of which one is used.
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
    try:
        return Engine(
            work.backbone,
            dtype=dtype,
            device=work.device,
            kernels=kernels,
            max_rows=rows or work.rows,
            max_source_tokens=work.source,
            max_target_tokens=work.new,
        )
    except (ValueError, NativeUnavailable) as error:
        raise EngineRefused(str(error)) from error


class OursCase:
    """Rows that each use the slots of their own lineage; () is the bare backbone."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        work: Work,
        slots: Rows[Slots],
        samplings: Rows[Sampling] | None = None,
    ) -> None:
        """Args: `samplings` of the rows, greedy where none are given."""
        self.name = name
        self._samplings = samplings or [Sampling(max_new_tokens=work.new)] * work.rows
        self._engine = engine
        self._work = work
        self._slots = slots

    def run(self) -> Lap:
        """Encode once, then decode `new` times."""
        sequences = tuple(
            Sequence(
                id=row,
                encoding=Encoding(None, prompt, slots, place=row),
                sampling=sampling,
                detokenizer=NoText(),
                arrived=0.0,
                row=row,
            )
            for row, (prompt, slots, sampling) in enumerate(
                zip(self._work.prompts, self._slots, self._samplings, strict=True)
            )
        )
        began = time.perf_counter()
        self._engine.step(Batch(tuple(s.encoding for s in sequences), ()))
        self._wait()
        encode_seconds = time.perf_counter() - began
        for _ in range(self._work.new):
            output = self._engine.step(Batch((), sequences))
            for sequence, token in zip(sequences, output.token_ids, strict=True):
                sequence.output.append(token)
        self._wait()
        seconds = time.perf_counter() - began
        return Lap(seconds, tuple(tuple(s.output) for s in sequences), encode_seconds)

    def _wait(self) -> None:
        """A GPU has only been given its work when a step returns."""
        if self._work.device != "cpu":
            torch.cuda.synchronize()
