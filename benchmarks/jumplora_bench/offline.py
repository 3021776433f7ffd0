"""The engine's own speed on a server's traffic: what served figures are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.store import Store
from jumplora_bench.cases.case import Work
from jumplora_bench.cases.ours import OursCase, make_engine
from jumplora_bench.traffic import Question
from jumplora_server.engine.memory import trim_memory
from jumplora_server.engine.tokenizer import Tokenizer
from jumplora_server.residency.reader import StoreReader


class OfflineEngine:
    """An engine in this process with the tasks of a store, asked without HTTP, queue or loop."""

    def __init__(
        self,
        backbone: Backbone,
        store: Path,
        tasks: Sequence[str],
        *,
        dtype: str,
        work: Work,
    ) -> None:
        """`work` gives rows, lengths and device; its prompts are not asked."""
        reader = StoreReader(Store(store), backbone)
        self._work = work
        self._engine = make_engine(work, dtype)
        self._slots: dict[str, int] = {}
        for task in tasks:
            packed = self._engine.pack(reader.adapter(reader.desired(task).version))
            self._slots[task] = self._engine.install(packed)
            trim_memory()
        self._tokenizer = Tokenizer.load(backbone.path)

    def seconds(self, questions: Sequence[Question]) -> float:
        """Time of one batch of these questions, at most the engine's rows."""
        prompts = tuple(self._tokenizer.encode(question.text) for question in questions)
        slots = [(self._slots[question.task],) for question in questions]
        return OursCase("", self._engine, replace(self._work, prompts=prompts), slots).run().seconds

    def tokens_per_second(self, batches: Sequence[Sequence[Question]]) -> float:
        """Generated tokens a second over full batches, one after another."""
        seconds = sum(self.seconds(batch) for batch in batches)
        return sum(map(len, batches)) * self._work.new / seconds
