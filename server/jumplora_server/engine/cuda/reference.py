"""What the kernels compute, said slowly in torch: the same signatures as `launch.py`. For tests.

Reads slot tables and arrays at their addresses, as the kernels do, so it works for slots in the
host's memory only.
"""

from __future__ import annotations

import ctypes
from typing import Final

import torch
from torch import Tensor

from jumplora_server.engine.cuda import record
from jumplora_server.engine.cuda.expanded import Chunk, Scratch
from jumplora_server.engine.cuda.factored import GatedFactors, kept_entries, product_in_order
from jumplora_server.engine.cuda.plan import Kernels, OwnStep

_DTYPES: Final = {code: dtype for dtype, code in record.VALUE_CODES.items()}


def add_decode(lineages: Tensor, module: int, x: Tensor, y: Tensor) -> None:
    """y[row] += x[row] D^T for every slot of each row's lineage; see `launch.add_decode`."""
    for row in range(lineages.shape[1]):
        total = y[row].float()
        for address in lineages[:, row].tolist():
            if address:
                matrix = delta_at(address, module, (y.shape[1], x.shape[1]))
                total = total + matrix @ x[row].float()
        y[row] = total.to(y.dtype)


def add_encode(tiles: Tensor, module: int, x: Tensor, y: Tensor) -> None:
    """y[tokens] += x[tokens] D^T for the slot of every tile; see `launch.add_encode`."""
    for address, start, stop in tiles.tolist():
        if _fields(address, module)[record.KIND] not in (record.PACKED, record.FACTORED):
            continue
        matrix = delta_at(address, module, (y.shape[1], x.shape[0]))
        total = y[start:stop].float() + x[:, start:stop].float().t() @ matrix.t()
        y[start:stop] = total.to(y.dtype)


def add_expanded(chunk: Chunk, module: int, x: Tensor, y: Tensor, scratch: Scratch) -> None:
    """y[tokens] += x[tokens] D^T for the tiles of a chunk; see `launch.add_expanded`."""
    slots = chunk.slots.tolist()
    tiles = [(slots[place], start, stop) for place, start, stop in chunk.tiles.tolist()]
    add_encode(torch.tensor(tiles), module, x.t(), y)


def attend_own(qkv: Tensor, keys: Tensor, values: Tensor, step: OwnStep, bias: Tensor) -> Tensor:
    """Append to the caches of live rows and attend to them; see `launch.attend_own`."""
    heads, width = keys.shape[1], keys.shape[3]
    out = torch.empty_like(qkv[:, : heads * width])
    for row, position in enumerate(step.positions.tolist()):
        q, k, v = qkv[row].view(3, heads, 1, width)
        if step.is_live[row]:
            keys[row, :, position], values[row, :, position] = k[:, 0], v[:, 0]
        distances = torch.arange(position, -1, -1)
        read = _attend(
            q,
            torch.cat([keys[row, :, :position], k], dim=1),
            torch.cat([values[row, :, :position], v], dim=1),
            bias[:, None, distances],
        )
        out[row] = read.flatten()
    return out


def attend_source(
    q: Tensor, keys: Tensor, values: Tensor, places: Tensor, lengths: Tensor
) -> Tensor:
    """Attend to each row's prompt; see `launch.attend_source`."""
    heads, width = keys.shape[1], keys.shape[3]
    out = torch.zeros_like(q)
    for row, place in enumerate(places.tolist()):
        if length := int(lengths[place]):
            query = q[row].view(heads, 1, width)
            k, v = keys[place, :, :length], values[place, :, :length]
            read = _attend(query, k, v, torch.zeros(1))
            out[row] = read.flatten()
    return out


def _attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """q [heads, 1, width], keys and values [heads, n, width] -> [heads, 1, width], in float64."""
    scores = q.double() @ keys.double().transpose(1, 2) + bias
    return (scores.softmax(dim=-1) @ values.double()).to(q.dtype)


def kept(table: Tensor, module: int, shape: tuple[int, int]) -> Tensor:
    """Which entries a factored module keeps, bool [d_out, d_in]; see `launch.kept`."""
    return kept_entries(_factors(_fields(table.data_ptr(), module), shape))


def delta_at(address: int, module: int, shape: tuple[int, int]) -> Tensor:
    """The matrix D [d_out, d_in] in float32 that a slot holds for a module."""
    fields = _fields(address, module)
    d_out = shape[0]
    matrix = torch.zeros(shape)
    dtype = _DTYPES[fields[record.VALUES]]
    if fields[record.KIND] == record.DENSE:
        return _array(fields[record.THIRD], shape, dtype).float()
    if fields[record.KIND] == record.LOW_RANK:
        factors = _factors(fields, shape)
        return factors.B @ factors.A
    if fields[record.KIND] == record.FACTORED:
        factors = _factors(fields, shape)
        product = product_in_order(factors.A, factors.B) * factors.scale
        return torch.where(kept_entries(factors), product.to(dtype).float(), matrix)
    if fields[record.KIND] == record.PACKED:
        offsets = _array(fields[record.FIRST], (d_out + 1,), torch.int32)
        nnz = int(offsets[-1])
        columns = _array(fields[record.SECOND], (nnz,), torch.uint16).long()
        rows = torch.repeat_interleave(torch.arange(d_out), offsets.diff().long())
        matrix[rows, columns] = _array(fields[record.THIRD], (nnz,), dtype).float()
    return matrix


def _fields(address: int, module: int) -> list[int]:
    where = address + module * record.FIELDS * 8
    numbers: list[int] = _array(where, (record.FIELDS,), torch.int64).tolist()
    return numbers


def _factors(fields: list[int], shape: tuple[int, int]) -> GatedFactors:
    d_out, d_in = shape
    rank = fields[record.RANK]
    bits = torch.tensor([fields[record.TAU], fields[record.SCALE]], dtype=torch.int32)
    tau, scale = bits.view(torch.float32).tolist()
    return GatedFactors(
        A=_array(fields[record.FIRST], (rank, d_in), torch.float32),
        B=_array(fields[record.SECOND], (d_out, rank), torch.float32),
        tau=tau,
        scale=scale,
        exceptions=_array(fields[record.THIRD], (fields[record.EXCEPTIONS],), torch.int32),
        dtype=_DTYPES[fields[record.VALUES]],
    )


def _array(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A copy of an array in the host's memory."""
    nbytes = torch.Size(shape).numel() * dtype.itemsize
    if nbytes == 0:
        return torch.empty(shape, dtype=dtype)
    content = bytearray(ctypes.string_at(address, nbytes))
    return torch.frombuffer(content, dtype=dtype).view(shape)


REFERENCE: Final = Kernels(
    add_decode=add_decode,
    add_encode=add_encode,
    add_expanded=add_expanded,
    kept=kept,
    attend_own=attend_own,
    attend_source=attend_source,
)
