"""A pair of LoRA factors as a foreign checkpoint gives them, checked against its module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jumplora_adapters.bounds import FREE_RANK
from jumplora_adapters.delta import LowRankDelta
from jumplora_adapters.errors import ConvertError

READ_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """A and B in float32, without their scale, and the gate's threshold if there is one."""

    A: Tensor  # [r, d_in]
    B: Tensor  # [d_out, r]
    tau: float | None = None

    @property
    def rank(self) -> int:
        """Inner dimension of the product."""
        return self.A.shape[0]

    def low_rank(self, scale: float, dtype: torch.dtype) -> LowRankDelta:
        """The factors themselves, the scale folded into B before rounding to `dtype`."""
        return LowRankDelta(A=self.A.to(dtype), B=(self.B * scale).to(dtype))


def check_factors(
    module: str, A: object, B: object, shape: tuple[int, int], tau: float | None = None
) -> Factors:
    """The factors of `module`, whose weight is `shape` = (d_out, d_in).

    Raises ConvertError unless both are finite floating matrices with a product of that shape.
    """
    if not isinstance(A, Tensor) or not isinstance(B, Tensor):
        raise ConvertError(
            f"{module}: A and B must be tensors, got {type(A).__name__}, {type(B).__name__}"
        )
    check_readable(f"{module}: A", A)
    check_readable(f"{module}: B", B)
    d_out, d_in = shape
    if A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1] or A.shape[0] == 0:
        raise ConvertError(
            f"{module}: A {tuple(A.shape)} and B {tuple(B.shape)} have no product: expected"
            f" [r, {d_in}] and [{d_out}, r]"
        )
    if (B.shape[0], A.shape[1]) != (d_out, d_in):
        raise ConvertError(
            f"{module}: B A is {(B.shape[0], A.shape[1])}, the backbone's weight is {shape}: the"
            " checkpoint belongs to another backbone"
        )
    if A.shape[0] > (highest := max(FREE_RANK, d_out, d_in)):
        raise ConvertError(f"{module}: the rank is {A.shape[0]}, at most {highest} is allowed")
    left, right = A.detach().float().contiguous(), B.detach().float().contiguous()
    if not bool(torch.isfinite(left).all() and torch.isfinite(right).all()):
        raise ConvertError(f"{module}: a factor holds NaN or infinity: the training diverged")
    return Factors(left, right, tau)


def pair_in(
    site: str, tensors: Mapping[str, Tensor], parts: tuple[str, str], shape: tuple[int, int]
) -> Factors:
    """The factors that a PEFT file has under the two names `parts`, A's first.

    Raises ConvertError where one is missing, and as `check_factors` does.
    """
    missing = [part for part in parts if part not in tensors]
    if missing:
        there = next((part for part in parts if part in tensors), "its values")
        raise ConvertError(f"{site!r} has {there} and no {missing[0]}")
    return check_factors(site, tensors[parts[0]], tensors[parts[1]], shape)


def check_readable(what: str, tensor: Tensor) -> None:
    """Raise ConvertError unless `tensor` is dense, on the CPU and of a common floating type."""
    if tensor.dtype not in READ_DTYPES:
        raise ConvertError(
            f"{what} is of {tensor.dtype}; floating point is expected: float32, float16, bfloat16"
            " or float64"
        )
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ConvertError(f"{what} is {tensor.layout} on {tensor.device}, expected a dense tensor")
