"""Attention of a decode step: one query a row over that row's cache, in one launch.

A program takes one row and head and reads only the keys that are there, in blocks from the first
one on: a row's bits depend neither on its batch mates nor on how far lengths are padded.
`launch.attend_own` and `launch.attend_source` call these.
"""

# mypy: ignore-errors
# The bodies below are Triton's language, not Python's: its types are not annotations.
from __future__ import annotations

import triton
import triton.language as tl

from jumplora_server.engine.cuda.kernels import activation, bf16_bits


@triton.jit
def put(pointers, numbers, mask, IS_BF16: tl.constexpr):
    """Store float32 numbers in the activations' type."""
    if IS_BF16:
        tl.store(pointers, bf16_bits(numbers).to(tl.int16), mask=mask)
    else:
        tl.store(pointers, numbers, mask=mask)


@triton.jit
def read_keys(
    q, keys, values, bias, count, width, best, mass, read,
    HAS_BIAS: tl.constexpr, IS_BF16: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Softmax of q over keys 0 to count - 1 of [.., width], continuing from what was read before.

    bias points at the newest key; the key before it has the next number.

    Returns:
        best, mass, read: the highest score, the sum of e^(score - best), that of weighted values.
    """
    dims = tl.arange(0, WIDTH)
    for start in range(0, count, KEYS):
        at = start + tl.arange(0, KEYS)
        has = at < count
        where = at[:, None] * width + dims[None, :]
        inside = has[:, None] & (dims < width)[None, :]
        k = activation(keys + where, inside, IS_BF16)
        v = activation(values + where, inside, IS_BF16)
        scores = tl.sum(k * q[None, :], axis=1)
        if HAS_BIAS:
            scores += tl.load(bias + count - at, mask=has, other=0.0)
        scores = tl.where(has, scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, axis=0))
        scale = tl.exp(best - higher)
        weights = tl.exp(scores - higher)
        mass = mass * scale + tl.sum(weights, axis=0)
        read = read * scale + tl.sum(weights[:, None] * v, axis=0)
        best = higher
    return best, mass, read


@triton.jit
def attend_own_kernel(
    qkv, keys, values, positions, is_live, bias, out, target, width,
    HEADS: tl.constexpr, IS_BF16: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Store a row's new key and value at its position, and attend to all up to that.

    qkv [rows, 3, HEADS, width]; keys, values [.., HEADS, target, width]; out [rows, HEADS, width];
    bias float32 [HEADS, target], by how many steps a key is away. Rows that are not live store
    nothing.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dims = tl.arange(0, WIDTH)
    inside = dims < width
    inner = HEADS * width
    new = qkv + row * 3 * inner + head * width + dims
    q = activation(new, inside, IS_BF16)
    k = activation(new + inner, inside, IS_BF16)
    v = activation(new + 2 * inner, inside, IS_BF16)
    position = tl.load(positions + row)
    cache = (row * HEADS + head) * target * width
    if tl.load(is_live + row) != 0:
        put(keys + cache + position * width + dims, k, inside, IS_BF16)
        put(values + cache + position * width + dims, v, inside, IS_BF16)
    # The new key comes from registers: what this program has just stored it may not see yet.
    bias += head * target
    best = tl.sum(q * k, axis=0) + tl.load(bias)
    _, mass, read = read_keys(
        q, keys + cache, values + cache, bias, position, width,
        best, tl.full([], 1.0, tl.float32), v,
        True, IS_BF16, WIDTH, KEYS,
    )  # fmt: skip
    put(out + row * inner + head * width + dims, read / mass, inside, IS_BF16)


@triton.jit
def attend_source_kernel(
    q, keys, values, places, lengths, out, source, width,
    HEADS: tl.constexpr, IS_BF16: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Attend to a row's prompt.

    q, out [rows, HEADS, width]; keys, values [.., HEADS, source, width]; places int64 [rows], where
    a row's prompt lies in them; lengths [..] by place. A place that never had a prompt is not read
    and gives zeros.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dims = tl.arange(0, WIDTH)
    inside = dims < width
    here = row * HEADS * width + head * width + dims
    place = tl.load(places + row)
    cache = (place * HEADS + head) * source * width
    _, mass, read = read_keys(
        activation(q + here, inside, IS_BF16), keys + cache, values + cache, lengths,
        tl.load(lengths + place), width, tl.full([], float("-inf"), tl.float32),
        tl.full([], 0.0, tl.float32), tl.full([WIDTH], 0.0, tl.float32),
        False, IS_BF16, WIDTH, KEYS,
    )  # fmt: skip
    # What was read has at least the mass 1, its best key's.
    put(out + here, read / tl.maximum(mass, 1.0), inside, IS_BF16)
