"""The Triton kernels: a mixed batch's deltas in one launch a projection.

Imported only where a GPU is served (or interpreted in tests): CPU serving does not depend on
triton. `launch.py` calls these, `reference.py` says slowly what they compute. Every sum has an
order that depends on the module alone, so a row's result does not depend on its batch mates.
"""

# mypy: ignore-errors
# The bodies below are Triton's language, not Python's: its types are not annotations.
from __future__ import annotations

import triton
import triton.language as tl

from jumplora_server.engine.cuda import record

# Kernels may only read globals that are constants of the language.
FIELDS = tl.constexpr(record.FIELDS)
VALUES = tl.constexpr(record.VALUES)
FIRST = tl.constexpr(record.FIRST)
SECOND = tl.constexpr(record.SECOND)
THIRD = tl.constexpr(record.THIRD)
EXCEPTIONS = tl.constexpr(record.EXCEPTIONS)
RANK = tl.constexpr(record.RANK)
TAU = tl.constexpr(record.TAU)
SCALE = tl.constexpr(record.SCALE)
PACKED = tl.constexpr(record.PACKED)
DENSE = tl.constexpr(record.DENSE)
FACTORED = tl.constexpr(record.FACTORED)
LOW_RANK = tl.constexpr(record.LOW_RANK)
F16 = tl.constexpr(1)
BF16 = tl.constexpr(2)

# -- numbers. bfloat16 is read and written through its bits: it is exact, costs two integer
# operations, and Triton's interpreter rounds to bfloat16 wrongly (triton issue 8322).


@triton.jit
def widened(bits):
    """int16 or uint16 bits of bfloat16 numbers -> float32."""
    return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def bf16_bits(number):
    """float32 -> the bits of the nearest bfloat16, ties to even, in the low half of an int32."""
    bits = number.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF
    # The carry of a NaN's payload would run into its sign.
    return tl.where(number == number, rounded, 0x7FC0)


@triton.jit
def activation(pointers, mask, IS_BF16: tl.constexpr):
    """Load activations (bfloat16 ones as int16) as float32; 0 outside the mask."""
    if IS_BF16:
        return widened(tl.load(pointers, mask=mask, other=0))
    else:
        return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def value(address, index, mask, code):
    """Load an adapter's values, of the type `code` says, as float32; 0 outside the mask."""
    if code == BF16:
        found = widened(tl.load(address.to(tl.pointer_type(tl.uint16)) + index, mask=mask, other=0))
    else:
        if code == F16:
            half = tl.load(address.to(tl.pointer_type(tl.float16)) + index, mask=mask, other=0.0)
            found = half.to(tl.float32)
        else:
            found = tl.load(address.to(tl.pointer_type(tl.float32)) + index, mask=mask, other=0.0)
    return found


@triton.jit
def rounded_to(number, code):
    """float32 -> the nearest number of the type `code` says, as float32."""
    if code == BF16:
        number = widened(bf16_bits(number))
    else:
        if code == F16:
            number = number.to(tl.float16).to(tl.float32)
    return number


# -- the factored form


@triton.jit
def gated_tile(entry, outs, columns, d_out, d_in):
    """Z = B A and which of its entries are kept, for a tile: float32 and int1 [OUT, IN].

    The sum over r runs in order and every product is rounded (the launcher forbids to fuse them
    into fma), which any IEEE machine can repeat to the bit; that is what the exceptions rely on.
    """
    a = tl.load(entry + FIRST).to(tl.pointer_type(tl.float32))
    b = tl.load(entry + SECOND).to(tl.pointer_type(tl.float32))
    exceptions = tl.load(entry + THIRD).to(tl.pointer_type(tl.int32))
    rank = tl.load(entry + RANK).to(tl.int32)
    tau = tl.load(entry + TAU).to(tl.int32).to(tl.float32, bitcast=True)
    z = tl.full([outs.shape[0], columns.shape[0]], 0.0, tl.float32)
    for k in range(rank):
        row = tl.load(a + k * d_in + columns, mask=columns < d_in, other=0.0)
        column = tl.load(b + outs * rank + k, mask=outs < d_out, other=0.0)
        z = z + column[:, None] * row[None, :]
    keep = tl.abs(z) > tau
    where = outs[:, None] * d_in + columns[None, :]
    for i in range(tl.load(entry + EXCEPTIONS).to(tl.int32)):
        keep = keep ^ (where == tl.load(exceptions + i))
    return z, keep


@triton.jit
def factored_tile(entry, outs, columns, d_out, d_in):
    """scale * G(Z), rounded to the values' type: float32 [OUT, IN]."""
    z, keep = gated_tile(entry, outs, columns, d_out, d_in)
    scale = tl.load(entry + SCALE).to(tl.int32).to(tl.float32, bitcast=True)
    code = tl.load(entry + VALUES)
    return tl.where(keep, rounded_to(z * scale, code), 0.0)


@triton.jit
def mask_kernel(table, module, mask, d_out, d_in, OUT: tl.constexpr, IN: tl.constexpr):
    """Which entries a factored module keeps: int8 [d_out, d_in], by the arithmetic of serving."""
    outs = tl.program_id(0) * OUT + tl.arange(0, OUT)
    columns = tl.program_id(1) * IN + tl.arange(0, IN)
    _, keep = gated_tile(table + module * FIELDS, outs, columns, d_out, d_in)
    inside = (outs < d_out)[:, None] & (columns < d_in)[None, :]
    tl.store(mask + outs[:, None] * d_in + columns[None, :], keep.to(tl.int8), mask=inside)


# -- decode: one program a batch row and block of output rows


@triton.jit
def packed_row(entry, x, outs, d_out, IS_BF16: tl.constexpr, NNZ: tl.constexpr):
    """x D^T of one activation row, D packed: float32 [OUT]."""
    offsets = tl.load(entry + FIRST).to(tl.pointer_type(tl.int32))
    columns = tl.load(entry + SECOND).to(tl.pointer_type(tl.uint16))
    values = tl.load(entry + THIRD)
    code = tl.load(entry + VALUES)
    inside = outs < d_out
    starts = tl.load(offsets + outs, mask=inside, other=0)
    stops = tl.load(offsets + outs + 1, mask=inside, other=0)
    sums = tl.full([outs.shape[0], NNZ], 0.0, tl.float32)
    for k in range(0, tl.max(stops - starts, axis=0), NNZ):
        index = (starts + k)[:, None] + tl.arange(0, NNZ)[None, :]
        live = index < stops[:, None]
        column = tl.load(columns + index, mask=live, other=0).to(tl.int32)
        sums = tl.fma(value(values, index, live, code), activation(x + column, live, IS_BF16), sums)
    return tl.sum(sums, axis=1)


@triton.jit
def matrix_row(entry, kind, x, outs, d_out, d_in, IS_BF16: tl.constexpr, IN: tl.constexpr):
    """x D^T of one activation row, D dense or recomputed from factors: float32 [OUT]."""
    sums = tl.full([outs.shape[0], IN], 0.0, tl.float32)
    for start in range(0, d_in, IN):
        columns = start + tl.arange(0, IN)
        if kind == FACTORED:
            tile = factored_tile(entry, outs, columns, d_out, d_in)
        else:
            inside = (outs < d_out)[:, None] & (columns < d_in)[None, :]
            index = outs[:, None] * d_in + columns[None, :]
            tile = value(tl.load(entry + THIRD), index, inside, tl.load(entry + VALUES))
        sums = tl.fma(tile, activation(x + columns, columns < d_in, IS_BF16)[None, :], sums)
    return tl.sum(sums, axis=1)


@triton.jit
def low_rank_row(entry, x, outs, d_out, d_in, IS_BF16: tl.constexpr, IN: tl.constexpr):
    """x A^T B^T of one activation row: float32 [OUT]. Each program takes x A^T for itself."""
    a = tl.load(entry + FIRST).to(tl.pointer_type(tl.float32))
    b = tl.load(entry + SECOND).to(tl.pointer_type(tl.float32))
    rank = tl.load(entry + RANK).to(tl.int32)
    total = tl.full([outs.shape[0]], 0.0, tl.float32)
    for k in range(rank):
        sums = tl.full([IN], 0.0, tl.float32)
        for start in range(0, d_in, IN):
            columns = start + tl.arange(0, IN)
            row = tl.load(a + k * d_in + columns, mask=columns < d_in, other=0.0)
            sums = tl.fma(row, activation(x + columns, columns < d_in, IS_BF16), sums)
        column = tl.load(b + outs * rank + k, mask=outs < d_out, other=0.0)
        total = tl.fma(column, tl.sum(sums, axis=0), total)
    return total


@triton.jit(do_not_specialize=["module", "rows", "depth"])
def decode_kernel(
    lineages, module, rows, depth, x, y, x_stride, y_stride, d_out, d_in,
    IS_BF16: tl.constexpr, OUT: tl.constexpr, NNZ: tl.constexpr, IN: tl.constexpr,
):  # fmt: skip
    """y[row] += x[row] D^T for every slot of the row's lineage, oldest first.

    lineages int64 [depth, rows]: addresses of slot tables, 0 for none. The sum is kept in float32
    over the whole lineage and rounded to y's type once.
    """
    row = tl.program_id(0)
    outs = tl.program_id(1) * OUT + tl.arange(0, OUT)
    x += row.to(tl.int64) * x_stride
    y += row.to(tl.int64) * y_stride
    total = activation(y + outs, outs < d_out, IS_BF16)
    for position in range(depth):
        address = tl.load(lineages + position * rows + row)
        if address != 0:
            entry = address.to(tl.pointer_type(tl.int64)) + module * FIELDS
            kind = tl.load(entry)
            if kind == PACKED:
                total += packed_row(entry, x, outs, d_out, IS_BF16, NNZ)
            if (kind == DENSE) | (kind == FACTORED):
                total += matrix_row(entry, kind, x, outs, d_out, d_in, IS_BF16, IN)
            if kind == LOW_RANK:
                total += low_rank_row(entry, x, outs, d_out, d_in, IS_BF16, IN)
    if IS_BF16:
        tl.store(y + outs, bf16_bits(total).to(tl.int16), mask=outs < d_out)
    else:
        tl.store(y + outs, total, mask=outs < d_out)


# -- encode: one program a tile of tokens of one slot and block of output rows


@triton.jit
def packed_tokens(entry, x, tokens, live, n, outs, d_out, IS_BF16: tl.constexpr):
    """x D^T of a tile of tokens, D packed, x [d_in, n]: float32 [OUT, TOKENS].

    A non-zero multiplies a run of tokens, which lie side by side: that is why x is transposed.
    """
    offsets = tl.load(entry + FIRST).to(tl.pointer_type(tl.int32))
    columns = tl.load(entry + SECOND).to(tl.pointer_type(tl.uint16))
    values = tl.load(entry + THIRD)
    code = tl.load(entry + VALUES)
    inside = outs < d_out
    starts = tl.load(offsets + outs, mask=inside, other=0)
    stops = tl.load(offsets + outs + 1, mask=inside, other=0)
    sums = tl.full([outs.shape[0], tokens.shape[0]], 0.0, tl.float32)
    for k in range(tl.max(stops - starts, axis=0)):
        has = starts + k < stops
        column = tl.load(columns + starts + k, mask=has, other=0).to(tl.int32)
        weight = value(values, starts + k, has, code)
        xs = activation(
            x + column[:, None] * n + tokens[None, :], has[:, None] & live[None, :], IS_BF16
        )
        sums = tl.fma(weight[:, None], xs, sums)
    return sums


@triton.jit
def factored_tokens(
    entry, x, tokens, live, n, outs, d_out, d_in, IS_BF16: tl.constexpr, DOT_BF16: tl.constexpr,
    IN: tl.constexpr,
):  # fmt: skip
    """The same with D recomputed: each tile of D serves all tokens. Only x D^T is a tl.dot."""
    code = tl.load(entry + VALUES)
    sums = tl.full([outs.shape[0], tokens.shape[0]], 0.0, tl.float32)
    for start in range(0, d_in, IN):
        columns = start + tl.arange(0, IN)
        tile = factored_tile(entry, outs, columns, d_out, d_in)
        inside = (columns < d_in)[:, None] & live[None, :]
        pointers = x + columns[:, None] * n + tokens[None, :]
        if DOT_BF16:
            # Exact: the tile's numbers are bfloat16 already. Others must not be rounded to it.
            if code == BF16:
                bits = tl.load(pointers, mask=inside, other=0).to(tl.bfloat16, bitcast=True)
                sums = tl.dot(tile.to(tl.bfloat16), bits, sums)
            else:
                xs = activation(pointers, inside, IS_BF16)
                sums = tl.dot(tile, xs, sums, input_precision="ieee")
        else:
            xs = activation(pointers, inside, IS_BF16)
            sums = tl.dot(tile, xs, sums, input_precision="ieee")
    return sums


@triton.jit(do_not_specialize=["module", "n"])
def encode_kernel(
    tiles, module, n, x, y, y_stride, d_out, d_in,
    IS_BF16: tl.constexpr, DOT_BF16: tl.constexpr, OUT: tl.constexpr, TOKENS: tl.constexpr,
    IN: tl.constexpr,
):  # fmt: skip
    """y[tokens] += x[tokens] D^T for one slot a tile; packed and factored forms.

    tiles int64 [grid, 3]: a slot table's address, the first token, the token after the last.
    x is [d_in, n], y [n, y_stride].
    """
    tile = tiles + tl.program_id(0) * 3
    entry = tl.load(tile).to(tl.pointer_type(tl.int64)) + module * FIELDS
    kind = tl.load(entry)
    if (kind == PACKED) | (kind == FACTORED):
        tokens = tl.load(tile + 1).to(tl.int32) + tl.arange(0, TOKENS)
        live = tokens < tl.load(tile + 2)
        outs = tl.program_id(1) * OUT + tl.arange(0, OUT)
        if kind == PACKED:
            sums = packed_tokens(entry, x, tokens, live, n, outs, d_out, IS_BF16)
        else:
            sums = factored_tokens(
                entry, x, tokens, live, n, outs, d_out, d_in, IS_BF16, DOT_BF16, IN
            )
        pointers = y + tokens[None, :].to(tl.int64) * y_stride + outs[:, None]
        inside = (outs < d_out)[:, None] & live[None, :]
        total = activation(pointers, inside, IS_BF16) + sums
        if IS_BF16:
            tl.store(pointers, bf16_bits(total).to(tl.int16), mask=inside)
        else:
            tl.store(pointers, total, mask=inside)
