"""The factored form of a masked delta: A, B, tau and the few entries where they say otherwise.

The file's mask was made from a matrix product whose order of summation is not stated, so a mask
recomputed from the factors may differ near the threshold. Here the product has an order, the
kernels' (`kernels.gated_tile`); where its mask differs from the stored one, the entry's position
is kept and flipped. A form whose mask is not the stored one, by digest, does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from jumplora_adapters.delta import SparseDelta, pack_mask

# Every tile of the kernel walks through all exceptions of its module. Factors in float32 gave 14 in
# 40 modules of 1024 x 1024 (r = 8, 5.1 %), one a module at most; many mean that these are not the
# factors of this mask, or that they were rounded to 16 bits.
MAX_EXCEPTIONS: Final = 64

_STEP: Final = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
_SMALLEST: Final = {torch.float32: 2.0**-149, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133}


@dataclass(frozen=True, slots=True, eq=False)
class GatedFactors:
    """What is resident of one module. D = scale * (B A under the mask), rounded to `dtype`."""

    A: Tensor  # float32 [r, d_in]
    B: Tensor  # float32 [d_out, r]
    tau: float
    scale: float
    exceptions: Tensor  # int32, positions in the flattened matrix, ascending
    dtype: torch.dtype


def product_in_order(A: Tensor, B: Tensor) -> Tensor:
    """B A in float32, [d_out, d_in]: over r in order, each product and each sum rounded.

    No matrix product, no fma: elementwise operations are IEEE on every device, so all agree.
    """
    total = torch.zeros(B.shape[0], A.shape[1], device=A.device)
    for k in range(A.shape[0]):
        total += B[:, k : k + 1] * A[k]
    return total


def kept_entries(factors: GatedFactors) -> Tensor:
    """The mask these factors and exceptions stand for: bool [d_out, d_in]."""
    product = product_in_order(factors.A, factors.B)
    keep = product.abs() > factors.tau
    flat = keep.view(-1)
    index = factors.exceptions.long()
    flat[index] = ~flat[index]
    return keep


def has_mask(keep: Tensor, delta: SparseDelta) -> bool:
    """Whether a mask, bool [d_out, d_in] on any device, has the digest of the stored one."""
    return replace(delta, mask=pack_mask(keep.cpu())).mask_digest() == delta.mask_digest()


def try_factor(
    delta: SparseDelta, A: Tensor, B: Tensor, *, tau: float, scale: float, device: torch.device
) -> GatedFactors | None:
    """The factored form of a delta, or None where the factors do not give mask and values.

    Args:
        A: [r, d_in], unscaled, of the adapter's file.
        B: [d_out, r].
        tau: the threshold; float32's nearest to it is compared, as `SparseDelta.from_factors` does.
        scale: alpha / r.
        device: where to compute; the result stays on the CPU.
    """
    a, b = A.float().to(device), B.float().to(device)
    if b.shape[0] != delta.shape[0] or a.shape[1] != delta.shape[1]:
        return None
    product = product_in_order(a, b)
    differs = ((product.abs() > tau) ^ delta.support().to(device)).view(-1)
    exceptions = differs.nonzero().view(-1).to("cpu", torch.int32)
    if exceptions.numel() > MAX_EXCEPTIONS:
        return None
    factors = GatedFactors(a.cpu(), b.cpu(), tau, scale, exceptions, delta.values.dtype)
    if not has_mask(kept_entries(factors), delta) or not _has_values(product, a, b, scale, delta):
        return None
    return factors


def _has_values(product: Tensor, a: Tensor, b: Tensor, scale: float, delta: SparseDelta) -> bool:
    """Whether the product's values are the stored ones, up to one step of their type.

    A step, and what two orders of summing r float32 products may differ by: the file's product
    came from a matrix product, so bits are not to be had, but another scale or state is far off.
    """
    dtype = delta.values.dtype
    support = delta.support().to(product.device)
    stored = delta.values.to(product.device, torch.float32)
    recomputed = (product * scale)[support].to(dtype).float()
    reordered = 2 * a.shape[0] * 2.0**-23 * abs(scale) * (b.abs() @ a.abs())[support]
    step = (stored.abs() * _STEP[dtype]).clamp_min(_SMALLEST[dtype])
    return bool(((recomputed - stored).abs() <= step + reordered).all())


def threshold_of(module: str, thresholds: Mapping[str, float]) -> float | None:
    """The threshold of a module's group: its own name's, its block's, else the global one."""
    parts = module.split(".")
    for stop in range(len(parts), 0, -1):
        found = thresholds.get(".".join(parts[:stop]))
        if found is not None:
            return found
    return thresholds.get("global")
