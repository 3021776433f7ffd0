"""Weights in the layout that the kernels read: panels of 32 outputs, each one stream of memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jumplora_server.engine.linear import quantise_weight
from jumplora_server.engine.native.layout import PANEL

_HUGE_PAGE = 2 << 20
_MADV_HUGEPAGE = 14  # from <sys/mman.h>


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """Linears' weights [d_out, d_in], each in whole panels; `scales`, as many, where it is int8."""

    panels: Tensor
    scales: Tensor | None

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        return self.panels.nbytes + (0 if self.scales is None else self.scales.nbytes)


def pack_float(weight: Tensor) -> Tensor:
    """[d_out, d_in] -> [panels, d_in, 32] float32; missing outputs are zero."""
    d_out, d_in = weight.shape
    panels = -(-d_out // PANEL)
    packed = roomy((panels, d_in, PANEL), torch.float32)
    whole = d_out // PANEL
    packed[:whole] = weight[: whole * PANEL].view(whole, PANEL, d_in).transpose(1, 2)
    if whole < panels:
        rest = F.pad(weight[whole * PANEL :].float(), (0, 0, 0, panels * PANEL - d_out))
        packed[whole] = rest.t()
    return packed


def pack_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[d_out, d_in] -> ([panels, d_in / 4, 32, 4] uint8, scales [panels * 32] float32).

    The processor's product is unsigned times signed and broadcasts the signed factor, so weights
    are stored plus 128, which the kernel takes off again, exactly.
    """
    scale, values = quantise_weight(weight)
    d_out, d_in = weight.shape
    panels, quads = -(-d_out // PANEL), -(-d_in // 4)
    values = F.pad(values, (0, quads * 4 - d_in, 0, panels * PANEL - d_out))
    shifted = values.view(torch.uint8).bitwise_xor_(128)  # of a byte, what adding 128 does
    packed = roomy((panels, quads, PANEL, 4), torch.uint8)
    packed.copy_(shifted.view(panels, PANEL, quads, 4).transpose(1, 2))
    return packed, F.pad(scale, (0, panels * PANEL - d_out))


def pack_weights(weights: Sequence[Tensor], dtype: str) -> PackedWeight:
    """Pack weights of one shape [d_out, d_in] one behind the other, in float32 or int8."""
    missing = -len(weights[0]) % PANEL
    whole = [F.pad(weight, (0, 0, 0, missing)) if missing else weight for weight in weights]
    stacked = whole[0] if len(whole) == 1 else torch.cat(whole)
    if dtype == "int8":
        return PackedWeight(*pack_int8(stacked))
    return PackedWeight(pack_float(stacked.float()), None)


def packed_bytes(d_out: int, d_in: int, dtype: str) -> int:
    """What a weight takes when it is packed."""
    outputs = -(-d_out // PANEL) * PANEL
    return outputs * (-(-d_in // 4) * 4 + 4) if dtype == "int8" else 4 * outputs * d_in


def roomy(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An empty tensor on huge pages where the system grants them: fewer misses of the page table.

    Of small tensors, and where the request is refused, the pages are ordinary ones.
    """
    tensor = torch.empty(shape, dtype=dtype)
    start = -(-tensor.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
    length = (tensor.data_ptr() + tensor.nbytes - start) // _HUGE_PAGE * _HUGE_PAGE
    if length > 0:
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(_MADV_HUGEPAGE)
        )
    return tensor
