"""How a slot describes its modules to the kernels: one record of int64 numbers a module.

A slot (one adapter's own deltas) has a table [modules, FIELDS] on the device; a batch row names
the addresses of its lineage's tables. Kernels and their references both read by these numbers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

import torch

FIELDS: Final = 9
KIND, VALUES, FIRST, SECOND, THIRD, EXCEPTIONS, RANK, TAU, SCALE = range(FIELDS)

# KIND: in which form the delta is resident.
NONE: Final = 0  # the slot does not have this module
PACKED: Final = 1  # FIRST row offsets int32 [d_out + 1], SECOND columns uint16, THIRD values
DENSE: Final = 2  # THIRD values [d_out, d_in]
FACTORED: Final = 3  # FIRST A, SECOND B, both float32; THIRD positions of exceptions int32
LOW_RANK: Final = 4  # FIRST A, SECOND B, both float32

# VALUES: the type the adapter's file has its values in; nothing is rounded to another one.
VALUE_CODES: Final = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}

FormName = Literal["packed", "dense", "factored", "low rank"]
KINDS: Final[dict[FormName, int]] = {
    "packed": PACKED,
    "dense": DENSE,
    "factored": FACTORED,
    "low rank": LOW_RANK,
}


@dataclass(frozen=True, slots=True)
class Record:
    """One module's record before its arrays have addresses: offsets in bytes into the slot's pool.

    `tau` and `scale` are float32 numbers, kept as their bits.
    """

    form: FormName
    values: torch.dtype
    first: int = 0
    second: int = 0
    third: int = 0
    exceptions: int = 0
    rank: int = 0
    tau: float = 0.0
    scale: float = 1.0

    def fields(self, base: int) -> list[int]:
        """The FIELDS numbers, for a pool that begins at address `base`."""
        return [
            KINDS[self.form],
            VALUE_CODES[self.values],
            base + self.first,
            base + self.second,
            base + self.third,
            self.exceptions,
            self.rank,
            _bits(self.tau),
            _bits(self.scale),
        ]


def _bits(number: float) -> int:
    """The bits of a float32, as a signed int32."""
    bits: int = struct.unpack("<i", struct.pack("<f", number))[0]
    return bits
