"""The parts of a server below HTTP, wired as app.py does it, around the fake engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType

import torch
from prometheus_client import CollectorRegistry

from factories import random_adapter, toy_backbone
from fakes import LIMITS, FakeDetokenizer, FakeEngine, encode
from jumplora_adapters.delta import SparseDelta
from jumplora_adapters.format import write_adapter
from jumplora_adapters.manifest import Kind
from jumplora_adapters.store import Store
from jumplora_server.core import (
    EngineLimits,
    Finish,
    Lease,
    QueueLimits,
    Sampling,
    TokenEvent,
    Wanted,
)
from jumplora_server.events import Events
from jumplora_server.loop.admission import Reservation
from jumplora_server.loop.loop import EngineLoop
from jumplora_server.loop.outbox import Deliver
from jumplora_server.metrics.metrics import Metrics
from jumplora_server.residency.folding import Folding
from jumplora_server.residency.residency import Residency
from jumplora_server.residency.setback import Waits
from jumplora_server.residency.trials import CanaryRun, TrialRun
from jumplora_server.setting_groups import Fold

BACKBONE = toy_backbone({"encoder.block.0.layer.0.SelfAttention.q": (2, 3)})
PATIENCE = 20.0  # seconds a test waits for what must happen


class Answer:
    """The events of one sequence; may be awaited from any thread."""

    def __init__(self) -> None:
        self.events: list[TokenEvent] = []
        self._ended = threading.Event()

    def __call__(self, event: TokenEvent) -> None:
        assert not self._ended.is_set(), "an event after the last"
        self.events.append(event)
        if event.finish is not None:
            self._ended.set()

    @property
    def is_ended(self) -> bool:
        """Whether the terminal event came."""
        return self._ended.is_set()

    def finish(self) -> Finish:
        """Wait for the terminal event."""
        assert self._ended.wait(PATIENCE), "no terminal event"
        finish = self.events[-1].finish
        assert finish is not None
        return finish


class SmallServer:
    """A store, a residency and a loop. Stopping checks that nothing was leaked."""

    def __init__(
        self,
        folder: Path,
        *,
        engine: FakeEngine | None = None,
        limits: EngineLimits = LIMITS,
        queue_limits: QueueLimits | None = None,
        budget_bytes: int = 10_000,
        fold: Fold = "auto",
        watch_seconds: float = 60.0,
        patience_seconds: float = 0.05,
        waits: Waits = Waits(first=60.0),
        max_encode_tokens: int = 64,
        deliver: Deliver | None = None,
        reserved: Collection[str] = frozenset(),
        canary_floor: float = 0.5,
        max_overlap_tasks: int = 12,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.backbone = BACKBONE
        self.store = Store(folder / "store")
        self.store.prepare()
        self.engine = engine or FakeEngine(limits)
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.events = Events()
        self.residency = Residency(
            self.store,
            BACKBONE,
            self.engine,
            folding=Folding.of(self.engine, fold, 0.75, budget_bytes),
            metrics=self.metrics,
            events=self.events,
            warm_up=lambda lease: self.warm_up(lease),
            replay_canaries=lambda lease: self.replay_canaries(lease),
            clock=clock,
            watch_seconds=watch_seconds,
            patience_seconds=patience_seconds,
            waits=waits,
            max_overlap_tasks=max_overlap_tasks,
            reserved=reserved,
        )
        self.loop = EngineLoop(
            self.engine,
            self.residency.table,
            FakeDetokenizer,
            metrics=self.metrics,
            queue_limits=queue_limits or QueueLimits(),
            max_encode_tokens=max_encode_tokens,
            low_patience_seconds=0.005,
            deliver=deliver,
        )
        self.residency.on_change(self.loop.wake)
        self.warm_up = TrialRun(self.loop.submit, encode("warm"), time.monotonic)
        self.replay_canaries = CanaryRun(
            self.loop.submit, encode, limits, time.monotonic, floor=canary_floor
        )
        self._is_stopped = False

    def __enter__(self) -> SmallServer:
        self.loop.start()
        self.residency.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if error is None:
            assert self.engine.slots == {}, "adapters were left in the engine"
            assert self.engine.live == {}, "sequences were left in the engine"
            assert self.loop.admission.requests == self.loop.admission.tokens == 0

    def stop(self, drain_seconds: float = PATIENCE) -> None:
        """Stop both, the loop first."""
        self.loop.stop(drain_seconds)
        self.residency.stop()

    @property
    def has_threads(self) -> bool:
        """Whether loader and watcher run."""
        return all(pulse.glance.state == "running" for pulse in self.residency.pulses)

    def publish(
        self,
        task: str,
        seed: int = 0,
        *,
        lineage: Sequence[str] = (),
        density: float = 0.5,
        kind: Kind = "masked",
        dense: Sequence[Sequence[float]] | None = None,
        **fields: object,
    ) -> str:
        """Put a version into the store only; returns its digest.

        `dense` is its matrix instead of a random one, `fields` are those of its manifest.
        """
        path = self.folder / f"{task}-{seed}.safetensors"
        manifest, deltas = random_adapter(
            BACKBONE, task=task, seed=seed, lineage=lineage, density=density, kind=kind
        )
        if dense is not None:
            deltas = {name: SparseDelta.from_dense(torch.tensor(dense)) for name in deltas}
        write_adapter(path, manifest.model_copy(update=fields), deltas)
        return self.store.publish(path, BACKBONE).digest

    def settle(self, task: str) -> None:
        """Apply the store's pointer, and wait for that."""
        self.residency.sync(task).result(PATIENCE)

    def submit(
        self,
        spec: str | Lease | None,
        text: str = "hi",
        *,
        max_new_tokens: int = 64,
        deadline: float | None = None,
        wants: Wanted = "tokens",
        reservation: Reservation | None = None,
    ) -> tuple[int, Answer]:
        """Acquire (or share a lease) and submit; the sequence id and its answer to come."""
        answer = Answer()
        if isinstance(spec, Lease):
            lease = spec.share()
        else:
            lease = Lease.base() if spec is None else self.residency.acquire(spec)
        with lease:
            sequence_id = self.loop.submit(
                lease=lease,
                prompt=encode(text),
                sampling=Sampling(max_new_tokens=max_new_tokens),
                on_event=answer,
                deadline=deadline,
                wants=wants,
                reservation=reservation,
            )
        return sequence_id, answer

    def generate(self, spec: str | None, text: str = "hi") -> str:
        """The text of one prompt, raising what went wrong."""
        finish = self.submit(spec, text)[1].finish()
        if finish.error is not None:
            raise finish.error
        return finish.text

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the metrics page; 0 where there is none."""
        value = self.registry.get_sample_value(name, labels)
        return 0.0 if value is None else value


def wait_until(condition: Callable[[], bool], changed: threading.Condition | None = None) -> None:
    """Wait for what another thread does; for states that offer nothing to block on."""
    changed = changed or threading.Condition()
    end = time.monotonic() + PATIENCE
    with changed:
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            changed.wait(0.005)
