"""What the engine thread tells the metrics about its steps."""

from __future__ import annotations

from jumplora_server.core import Batch
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.scheduler.queue import task_of
from jumplora_server.scheduler.scheduler import Scheduler


class StepReport:
    """Turns steps into verbs. Warm-ups hold rows but do not count as traffic of their task."""

    def __init__(self, metrics: Metrics, max_rows: int) -> None:
        self._metrics = metrics
        self._max_rows = max_rows
        self._told: tuple[int, int, frozenset[str], frozenset[str]] | None = None

    def step(self, batch: Batch, seconds: float, encode_seconds: float) -> None:
        """After a step that took `seconds`, of which `encode_seconds` in the encoder."""
        tasks = {task_of(s) for s in batch.decode if s.priority == "normal"}
        encoded = sum(len(s.prompt) for s in batch.encode)
        self._metrics.batch(len(batch.decode), len(tasks), encoded)
        if batch.encode:
            self._metrics.step_seconds("encode", encode_seconds)
        self._metrics.step_seconds("decode", max(0.0, seconds - encode_seconds))

    def turn(self, scheduler: Scheduler) -> None:
        """After every turn of the loop, also one without a step."""
        self._metrics.heartbeat()
        told = (
            scheduler.waiting,
            scheduler.running,
            scheduler.running_tasks(),
            scheduler.waiting_tasks(),
        )
        if told == self._told:  # as after most steps: no sequence came or left
            return
        self._told = told
        waiting, running, running_tasks, waiting_tasks = told
        self._metrics.queue(waiting, running)
        self._metrics.rows_in_use(running, self._max_rows)
        self._metrics.lora_requests(running_tasks, waiting_tasks, self._max_rows)
