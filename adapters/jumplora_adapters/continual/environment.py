"""Where a run was computed: what a reader needs to repeat its numbers."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from jumplora_adapters.training.processes import Processes

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")


def describe_environment(device: torch.device, processes: Processes) -> dict[str, object]:
    """Versions, machine and threads, as JSON."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": name or device.type,
        "processes": processes.count,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
