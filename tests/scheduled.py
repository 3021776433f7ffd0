"""An engine behind a scheduler, without the loop and its threads."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

from jumplora_adapters.delta import Delta
from jumplora_server.core import AdapterRef, Batch, Encoding, Finish, NoText, Sampling, Sequence
from jumplora_server.engine.engine import Engine
from jumplora_server.scheduler.claims import Priority
from jumplora_server.scheduler.scheduler import Scheduler

Asked = tuple[str | None, list[int], Sampling]
"""A task or none, the tokens of a prompt, what is wanted of it."""


@dataclass
class Site:
    """An engine with some tasks behind a scheduler, and what it encoded."""

    engine: Engine
    deltas: dict[str, tuple[dict[str, Delta], ...]] = field(default_factory=dict)
    slots: dict[str, tuple[int, ...]] = field(default_factory=dict)
    encoded: list[tuple[int, ...]] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)  # the nodes of each step with passes

    def claim(self, ref: AdapterRef, _: Priority) -> tuple[int, ...]:
        return self.slots[ref.task]

    def unclaim(self, ref: AdapterRef) -> None: ...

    def answers(self, asked: Rows[Asked]) -> list[Finish]:
        """Of prompts that come together, in their order."""
        scheduler = Scheduler(self.engine.limits, self, max_encode_tokens=512)
        for number, (task, prompt, sampling) in enumerate(asked):
            ref = None if task is None else AdapterRef(task, task, (task,))
            encoding = Encoding(ref, tuple(prompt))
            scheduler.add(Sequence(number, encoding, sampling, NoText(), 0.0, wants="end"))
        finishes: dict[int, Finish] = {}
        while len(finishes) < len(asked):
            batch: Batch = scheduler.next_batch(0.0)
            self.encoded += [encoding.prompt for encoding in batch.encode]
            if batch.passes:
                self.passes.append(sum(len(each.nodes) for each in batch.passes))
            scheduler.apply(batch, self.engine.step(batch), 0.0)
            for sequence, event in scheduler.take_events():
                if event.finish is not None:
                    assert event.finish.error is None
                    finishes[sequence.id] = event.finish
        scheduler.next_batch(0.0)
        scheduler.check_idle()
        return [finishes[number] for number in range(len(asked))]
