"""The structures that Python and the kernels share: src/tape.h, field by field."""

from __future__ import annotations

import ctypes
from enum import IntEnum, IntFlag


class Kind(IntEnum):
    """What an operation computes; the kernels say what its fields mean."""

    EMBED = 0
    NORM = 1
    LINEAR_F32 = 2
    LINEAR_I8 = 3
    DELTA_FEW = 4
    DELTA_MANY = 5
    ACTIVATE = 6
    GATE = 7
    ATTEND_PROMPTS = 8
    STORE_SOURCE = 9
    ATTEND_SELF = 10
    ATTEND_CROSS = 11
    BEST = 12
    CHOOSE = 13
    COPY = 14
    READ_EDGES = 15


class Function(IntEnum):
    """Between a feed-forward's products; a member is the name of an `Activation`."""

    RELU = 0
    GELU_TANH = 1
    GELU = 2
    SILU = 3


class DeltaKind(IntFlag):
    """The form of one module's delta, of which a sparse one may have a low-rank one beside; or that
    a trunk has the module's weight."""

    NONE = 0
    SPARSE = 1
    DENSE = 2
    LOW_RANK = 4
    TRUNK = 8


class Outcome(IntEnum):
    """How a replay ended."""

    DONE = 0
    OUT_OF_MEMORY = 1
    BROKEN = 2


PANEL = 32  # outputs of a panel of packed weights
LANES = 16  # floats of a vector
MAX_LANES = 64  # tokens of a family
MAX_MODULES = 3  # of a delta operation

# Without slots a structure takes a field that it has not, by any name, and the kernels read the
# one that was meant as null.


class Op(ctypes.Structure):
    """One operation of a tape."""

    __slots__ = ()
    _fields_ = (
        ("kind", ctypes.c_int64),
        ("p", ctypes.c_void_p * 8),
        ("n", ctypes.c_int64 * 8),
        ("f", ctypes.c_float * 2),
    )


class DeltaStruct(ctypes.Structure):
    """One module's delta in one slot."""

    __slots__ = ()
    _fields_ = (
        ("kind", ctypes.c_int64),
        ("value_type", ctypes.c_int64),
        ("rank", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
    )


class Segment(ctypes.Structure):
    """Neighbouring rows with one trunk, or without one."""

    __slots__ = ()
    _fields_ = (("row", ctypes.c_int64), ("rows", ctypes.c_int64), ("trunk", ctypes.c_void_p))


class Block(ctypes.Structure):
    """Neighbouring rows that add the deltas of one table."""

    __slots__ = ()
    _fields_ = (
        ("row", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("table", ctypes.c_void_p),
        ("inner", ctypes.c_int64),
    )


class Family(ctypes.Structure):
    """Neighbouring rows and their blocks, each after those that its rows add before."""

    __slots__ = ()
    _fields_ = (
        ("row", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("lane", ctypes.c_int64),
        ("first", ctypes.c_int64),
        ("blocks", ctypes.c_int64),
    )


class SamplingStruct(ctypes.Structure):
    """How one row's tokens are chosen."""

    __slots__ = ()
    _fields_ = (
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("repetition_penalty", ctypes.c_double),
        ("top_k", ctypes.c_int64),
        ("min_new_tokens", ctypes.c_int64),
        ("no_repeat_ngram_size", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        ("wants_logprob", ctypes.c_int64),
        ("candidates", ctypes.c_int64),
    )


class Step(ctypes.Structure):
    """What one replay computes."""

    __slots__ = ()
    _fields_ = (
        ("rows", ctypes.c_int64),
        ("sequences", ctypes.c_int64),
        ("tokens", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("source_places", ctypes.c_void_p),
        ("target_rows", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("segments_count", ctypes.c_int64),
        ("segments", ctypes.c_void_p),
        ("families_count", ctypes.c_int64),
        ("families", ctypes.c_void_p),
        ("blocks_count", ctypes.c_int64),
        ("blocks", ctypes.c_void_p),
        ("targeted", ctypes.c_char_p),
        ("merged", ctypes.c_char_p),
        ("inner", ctypes.c_void_p),
        ("samplings", ctypes.c_void_p),
        ("paths_at", ctypes.c_void_p),
        ("paths", ctypes.c_void_p),
        ("edges_at", ctypes.c_void_p),
        ("edges", ctypes.c_void_p),
        ("edge_logprobs", ctypes.c_void_p),
    )
