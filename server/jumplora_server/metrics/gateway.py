"""Which adapters are in memory, for Kubernetes' inference gateway, read at a scrape.

The gateway sends a request where its adapter answers without a load. It counts adapters in slots;
here memory is a budget of bytes, so the number of slots is an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.registry import Collector

from jumplora_server.metrics.table import VLLM_LORA_COUNT, VLLM_LORA_LOADED, VLLM_LORA_MOST


@dataclass(frozen=True, slots=True)
class Resident:
    """A task whose adapter answers without a load, and the bytes of all its loaded versions."""

    task: str
    nbytes: int
    is_pinned: bool


class ResidencyCollector(Collector):
    """One series for each resident adapter, however many tasks have labels of their own elsewhere:
    the gateway has to find each. The memory budget bounds them."""

    def __init__(
        self,
        model: str,
        rows: int,
        look: Callable[[], Iterable[Resident]],
        free: Callable[[], int],
    ) -> None:
        """As `Metrics.residents` has them."""
        self._model = model
        self._rows = rows
        self._look = look
        self._free = free

    def describe(self) -> Iterable[Metric]:
        """Name the families, so that the registry refuses a second owner of a name."""
        return [each.family() for each in (VLLM_LORA_LOADED, VLLM_LORA_COUNT, VLLM_LORA_MOST)]

    def collect(self) -> Iterator[Metric]:
        """Yield the three families."""
        residents = list(self._look())
        loaded, count, most = (
            each.family() for each in (VLLM_LORA_LOADED, VLLM_LORA_COUNT, VLLM_LORA_MOST)
        )
        for each in residents:
            loaded.add_metric((each.task, "gpu", str(each.is_pinned).lower()), 1.0)
        count.add_metric((self._model,), len(residents))
        most.add_metric(
            (self._model,), slots([each.nbytes for each in residents], self._free(), self._rows)
        )
        yield loaded
        yield count
        yield most


def slots(sizes: list[int], free_bytes: int, rows: int) -> int:
    """How many adapters fit: those of `sizes` bytes that are loaded, and as many of their average
    size as `free_bytes` have room for. `rows`, the most that one step can use, where nothing is
    known of their sizes."""
    total = sum(sizes)
    if total == 0:
        return max(rows, len(sizes))
    return len(sizes) + max(0, free_bytes) * len(sizes) // total
