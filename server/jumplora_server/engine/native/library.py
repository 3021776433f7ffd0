"""The compiled kernels (src/*.cpp, built at install by build.py), and which of them run here.

There is a library for each instruction set. It knows neither Python nor torch: it is called through
ctypes, once a step, without the interpreter lock. Its threads are its own and sleep between the
steps.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from typing import Final

from jumplora_server.core import InstructionSet
from jumplora_server.engine.native.build import library_path
from jumplora_server.engine.native.layout import Op, Step

# Counted up in src/support.cpp and here when structures, kinds, operands or packings change.
ABI = 15

NEEDS: Final[Mapping[InstructionSet, str]] = {
    "avx512": "AVX-512 with its VNNI",
    "avx2_vnni": "AVX2, FMA, F16C and AVX-VNNI",
    "avx2": "AVX2, FMA and F16C",
    "neon": "ARMv8.2 with the dot product",
}
"""What each instruction set asks of the processor, the best one first."""


class NativeUnavailable(Exception):
    """The kernels cannot run on this machine; the message says why."""


@cache
def load_library(wanted: InstructionSet) -> ctypes.CDLL:
    """The kernels of one instruction set, ready to be called.

    Raises:
        NativeUnavailable: not built, built for another version, or not for this processor.
    """
    path = library_path(wanted)
    if not path.is_file():
        raise NativeUnavailable(f"the kernels for {wanted} were not built; {_what_was_built()}")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailable(
            f"the kernels for {wanted} cannot be loaded: {error}; install again"
        ) from error
    if (abi := library.jl_abi()) != ABI:
        raise NativeUnavailable(
            f"the kernels for {wanted} were built for interface {abi}, this code has {ABI}: "
            "install again"
        )
    if not library.jl_supported():
        raise NativeUnavailable(
            f"this processor cannot run the kernels for {wanted}: they need {NEEDS[wanted]}"
        )
    library.jl_run.argtypes = [
        ctypes.POINTER(Op), ctypes.c_int64, ctypes.POINTER(Step), ctypes.c_int, ctypes.c_void_p,
    ]  # fmt: skip
    library.jl_run.restype = ctypes.c_int
    library.jl_unpack_mask.argtypes = [
        ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    library.jl_unpack_mask.restype = ctypes.c_int64
    return library


def built_sets() -> list[InstructionSet]:
    """Those with a library, the best one first."""
    return [name for name in NEEDS if library_path(name).is_file()]


def runnable_sets() -> list[InstructionSet]:
    """Those that this processor runs, the best one first."""
    return [name for name in built_sets() if why_not(name) is None]


def best_set() -> InstructionSet:
    """The best one that runs here.

    Raises:
        NativeUnavailable: none does.
    """
    if runnable := runnable_sets():
        return runnable[0]
    reasons = [why_not(name) for name in built_sets()] or [_what_was_built()]
    raise NativeUnavailable("; ".join(map(str, reasons)))


def why_not(wanted: InstructionSet) -> str | None:
    """The reason why the kernels of an instruction set do not run here, or None."""
    try:
        load_library(wanted)
    except NativeUnavailable as reason:
        return str(reason)
    return None


def why_unavailable() -> str | None:
    """The reason why no kernels run here, or None."""
    try:
        best_set()
    except NativeUnavailable as reason:
        return str(reason)
    return None


def _what_was_built() -> str:
    if built := built_sets():
        return f"this install has those for {', '.join(built)}"
    return (
        "this install has no native kernels: to build them it needs a C++20 compiler on Linux, on "
        "x86-64 or 64-bit ARM"
    )
