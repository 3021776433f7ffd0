"""What a measurement was made on: the machine, the commit, the versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

_FLAGS = (
    "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "sve", "i8mm", "bf16",
)  # fmt: skip
_PACKAGES = ("torch", "transformers", "peft", "ctranslate2")


def machine(device: str = "cpu") -> str:
    """CPU, cores and memory of this machine, and the GPU where one was used."""
    told = f"{_cpu()}, {os.cpu_count()} cores, {_memory_bytes() / 1e9:.0f} GB"
    return told if device == "cpu" else f"{told}; {torch.cuda.get_device_name(device)}"


def processor_flags() -> str:
    """Those instruction sets of the processor that our kernels or torch's choose by."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return " ".join(flag for flag in _FLAGS if flag in found.split()) or "none of those looked for"


def commit(folder: Path = Path(__file__).parent) -> str:
    """The short commit id of this code, marked when files differ; "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--match", ""]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    except FileNotFoundError:  # git is not installed
        return "unknown"
    return done.stdout.strip() or "unknown"


def versions() -> str:
    """The packages that were compared, as far as they are installed."""
    told = []
    for package in _PACKAGES:
        try:
            told.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join([f"Python {platform.python_version()}", *told])


def load_average() -> str:
    """Processes that wanted a core in the last minute: what else ran beside the measurement."""
    return f"{os.getloadavg()[0]:.2f}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
