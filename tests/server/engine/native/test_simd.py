"""The vector functions of all instruction sets here give the same bits (simd_check.cpp)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jumplora_server.engine.native import library

PROGRAM = Path(__file__).with_name("simd_check.cpp")
SOURCES = Path(library.__file__).with_name("src")
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
FLAGS = ("-std=c++20", "-O1", "-ffp-contract=off")
SETS = {  # the processor's flags that each needs, and the compiler's
    "avx512": (
        {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
        ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma", "-mf16c"),
    ),
    "avx2_vnni": ({"avx2", "fma", "f16c", "avx_vnni"}, ("-mavx2", "-mfma", "-mf16c", "-mavxvnni")),
    "avx2": ({"avx2", "fma", "f16c"}, ("-mavx2", "-mfma", "-mf16c")),
}


def flags_here() -> set[str]:
    """What this processor has; nothing where it is no x86-64."""
    if platform.machine() != "x86_64":
        return set()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next(line for line in lines if line.startswith("flags")).split(":")[1].split())


def outcome(folder: Path, name: str) -> list[str]:
    """What the program prints when compiled for an instruction set."""
    assert COMPILER is not None
    built = folder / name
    command = [
        COMPILER,
        *FLAGS,
        "-w",
        f"-I{SOURCES}",
        *SETS[name][1],
        str(PROGRAM),
        "-o",
        str(built),
    ]
    subprocess.run(command, check=True, timeout=120)
    done = subprocess.run([str(built)], check=True, timeout=60, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_all_instruction_sets_give_the_same_bits(tmp_path: Path) -> None:
    here = flags_here()
    names = [name for name, (needed, _) in SETS.items() if needed <= here]
    if COMPILER is None or not names:
        pytest.skip("needs a C++ compiler and a processor with AVX2")
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda name: outcome(tmp_path, name), names))
    for name, lines in zip(names, found, strict=True):
        assert [line for line in lines if line.startswith("WRONG")] == [], name
        assert lines[-1] == "done", name
        differing = [pair for pair in zip(found[0], lines, strict=True) if pair[0] != pair[1]]
        assert differing == [], f"{name} differs from {names[0]}"
