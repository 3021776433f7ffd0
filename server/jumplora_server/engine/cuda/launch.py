"""Launches the kernels: block sizes, strides and types, and nothing else.

Block sizes are fixed, never tuned at run time: another size is another order of summation. They
are the fastest of those that the benchmark `gpu_kernels` tries on an H100. `reference.py` has the
same functions.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
from torch import Tensor

from jumplora_server.engine.cuda import attention, expansion, kernels
from jumplora_server.engine.cuda.expanded import COLUMNS, EXPANDED_TOKENS, LINES, Chunk, Scratch
from jumplora_server.engine.cuda.plan import TOKENS, Kernels, OwnStep

OUT: Final = 16  # output rows a program of an encode
DECODE_OUT: Final = 8  # output rows a program of a decode step
NNZ: Final = 32  # non-zeros of one output row at a time: a warp's 64 bytes of columns
IN: Final = 32  # columns of a tile of a matrix

# Every product is rounded before it is added (kernels.gated_tile says why); sums of deltas use fma
# explicitly.
OPTIONS: Final = {"num_warps": 4, "enable_fp_fusion": False}
DECODE_OPTIONS: Final = {**OPTIONS, "num_warps": 1}

OWN_KEYS: Final = 32  # keys of a block: answers are short
OWN_OPTIONS: Final = {"num_warps": 2}
SOURCE_KEYS: Final = 64
SOURCE_OPTIONS: Final = {"num_warps": 4}

EXPAND: Final = {"OUT": 8, "NNZ": 64, "IN": COLUMNS}  # a matrix is a multiple of both


def multiply_blocks(is_bf16: bool) -> dict[str, int]:
    """Tokens, output rows and columns of a product; float32 keeps two sums of an output."""
    return {"TOKENS": EXPANDED_TOKENS, "OUT": LINES if is_bf16 else LINES // 2, "IN": COLUMNS}


def multiply_options(is_bf16: bool) -> dict[str, object]:
    """float32 tiles are twice as wide: a third stage of them would not fit shared memory."""
    return {**OPTIONS, "num_warps": 8, "num_stages": 3 if is_bf16 else 2}


def add_decode(lineages: Tensor, module: int, x: Tensor, y: Tensor) -> None:
    """y[row] += x[row] D^T for every slot of each row's lineage, in one launch.

    Args:
        lineages: int64 [depth, rows], addresses of slot tables, oldest ancestor first; 0 for none.
        module: its number in the tables.
        x: [rows, d_in], float32 or bfloat16.
        y: [rows, d_out], a column slice of something wider or not.
    """
    depth, rows = lineages.shape
    d_out, d_in = y.shape[1], x.shape[1]
    kernels.decode_kernel[(rows, -(-d_out // DECODE_OUT))](
        lineages, module, rows, depth, _bits(x), _bits(y), x.stride(0), y.stride(0), d_out, d_in,
        IS_BF16=x.dtype == torch.bfloat16, OUT=DECODE_OUT, NNZ=NNZ, IN=IN, **DECODE_OPTIONS,
    )  # fmt: skip


def add_encode(tiles: Tensor, module: int, x: Tensor, y: Tensor) -> None:
    """y[tokens] += x[tokens] D^T for the slot of every tile; packed and factored forms only.

    Args:
        tiles: int64 [n_tiles, 3]: a slot table's address, first token, token after the last.
        x: [d_in, n], float32 or bfloat16: transposed, so that a non-zero meets tokens in a run.
        y: [n, d_out], a column slice of something wider or not.
    """
    d_in, n = x.shape
    d_out = y.shape[1]
    is_bf16 = x.dtype == torch.bfloat16
    kernels.encode_kernel[(tiles.shape[0], -(-d_out // OUT))](
        tiles, module, n, _bits(x), _bits(y), y.stride(0), d_out, d_in,
        # The interpreter multiplies the bits of bfloat16 numbers in a dot.
        IS_BF16=is_bf16, DOT_BF16=is_bf16 and x.is_cuda,
        OUT=OUT, TOKENS=TOKENS, IN=IN, **OPTIONS,
    )  # fmt: skip


def add_expanded(chunk: Chunk, module: int, x: Tensor, y: Tensor, scratch: Scratch) -> None:
    """y[tokens] += x[tokens] D^T for the tiles of a chunk; packed forms only.

    Args:
        x: [n, d_in], float32 or bfloat16, columns side by side.
        y: [n, d_out], a column slice of something wider or not.
        scratch: its content is lost.
    """
    d_out, d_in = y.shape[1], x.shape[1]
    is_bf16 = x.dtype == torch.bfloat16
    matrices = scratch.matrices(chunk, (d_out, d_in), x.device)
    rows, width = matrices.shape[2:]
    blocks = multiply_blocks(is_bf16)
    expansion.expand_kernel[(rows // EXPAND["OUT"], chunk.slots.shape[0])](
        chunk.slots, module, matrices, d_out, rows, width, PLANES=chunk.planes, **EXPAND, **OPTIONS
    )
    expansion.multiply_kernel[(rows // blocks["OUT"], chunk.tiles.shape[0])](
        chunk.tiles, matrices, _bits(x), _bits(y), x.stride(0), y.stride(0), d_out, d_in, rows,
        width, IS_BF16=is_bf16, DOT_BF16=x.is_cuda, PLANES=chunk.planes, **blocks,
        **multiply_options(is_bf16),
    )  # fmt: skip


def attend_own(qkv: Tensor, keys: Tensor, values: Tensor, step: OwnStep, bias: Tensor) -> Tensor:
    """Store each live row's new key and value, and attend to its keys so far: [rows, inner].

    Args:
        qkv: [rows, 3 * inner], q, k and v side by side.
        keys, values: one layer's cache, [.., heads, target, d_kv].
        bias: float32 [heads, target], by how many steps a key is before the query.
    """
    _, heads, target, width = keys.shape
    rows = qkv.shape[0]
    out = torch.empty(rows, heads * width, dtype=qkv.dtype, device=qkv.device)
    attention.attend_own_kernel[(rows, heads)](
        _bits(qkv), _bits(keys), _bits(values), step.positions, step.is_live, bias, _bits(out),
        target, width, HEADS=heads, IS_BF16=qkv.dtype == torch.bfloat16,
        WIDTH=triton.next_power_of_2(width), KEYS=OWN_KEYS, **OWN_OPTIONS,
    )  # fmt: skip
    return out


def attend_source(
    q: Tensor, keys: Tensor, values: Tensor, places: Tensor, lengths: Tensor
) -> Tensor:
    """Attend to each row's prompt: [rows, inner].

    Args:
        q: [rows, inner].
        keys, values: one layer's cache, [places, heads, source, d_kv].
        places: int64 [rows], where each row's prompt lies.
        lengths: int64 [places], tokens of the prompts.
    """
    _, heads, source, width = keys.shape
    out = torch.empty_like(q)
    attention.attend_source_kernel[(q.shape[0], heads)](
        _bits(q), _bits(keys), _bits(values), places, lengths, _bits(out), source, width,
        HEADS=heads, IS_BF16=q.dtype == torch.bfloat16, WIDTH=triton.next_power_of_2(width),
        KEYS=SOURCE_KEYS, **SOURCE_OPTIONS,
    )  # fmt: skip
    return out


def kept(table: Tensor, module: int, shape: tuple[int, int]) -> Tensor:
    """Which entries a factored module keeps, by the arithmetic of serving: bool [d_out, d_in].

    Args:
        table: the slot's pool, uint8.
    """
    d_out, d_in = shape
    mask = torch.empty(shape, dtype=torch.int8, device=table.device)
    kernels.mask_kernel[(-(-d_out // OUT), -(-d_in // IN))](
        table.view(torch.int64), module, mask, d_out, d_in, OUT=OUT, IN=IN, **OPTIONS
    )
    return mask.bool()


def _bits(x: Tensor) -> Tensor:
    """bfloat16 as int16, which is how the kernels read and write it."""
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


TRITON: Final = Kernels(
    add_decode=add_decode,
    add_encode=add_encode,
    add_expanded=add_expanded,
    kept=kept,
    attend_own=attend_own,
    attend_source=attend_source,
)
