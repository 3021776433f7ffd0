"""The compiled kernels (src/*.cpp, built at install by hatch_build.py), and whether they run here.

The library knows neither Python nor torch: it is called through ctypes, once a step, without the
interpreter lock. Its threads are its own and sleep between the steps.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from jumplora_server.engine.native.layout import Op, Step

PATH = Path(__file__).with_name("_kernels.so")
# Counted up in src/support.cpp and here when structures, kinds, operands or packings change.
ABI = 10


class NativeUnavailable(Exception):
    """The kernels cannot run on this machine; the message says why."""


@cache
def load_library() -> ctypes.CDLL:
    """The kernels, ready to be called.

    Raises:
        NativeUnavailable: not built, built for another version, or this processor lacks AVX-512.
    """
    if not PATH.is_file():
        raise NativeUnavailable(
            "the kernels were not built: at install this needs a C++20 compiler on Linux x86-64"
        )
    try:
        library = ctypes.CDLL(str(PATH))
    except OSError as error:
        raise NativeUnavailable(f"the kernels cannot be loaded: {error}") from error
    if (abi := library.jl_abi()) != ABI:
        raise NativeUnavailable(
            f"the kernels were built for interface {abi}, this code has {ABI}: install again"
        )
    if not library.jl_supported():
        raise NativeUnavailable("the kernels need a processor with AVX-512 and its VNNI")
    library.jl_run.argtypes = [
        ctypes.POINTER(Op), ctypes.c_int64, ctypes.POINTER(Step), ctypes.c_int, ctypes.c_void_p,
    ]  # fmt: skip
    library.jl_run.restype = ctypes.c_int
    library.jl_unpack_mask.argtypes = [
        ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    library.jl_unpack_mask.restype = ctypes.c_int64
    return library


def why_unavailable() -> str | None:
    """The reason why the kernels do not run here, or None."""
    try:
        load_library()
    except NativeUnavailable as reason:
        return str(reason)
    return None
