"""Encode deltas by expansion: packed modules as dense matrices in a scratch, then tensor cores.

A number is laid into the scratch as one, two or three bfloat16 numbers whose sum it is: bfloat16
values as they are, float16 and float32 ones in pieces. Float32 activations are cut in the same way.
So every product is one of bfloat16 numbers, which is exact, and sums are float32. Blocks are fixed
and each output has its own sum over the columns in order, so a token's bits do not depend on its
batch mates. `launch.add_expanded` calls these.
"""

# mypy: ignore-errors
# The bodies below are Triton's language, not Python's: its types are not annotations.
from __future__ import annotations

import triton
import triton.language as tl

from jumplora_server.engine.cuda import record
from jumplora_server.engine.cuda.kernels import activation, bf16_bits, value, widened

FIELDS = tl.constexpr(record.FIELDS)
VALUES = tl.constexpr(record.VALUES)
FIRST = tl.constexpr(record.FIRST)
SECOND = tl.constexpr(record.SECOND)
THIRD = tl.constexpr(record.THIRD)
PIECES = tl.constexpr(3)  # of a float32: 3 x 8 bits of significand


@triton.jit(do_not_specialize=["module"])
def expand_kernel(
    slots, module, scratch, d_out, rows, width,
    PLANES: tl.constexpr, OUT: tl.constexpr, NNZ: tl.constexpr, IN: tl.constexpr,
):  # fmt: skip
    """Write packed modules as matrices: scratch int16 [slots, PLANES, rows, width], all of it.

    rows is a multiple of OUT and width one of IN; what is past d_out and d_in is zero.
    """
    slot = tl.program_id(1)
    entry = tl.load(slots + slot).to(tl.pointer_type(tl.int64)) + module * FIELDS
    offsets = tl.load(entry + FIRST).to(tl.pointer_type(tl.int32))
    columns = tl.load(entry + SECOND).to(tl.pointer_type(tl.uint16))
    values = tl.load(entry + THIRD)
    code = tl.load(entry + VALUES)
    outs = tl.program_id(0) * OUT + tl.arange(0, OUT)
    inside = outs < d_out
    starts = tl.load(offsets + outs, mask=inside, other=0)
    stops = tl.load(offsets + outs + 1, mask=inside, other=0)
    plane = rows.to(tl.int64) * width
    matrix = scratch + slot.to(tl.int64) * PLANES * plane
    lines = outs.to(tl.int64)[:, None] * width
    for start in range(0, width, IN):
        where = matrix + lines + start + tl.arange(0, IN)[None, :]
        for p in tl.static_range(PLANES):
            tl.store(where + p * plane, tl.full([OUT, IN], 0, tl.int16))
    # The same program writes the same places again, by other threads.
    tl.debug_barrier()
    for k in range(0, tl.max(stops - starts, axis=0), NNZ):
        index = (starts + k)[:, None] + tl.arange(0, NNZ)[None, :]
        live = index < stops[:, None]
        column = tl.load(columns + index, mask=live, other=0).to(tl.int32)
        rest = value(values, index, live, code)
        for p in tl.static_range(PLANES):
            bits = bf16_bits(rest)
            tl.store(matrix + lines + column + p * plane, bits.to(tl.int16), mask=live)
            rest -= widened(bits)


@triton.jit
def operand(numbers, DOT_BF16: tl.constexpr):
    """float32 numbers that are bfloat16 ones, as tl.dot takes them."""
    if DOT_BF16:
        return numbers.to(tl.bfloat16)
    else:
        return numbers


@triton.jit
def matrix_tile(pointers, DOT_BF16: tl.constexpr):
    """A tile of the scratch, as tl.dot takes it."""
    if DOT_BF16:
        return tl.load(pointers.to(tl.pointer_type(tl.bfloat16), bitcast=True))
    else:
        return widened(tl.load(pointers))


@triton.jit
def multiply_kernel(
    tiles, scratch, x, y, x_stride, y_stride, d_out, d_in, rows, width,
    IS_BF16: tl.constexpr, DOT_BF16: tl.constexpr, PLANES: tl.constexpr,
    TOKENS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr,
):  # fmt: skip
    """y[tokens] += x[tokens] D^T, one matrix of the scratch a tile.

    tiles int64 [grid, 3]: which matrix, the first token, the token after the last.
    x is [n, x_stride], y [n, y_stride]. Without DOT_BF16 (Triton's interpreter multiplies the bits
    of bfloat16 numbers) the same numbers are multiplied as float32.
    """
    tile = tiles + tl.program_id(1) * 3
    tokens = tl.load(tile + 1) + tl.arange(0, TOKENS)
    live = tokens < tl.load(tile + 2)
    outs = tl.program_id(0) * OUT + tl.arange(0, OUT)
    steps = tl.arange(0, IN)
    plane = rows.to(tl.int64) * width
    matrix = scratch + tl.load(tile) * PLANES * plane
    # Columns by rows: the second operand of the product.
    matrices = matrix + outs.to(tl.int64)[None, :] * width + steps[:, None]
    inputs = x + tokens[:, None] * x_stride + steps[None, :]
    sums = tl.full([TOKENS, OUT], 0.0, tl.float32)
    for start in range(0, width, IN):
        inside = live[:, None] & (start + steps < d_in)[None, :]
        if IS_BF16 and DOT_BF16:
            xs = tl.load(inputs.to(tl.pointer_type(tl.bfloat16), bitcast=True) + start,
                         mask=inside, other=0.0)  # fmt: skip
            for p in tl.static_range(PLANES):
                sums = tl.dot(xs, matrix_tile(matrices + p * plane + start, True), sums)
        else:
            xs = activation(inputs + start, inside, IS_BF16)
            # Tensor cores cut off what they add up, so only this block's sum is left to them.
            part = tl.full([TOKENS, OUT], 0.0, tl.float32)
            for p in tl.static_range(PLANES):
                delta = matrix_tile(matrices + p * plane + start, DOT_BF16)
                rest = xs
                # Products of two late pieces are below a float32's rounding.
                for _ in tl.static_range(1 if IS_BF16 else PIECES - p):
                    piece = widened(bf16_bits(rest))
                    part = tl.dot(operand(piece, DOT_BF16), delta, part, input_precision="ieee")
                    rest -= piece
            sums += part
    pointers = y + tokens[:, None] * y_stride + outs[None, :]
    inside = live[:, None] & (outs < d_out)[None, :]
    total = activation(pointers, inside, IS_BF16) + sums
    if IS_BF16:
        tl.store(pointers, bf16_bits(total).to(tl.int16), mask=inside)
    else:
        tl.store(pointers, total, mask=inside)
