"""Memory of accelerators, from torch's allocator, read at a scrape.

Nothing is exposed until the engine has put something on a device: asking earlier would create a
CUDA context (hundreds of MB) in a server that runs on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.registry import Collector

from jumplora_server.metrics.table import DEVICE_ALLOCATED, DEVICE_RESERVED


class DeviceMemoryCollector(Collector):
    """Bytes allocated and reserved of every CUDA device in use."""

    def describe(self) -> Iterable[Metric]:
        """Name the families, so that the registry refuses a second owner of a name."""
        return [DEVICE_ALLOCATED.family(), DEVICE_RESERVED.family()]

    def collect(self) -> Iterator[Metric]:
        """Yield both families, or none without an initialized device."""
        torch = sys.modules.get("torch")  # the engine imports it; a scrape has no reason to
        if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
            return
        allocated, reserved = DEVICE_ALLOCATED.family(), DEVICE_RESERVED.family()
        for index in range(torch.cuda.device_count()):
            label = (f"cuda:{index}",)
            allocated.add_metric(label, torch.cuda.memory_allocated(index))
            reserved.add_metric(label, torch.cuda.memory_reserved(index))
        yield allocated
        yield reserved
