"""What an adapter adds to one linear layer: y = x (W0 + delta)^T.

A delta knows its numbers and nothing of files, tasks or backbones. Matrices are [d_out, d_in] as
in `torch.nn.Linear.weight`; every scale is folded in already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jumplora_adapters.errors import FormatError

VALUE_DTYPES: Mapping[torch.dtype, str] = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
"""The value types an adapter may have, with their safetensors names."""

_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class SparseDelta:
    """A bit mask over the matrix and the values under its set bits, both in row-major order.

    Element i of the flattened matrix is bit i % 8 (least significant first) of byte i // 8; the
    padding bits of the last byte are zero. Tensors live on the CPU.
    """

    shape: tuple[int, int]
    mask: Tensor  # uint8 [ceil(d_out * d_in / 8)]
    values: Tensor  # [nnz], float32, float16 or bfloat16

    @classmethod
    def from_dense(cls, dense: Tensor, dtype: torch.dtype = torch.float32) -> SparseDelta:
        """Keep the non-zero entries of `dense` [d_out, d_in], rounded to `dtype`.

        Entries that round to zero are dropped. Raises FormatError (nonfinite, dtype, shape).
        """
        if dense.dim() != 2:
            raise FormatError(f"a delta has 2 dimensions, not {dense.dim()}", code="shape")
        if dtype not in VALUE_DTYPES:
            raise FormatError(
                f"values of {dtype} given; float32, float16 or bfloat16 are allowed", code="dtype"
            )
        rounded = dense.detach().to(device="cpu", dtype=dtype).contiguous()
        support = rounded != 0  # NaN != 0 as well, so nothing that is not finite slips through
        values = rounded[support]
        if not bool(torch.isfinite(values).all()):
            raise FormatError(f"a value is NaN or infinite as {dtype}", code="nonfinite")
        rows, columns = rounded.shape
        return cls((rows, columns), pack_mask(support), values)

    @classmethod
    def from_factors(
        cls, A: Tensor, B: Tensor, tau: float, scale: float, dtype: torch.dtype = torch.float32
    ) -> SparseDelta:
        """Expand gated factors: scale * G(B A), G(Z) = Z where |Z| > tau, else 0.

        `A` [r, d_in], `B` [d_out, r]; arXiv 2604.16171. The product is taken in float32 and
        compared with float32's nearest to `tau`, since in 16 bits the mask itself changes; the
        gate comes first and the scale after it.
        """
        product = B.detach().float() @ A.detach().float()  # [d_out, d_in]
        if not bool(torch.isfinite(product).all()):
            raise FormatError("the product B A has NaN or infinite entries", code="nonfinite")
        gated = torch.where(product.abs() > tau, product, torch.zeros_like(product))
        return cls.from_dense(gated * scale, dtype)

    @property
    def nnz(self) -> int:
        """Number of stored values."""
        return self.values.numel()

    @property
    def changes_anything(self) -> bool:
        """Whether any entry is not zero."""
        return self.nnz > 0

    @property
    def density(self) -> float:
        """Share of the matrix that is stored, 0 to 1."""
        return self.nnz / (self.shape[0] * self.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of mask and values."""
        return self.mask.numel() + self.values.numel() * self.values.element_size()

    def support(self) -> Tensor:
        """Which entries are stored: bool [d_out, d_in]."""
        rows, columns = self.shape
        bits = np.unpackbits(self.mask.numpy(), count=rows * columns, bitorder="little")
        return torch.from_numpy(bits.view(np.bool_)).view(rows, columns)

    def to_dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix [d_out, d_in]; exact when `dtype` is at least as wide as the values'."""
        dense = torch.zeros(self.shape, dtype=dtype)
        return dense.masked_scatter_(self.support(), self.values.to(dtype))

    def add_to(self, total: Tensor) -> None:
        """total += the matrix, in float32: the bits of adding `to_dense()`, without making it.

        `total` is float32 [d_out, d_in], contiguous and on the CPU. A zero of it gets positive.
        """
        rows, columns = self.shape
        bits = np.unpackbits(self.mask.numpy(), count=rows * columns, bitorder="little")
        total += 0.0  # as the matrix's zeros do
        flat = total.view(-1).numpy()
        flat[np.flatnonzero(bits.view(np.bool_))] += self.values.float().numpy()

    def csr(self) -> tuple[Tensor, Tensor]:
        """Row offsets int32 [d_out + 1] and column indices int32 [nnz], in the values' order."""
        support = self.support().numpy()
        offsets = np.zeros(self.shape[0] + 1, dtype=np.int32)
        # torch's sum would make 4 bytes of every entry first, 32 times the mask.
        np.cumsum(np.count_nonzero(support, axis=1), out=offsets[1:])
        columns = np.flatnonzero(support) % self.shape[1]
        return torch.from_numpy(offsets), torch.from_numpy(columns.astype(np.int32))

    def mask_digest(self) -> str:
        """SHA-256 (hex) of shape and mask: equal for equal supports, whatever the values."""
        return _digest(f"mask {self.shape[0]} {self.shape[1]}", self.mask)

    def digest(self) -> str:
        """SHA-256 (hex) of shape, mask, value type and values."""
        head = f"sparse {self.shape[0]} {self.shape[1]} {VALUE_DTYPES[self.values.dtype]}"
        return _digest(head, self.mask, self.values)

    def check(self) -> None:
        """Raise FormatError unless mask and values fit together, as FORMAT.md demands.

        Codes: shape, dtype, popcount (also padding bits and stored zeros), nonfinite.
        """
        size = self.shape[0] * self.shape[1]
        if self.mask.dtype != torch.uint8 or self.values.dtype not in VALUE_DTYPES:
            raise FormatError(
                f"mask of {self.mask.dtype}, values of {self.values.dtype}; allowed are uint8 "
                "and float32, float16 or bfloat16",
                code="dtype",
            )
        if self.mask.shape != (mask_bytes(size),) or self.values.dim() != 1:
            raise FormatError(
                f"mask {list(self.mask.shape)} and values {list(self.values.shape)} do not fit a "
                f"matrix {list(self.shape)}: {mask_bytes(size)} mask bytes are needed",
                code="shape",
            )
        if size % 8 and int(self.mask[-1]) >> (size % 8):
            raise FormatError("padding bits of the mask are set", code="popcount")
        if (kept := count_bits(self.mask)) != self.nnz:
            raise FormatError(f"{kept} mask bits for {self.nnz} values", code="popcount")
        if not bool(torch.isfinite(self.values).all()):
            raise FormatError("a value is NaN or infinite", code="nonfinite")
        if bool((self.values == 0).any()):
            raise FormatError("a stored value is zero: the mask must not name it", code="popcount")


@dataclass(frozen=True, slots=True, eq=False)
class LowRankDelta:
    """A delta kept as factors, B A with alpha / r folded into B. Tensors live on the CPU."""

    A: Tensor  # [r, d_in]
    B: Tensor  # [d_out, r]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the product."""
        return self.B.shape[0], self.A.shape[1]

    @property
    def rank(self) -> int:
        """Inner dimension of the factors."""
        return self.A.shape[0]

    @property
    def nnz(self) -> int:
        """Number of factor elements, the numbers a product has to touch."""
        return self.A.numel() + self.B.numel()

    @property
    def changes_anything(self) -> bool:
        """Whether a column of B and its row of A both have a number that is not zero."""
        return bool(((self.A != 0).any(1) & (self.B != 0).any(0)).any())

    @property
    def density(self) -> float:
        """Always 1: the product has no zeros to speak of."""
        return 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of both factors."""
        return self.A.numel() * self.A.element_size() + self.B.numel() * self.B.element_size()

    def to_dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The product [d_out, d_in], taken in float32."""
        return (self.B.float() @ self.A.float()).to(dtype)

    def add_to(self, total: Tensor) -> None:
        """total += the product; `total` is float32 [d_out, d_in]."""
        total += self.to_dense()

    def digest(self) -> str:
        """SHA-256 (hex) of shapes, types and factors."""
        head = f"lowrank {self.shape[0]} {self.shape[1]} {self.rank} "
        head += f"{VALUE_DTYPES[self.A.dtype]} {VALUE_DTYPES[self.B.dtype]}"
        return _digest(head, self.A, self.B)

    def check(self) -> None:
        """Raise FormatError (dtype, shape, nonfinite) unless the factors fit together."""
        if self.A.dtype not in VALUE_DTYPES or self.B.dtype not in VALUE_DTYPES:
            raise FormatError(
                f"factors of {self.A.dtype} and {self.B.dtype} given; float32, float16 or "
                "bfloat16 are allowed",
                code="dtype",
            )
        if self.A.dim() != 2 or self.B.dim() != 2 or self.A.shape[0] != self.B.shape[1]:
            raise FormatError(
                f"A {list(self.A.shape)} and B {list(self.B.shape)} have no product B A",
                code="shape",
            )
        if not bool(torch.isfinite(self.A).all()) or not bool(torch.isfinite(self.B).all()):
            raise FormatError("a factor has NaN or infinite entries", code="nonfinite")


@dataclass(frozen=True, slots=True, eq=False)
class CombinedDelta:
    """A sparse and a low-rank part of one module that are added: `sparse` + B A."""

    sparse: SparseDelta
    lowrank: LowRankDelta

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the sum."""
        return self.sparse.shape

    @property
    def nnz(self) -> int:
        """Number of stored values and factor elements."""
        return self.sparse.nnz + self.lowrank.nnz

    @property
    def changes_anything(self) -> bool:
        """Whether either part does."""
        return self.sparse.changes_anything or self.lowrank.changes_anything

    @property
    def density(self) -> float:
        """Always 1, as that of the low-rank part."""
        return 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of both parts."""
        return self.sparse.nbytes + self.lowrank.nbytes

    def to_dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The sum [d_out, d_in], taken in float32."""
        return (self.sparse.to_dense() + self.lowrank.to_dense()).to(dtype)

    def add_to(self, total: Tensor) -> None:
        """total += the sum of both parts, which is taken first; `total` is float32."""
        total += self.to_dense()

    def digest(self) -> str:
        """SHA-256 (hex) of both parts' digests."""
        return _digest(f"combined {self.sparse.digest()} {self.lowrank.digest()}")

    def check(self) -> None:
        """Raise FormatError as the parts do, and for parts of two shapes (shape)."""
        self.sparse.check()
        self.lowrank.check()
        if self.lowrank.shape != self.sparse.shape:
            raise FormatError(
                f"a sparse part {list(self.sparse.shape)} and a low-rank part "
                f"{list(self.lowrank.shape)} cannot be added",
                code="shape",
            )


Delta = SparseDelta | LowRankDelta | CombinedDelta


def sparse_part(delta: Delta) -> SparseDelta | None:
    """What of a delta has a mask."""
    if isinstance(delta, CombinedDelta):
        return delta.sparse
    return delta if isinstance(delta, SparseDelta) else None


def low_rank_part(delta: Delta) -> LowRankDelta | None:
    """What of a delta has factors."""
    if isinstance(delta, CombinedDelta):
        return delta.lowrank
    return delta if isinstance(delta, LowRankDelta) else None


def sum_deltas(deltas: Sequence[Delta], dtype: torch.dtype = torch.float32) -> SparseDelta:
    """Add deltas of one shape in the given order, in float32, then round to `dtype`.

    Raises FormatError (shape) for an empty sequence or differing shapes.
    """
    if not deltas:
        raise FormatError("the sum of no deltas has no shape", code="shape")
    total = torch.zeros(deltas[0].shape)
    for delta in deltas:
        if delta.shape != deltas[0].shape:
            raise FormatError(
                f"deltas of shapes {deltas[0].shape} and {delta.shape} cannot be added",
                code="shape",
            )
        delta.add_to(total)
    return SparseDelta.from_dense(total, dtype)


def mask_digest_of(deltas: Mapping[str, SparseDelta]) -> str:
    """SHA-256 (hex) over the supports of all modules, in the order of their names."""
    hasher = hashlib.sha256()
    for name in sorted(deltas):
        hasher.update(f"{name} {deltas[name].mask_digest()}\n".encode())
    return hasher.hexdigest()


def mask_bytes(size: int) -> int:
    """Bytes that a mask over `size` entries takes."""
    return (size + 7) // 8


def pack_mask(support: Tensor) -> Tensor:
    """Pack bool [d_out, d_in] into uint8 [ceil(d_out * d_in / 8)], least significant bit first."""
    flat = support.contiguous().view(-1).numpy()
    return torch.from_numpy(np.packbits(flat, bitorder="little"))


def count_bits(mask: Tensor) -> int:
    """Number of set bits of a uint8 tensor."""
    return int(_BITS_SET[mask.numpy()].sum(dtype=np.int64))


def _digest(head: str, *tensors: Tensor) -> str:
    hasher = hashlib.sha256(head.encode() + b"\n")
    for tensor in tensors:
        hasher.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return hasher.hexdigest()
