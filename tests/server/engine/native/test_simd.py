"""The vector functions of all instruction sets here give the same bits (simd_check.cpp)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jumplora_server.engine.native import build, library

PROGRAM = Path(__file__).with_name("simd_check.cpp")
SOURCES = Path(build.__file__).with_name("src")
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
FLAGS = ("-std=c++20", "-O1", "-ffp-contract=off", "-w")


def outcome(folder: Path, name: str) -> list[str]:
    """What the program prints when compiled for an instruction set."""
    assert COMPILER is not None
    built, own = folder / name, build.SETS[platform.machine()][name]
    command = [COMPILER, *FLAGS, *own, f"-I{SOURCES}", str(PROGRAM), "-o", str(built)]
    subprocess.run(command, check=True, timeout=120)
    done = subprocess.run([str(built)], check=True, timeout=60, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
@pytest.mark.skipif(library.why_unavailable() is not None, reason=str(library.why_unavailable()))
def test_all_instruction_sets_give_the_same_bits(tmp_path: Path) -> None:
    names = library.runnable_sets()
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda name: outcome(tmp_path, name), names))
    for name, lines in zip(names, found, strict=True):
        assert [line for line in lines if line.startswith("WRONG")] == [], name
        assert lines[-1] == "done", name
        differing = [pair for pair in zip(found[0], lines, strict=True) if pair[0] != pair[1]]
        assert differing == [], f"{name} differs from {names[0]}"
