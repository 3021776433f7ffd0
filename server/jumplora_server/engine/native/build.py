"""Compiles the kernels, src/*.cpp, once for each instruction set into a library of its own.

    .venv/bin/python -m jumplora_server.engine.native.build [SET ...]

One library for all of them would not do: the linker keeps one copy of an inline function of the C++
library, which might be the one with instructions that this processor does not have. hatch_build.py
runs this file before anything is installed, so it imports the standard library alone.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
# Sums must have one order, so the compiler may not contract or reorder them.
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-pthread", "-ffp-contract=off", "-fvisibility=hidden")
# GCC's own intrinsics set off these two.
QUIET = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")
RUNTIME = ("-static-libstdc++", "-static-libgcc", "-pthread")
GENERIC = "support.cpp"  # asked before the rest may run, so compiled for any processor

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
# By the name that Linux has for the processor; what each set needs, support.cpp asks for.
SETS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx512": (
            "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni",
            "-mfma", "-mf16c",
        ),
        "avx2_vnni": (*_AVX2, "-mavxvnni"),
        "avx2": _AVX2,
    },
    "aarch64": {"neon": ("-march=armv8.2-a+dotprod",)},
}  # fmt: skip


class NotBuilt(Exception):
    """The kernels cannot be compiled here; the message says why."""


def library_path(name: str, folder: Path = HERE) -> Path:
    """Where the library of an instruction set lies."""
    return folder / f"_kernels_{name}.so"


def build(only: Sequence[str] = ()) -> list[Path]:
    """Compile the libraries for this machine's kind of processor; the paths of those there are now.

    A library is replaced whole or not at all, and none is left that this compiler cannot make.

    Args:
        only: instruction sets, where not all are wanted. Libraries of others stay as they are.

    Raises:
        NotBuilt: another platform, no compiler, or one that knows none of the instruction sets.
        subprocess.CalledProcessError: the compiler failed; it has said why.
    """
    sets = SETS.get(platform.machine(), {}) if sys.platform == "linux" else {}
    if not sets:
        raise NotBuilt(
            f"they are for Linux on {' and '.join(SETS)}, not {sys.platform} {platform.machine()}"
        )
    if unknown := set(only) - set(sets):
        raise NotBuilt(
            f"{', '.join(sorted(unknown))}: not an instruction set of {platform.machine()}; "
            f"these are {', '.join(sets)}"
        )
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NotBuilt("no C++ compiler was found")
    wanted = [name for name in sets if not only or name in only]
    known = [name for name in wanted if _knows(compiler, sets[name])]
    for name in wanted:
        if name not in known:
            print(f"{compiler} does not know {' '.join(sets[name])}: no {name}", file=sys.stderr)
    if not known:
        raise NotBuilt(f"{compiler} knows none of the instruction sets {', '.join(wanted)}")
    with tempfile.TemporaryDirectory() as scratch:
        made = compile_sets(compiler, {name: sets[name] for name in known}, Path(scratch))
        for name, path in made.items():
            new = library_path(name).with_suffix(".new")
            shutil.copyfile(path, new)
            os.replace(new, library_path(name))
    remove([library_path(name) for name in sets if name in known or name not in wanted])
    return sorted(HERE.glob("_kernels*.so"))


def compile_sets(compiler: str, sets: Mapping[str, Sequence[str]], folder: Path) -> dict[str, Path]:
    """A library in `folder` for each set, given by its flags. Files are compiled side by side."""
    sources = sorted((HERE / "src").glob("*.cpp"))
    objects = {
        (name, source): folder / f"{name}.{source.stem}.o" for name in sets for source in sources
    }

    def compile_one(name: str, source: Path) -> None:
        own = () if source.name == GENERIC else sets[name]
        to = objects[name, source]
        command = [compiler, *FLAGS, *QUIET, *own, f"-DJL_{name.upper()}", "-c", str(source), "-o"]
        subprocess.run([*command, str(to)], check=True)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for done in [pool.submit(compile_one, *one) for one in objects]:
            done.result()
    made = {name: library_path(name, folder) for name in sets}
    for name, path in made.items():
        own_objects = [str(objects[name, source]) for source in sources]
        subprocess.run([compiler, "-shared", *RUNTIME, *own_objects, "-o", str(path)], check=True)
    return made


def remove(kept: Sequence[Path] = ()) -> None:
    """Remove the libraries that are not kept, those of older checkouts among them."""
    for path in set(HERE.glob("_kernels*.so")) - set(kept):
        path.unlink()


def _knows(compiler: str, flags: Sequence[str]) -> bool:
    command = [compiler, *flags, "-x", "c++", "-fsyntax-only", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    try:
        for built in build(sys.argv[1:]):
            print(built)
    except NotBuilt as reason:
        sys.exit(f"the native kernels were not built: {reason}")
