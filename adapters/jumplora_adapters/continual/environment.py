"""Where a run was computed: what a reader needs to repeat its numbers."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from jumplora_adapters.errors import DataError
from jumplora_adapters.training.processes import Processes

_PACKAGES = ("jumplora-server", "torch", "transformers", "tokenizers", "safetensors", "numpy")


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


def changed_environment(path: Path, now: Mapping[str, object]) -> str:
    """What is other now than a run's file says: "threads 1, now 2". Raises DataError."""
    try:
        then = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} does not describe a run's machine ({error})") from error
    return ", ".join(
        f"{name} {then.get(name)}, now {now.get(name)}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
