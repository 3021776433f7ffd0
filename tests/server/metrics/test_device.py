"""Device memory is on the page while a device is in use, and asking never puts one in use."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from jumplora_server.metrics.device import DeviceMemoryCollector


class Cuda:
    """The four questions that the collector asks of torch.cuda, for two devices."""

    def __init__(self, *, available: bool, initialized: bool) -> None:
        self.available = available
        self.initialized = initialized

    def is_available(self) -> bool:
        return self.available

    def is_initialized(self) -> bool:
        return self.initialized

    def device_count(self) -> int:
        return 2

    def memory_allocated(self, index: int) -> int:
        assert self.initialized, "this call would create a context"
        return 100 + index

    def memory_reserved(self, index: int) -> int:
        assert self.initialized, "this call would create a context"
        return 200 + index


def page() -> list[str]:
    """Return the sample lines of a registry with nothing but the collector."""
    registry = CollectorRegistry()
    registry.register(DeviceMemoryCollector())
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize(
    ("available", "initialized"),
    [pytest.param(False, False, id="no device"), pytest.param(True, False, id="not in use")],
)
def test_nothing_without_a_device_in_use(
    monkeypatch: pytest.MonkeyPatch, available: bool, initialized: bool
) -> None:
    cuda = Cuda(available=available, initialized=initialized)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert page() == []


def test_nothing_before_torch_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert page() == []


def test_bytes_of_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(available=True, initialized=True)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert page() == [
        'jumplora_device_memory_allocated_bytes{device="cuda:0"} 100.0',
        'jumplora_device_memory_allocated_bytes{device="cuda:1"} 101.0',
        'jumplora_device_memory_reserved_bytes{device="cuda:0"} 200.0',
        'jumplora_device_memory_reserved_bytes{device="cuda:1"} 201.0',
    ]


@pytest.mark.gpu
def test_a_real_device() -> None:
    torch = pytest.importorskip("torch")
    held = torch.zeros(1 << 20, device="cuda:0")
    values = {line.split()[0]: float(line.split()[1]) for line in page()}
    allocated = values['jumplora_device_memory_allocated_bytes{device="cuda:0"}']
    assert allocated >= held.numel() * held.element_size()
    assert values['jumplora_device_memory_reserved_bytes{device="cuda:0"}'] >= allocated
