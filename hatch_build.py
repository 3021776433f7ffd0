"""Compiles the engine's native kernels when the package is installed, where that is possible.

Without a C++20 compiler, or on another platform than Linux x86-64, nothing is built and the engine
computes with torch: slower, and the server says so when it starts. NATIVE_KERNELS=off asks for
that, NATIVE_KERNELS=required makes a failure an error.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("server/jumplora_server/engine/native")
LIBRARY = FOLDER / "_kernels.so"
# Sums must have one order, so the compiler may not contract or reorder them.
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-pthread", "-ffp-contract=off", "-fvisibility=hidden")
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma", "-mf16c")
# GCC's own intrinsics set off these two.
QUIET = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")
GENERIC = "support.cpp"  # asked before the rest may run, so compiled for any x86-64


class KernelHook(BuildHookInterface):  # type: ignore[misc]
    """Builds `_kernels.so` beside its Python and marks the wheel as one for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wish = os.environ.get("NATIVE_KERNELS", "auto")
        if wish not in ("auto", "off", "required"):
            raise ValueError(f"NATIVE_KERNELS is {wish!r}; allowed are auto, off, required")
        if self.target_name != "wheel":
            return
        if wish == "off":
            (Path(self.root) / LIBRARY).unlink(missing_ok=True)
            return
        try:
            compile_kernels(Path(self.root))
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            if wish == "required":
                raise
            (Path(self.root) / LIBRARY).unlink(missing_ok=True)
            print(f"the native kernels were not built: {error}", file=sys.stderr)
            return
        build_data["pure_python"] = False
        # Any CPython 3 will do: the library is loaded through ctypes.
        tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{tag}"
        build_data["artifacts"].append(str(LIBRARY))


def compile_kernels(root: Path) -> None:
    """Compile src/*.cpp into LIBRARY; it is replaced whole or not at all."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise RuntimeError(f"they are for Linux x86-64, not {sys.platform} {platform.machine()}")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RuntimeError("no C++ compiler was found")
    with tempfile.TemporaryDirectory() as scratch:
        objects = []
        for source in sorted((root / FOLDER / "src").glob("*.cpp")):
            target = Path(scratch) / f"{source.stem}.o"
            instructions = () if source.name == GENERIC else AVX512
            command = [compiler, *FLAGS, *QUIET, *instructions, "-c", str(source), "-o"]
            subprocess.run([*command, str(target)], check=True)
            objects.append(str(target))
        linked = Path(scratch) / LIBRARY.name
        runtime = ("-static-libstdc++", "-static-libgcc", "-pthread")
        subprocess.run([compiler, "-shared", *runtime, *objects, "-o", str(linked)], check=True)
        shutil.copyfile(linked, root / LIBRARY.with_suffix(".new"))
        os.replace(root / LIBRARY.with_suffix(".new"), root / LIBRARY)


if __name__ == "__main__":
    compile_kernels(Path(__file__).parent)
