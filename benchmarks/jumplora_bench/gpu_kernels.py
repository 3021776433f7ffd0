"""Each GPU kernel alone, beside the least time that its bytes take; run on a machine with a GPU.

    PYTHONPATH=server:adapters python -m jumplora_bench.gpu_kernels [--out FOLDER]

64 rows of 64 tasks on one 1024 x 1024 module, as one projection of T5-large. Every launch takes the
slots of another module copy, so that no version finds its adapter in the cache. Medians of events
around CUDA graph replays.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from jumplora_adapters.delta import SparseDelta, pack_mask
from jumplora_server.engine.cuda import expansion, kernels
from jumplora_server.engine.cuda.expanded import Chunk, Scratch, make_chunks
from jumplora_server.engine.cuda.forms import place
from jumplora_server.engine.cuda.launch import OPTIONS, add_expanded
from jumplora_server.engine.cuda.pool import Pool
from jumplora_server.engine.cuda.upload import Uploader

ROWS, SIZE, TOKENS_IN, COPIES, REPEATS = 64, 1024, 128, 16, 20
DENSITIES = (0.051, 0.124)


def slots_of(density: float, device: torch.device) -> list[Tensor]:
    """One pool a row, with COPIES modules of independent supports, bfloat16 values."""
    generator = torch.Generator(device=device).manual_seed(7)
    uploader, pools = Uploader(device), []
    for _ in range(ROWS):
        pool = Pool(COPIES)
        for module in range(COPIES):
            keep = torch.rand(SIZE, SIZE, generator=generator, device=device) < density
            values = torch.randn(int(keep.sum()), generator=generator, device=device) * 0.01
            delta = SparseDelta((SIZE, SIZE), pack_mask(keep.cpu()), values.bfloat16().cpu())
            pool.describe(module, place(pool, delta, None))
        pools.append(uploader.upload(pool.nbytes, pool.write))
    return pools


def microseconds(launch: Callable[[int], None]) -> float:
    """Median microseconds of one launch, over replays of a graph of COPIES launches."""
    for module in range(COPIES):
        launch(module)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for module in range(COPIES):
            launch(module)
    laps = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        laps.append(begin.elapsed_time(end) * 1000 / COPIES)
    return float(statistics.median(laps))


def decode(
    pools: list[Tensor], device: torch.device, out: int, nnz: int, warps: int, registers: int = 255
) -> float:
    lineages = torch.tensor([[pool.data_ptr() for pool in pools]], device=device)
    x = torch.randn(ROWS, SIZE, device=device).bfloat16().view(torch.int16)
    y = torch.randn(ROWS, SIZE, device=device).bfloat16().view(torch.int16)
    # As served (80 registers) an H100's multiprocessor holds 25 programs of a warp at a time.
    options = {**OPTIONS, "num_warps": warps, "maxnreg": registers}

    def launch(module: int) -> None:
        kernels.decode_kernel[(ROWS, -(-SIZE // out))](
            lineages, module, ROWS, 1, x, y, SIZE, SIZE, SIZE, SIZE,
            IS_BF16=True, OUT=out, NNZ=nnz, IN=32, **options,
        )  # fmt: skip

    return microseconds(launch)


def encode(pools: list[Tensor], device: torch.device, out: int, tokens: int, warps: int) -> float:
    n = ROWS * TOKENS_IN
    tiles = torch.tensor(
        [
            (pool.data_ptr(), first, first + tokens)
            for row, pool in enumerate(pools)
            for first in range(row * TOKENS_IN, (row + 1) * TOKENS_IN, tokens)
        ],
        device=device,
    )
    x = torch.randn(SIZE, n, device=device).bfloat16().view(torch.int16)
    y = torch.randn(n, SIZE, device=device).bfloat16().view(torch.int16)
    options = {**OPTIONS, "num_warps": warps}

    def launch(module: int) -> None:
        kernels.encode_kernel[(len(tiles), -(-SIZE // out))](
            tiles, module, n, x, y, SIZE, SIZE, SIZE,
            IS_BF16=True, DOT_BF16=True, OUT=out, TOKENS=tokens, IN=32, **options,
        )  # fmt: skip

    return microseconds(launch)


def expand(
    pools: list[Tensor], device: torch.device, out: int, nnz: int, columns: int, warps: int
) -> float:
    """All matrices at once: the first half of an expanded encode."""
    slots = torch.tensor([pool.data_ptr() for pool in pools], device=device)
    scratch = torch.empty(ROWS, 1, SIZE, SIZE, dtype=torch.int16, device=device)
    options = {**OPTIONS, "num_warps": warps}

    def launch(module: int) -> None:
        expansion.expand_kernel[(SIZE // out, ROWS)](
            slots, module, scratch, SIZE, SIZE, SIZE, PLANES=1, OUT=out, NNZ=nnz, IN=columns,
            **options,
        )  # fmt: skip

    return microseconds(launch)


def multiply(
    pools: list[Tensor], device: torch.device, tokens: int, out: int, columns: int, warps: int,
    stages: int,
) -> float:  # fmt: skip
    """All matrices at once: the second half of an expanded encode."""
    n = ROWS * TOKENS_IN
    tiles = torch.tensor(
        [
            (row, first, first + tokens)
            for row in range(ROWS)
            for first in range(row * TOKENS_IN, (row + 1) * TOKENS_IN, tokens)
        ],
        device=device,
    )
    matrices = torch.randn(ROWS, 1, SIZE, SIZE, device=device).bfloat16().view(torch.int16)
    x = torch.randn(n, SIZE, device=device).bfloat16().view(torch.int16)
    y = torch.randn(n, SIZE, device=device).bfloat16().view(torch.int16)
    options = {**OPTIONS, "num_warps": warps, "num_stages": stages}

    def launch(_: int) -> None:
        expansion.multiply_kernel[(SIZE // out, len(tiles))](
            tiles, matrices, x, y, SIZE, SIZE, SIZE, SIZE, SIZE, SIZE, IS_BF16=True,
            DOT_BF16=True, PLANES=1, TOKENS=tokens, OUT=out, IN=columns, **options,
        )  # fmt: skip

    return microseconds(launch)


def expanded(pools: list[Tensor], device: torch.device, mebibytes: int) -> float:
    """Both halves as served, in chunks of what a scratch of that size holds."""
    scratch = Scratch(mebibytes << 20)
    spans = [(p.data_ptr(), i * TOKENS_IN, (i + 1) * TOKENS_IN) for i, p in enumerate(pools)]
    chunks = [
        Chunk(torch.tensor(slots, device=device), torch.tensor(tiles, device=device), 1)
        for slots, tiles in make_chunks(spans, scratch.capacity(1, (SIZE, SIZE)))
    ]
    x = torch.randn(ROWS * TOKENS_IN, SIZE, device=device).bfloat16()
    y = torch.randn(ROWS * TOKENS_IN, SIZE, device=device).bfloat16()

    def launch(module: int) -> None:
        for chunk in chunks:
            add_expanded(chunk, module, x, y, scratch)

    return microseconds(launch)


def copy_rate(device: torch.device) -> float:
    """Bytes a second of a device-to-device copy of 2 GiB, read and written."""
    source = torch.empty(1 << 31, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    laps = []
    for _ in range(10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        laps.append(begin.elapsed_time(end) / 1000)
    return float(2 * source.numel() / statistics.median(laps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", default=[], help="kernels to measure; else all")
    parser.add_argument("--densities", nargs="+", type=float, default=DENSITIES)
    parser.add_argument("--variants", type=int, help="the first so many of each kernel; else all")
    arguments = parser.parse_args()
    device = torch.device("cuda")
    rate = copy_rate(device)
    print(f"{torch.cuda.get_device_name(device)}, copy {rate / 1e12:.2f} TB/s")
    rows: list[dict[str, object]] = []
    for density in arguments.densities:
        pools = slots_of(density, device)
        floor = ROWS * (4 * density * SIZE * SIZE + 4 * (SIZE + 1)) / rate * 1e6
        for name, measure, variants in (
            ("decode", decode, DECODE), ("encode", encode, ENCODE), ("expand", expand, EXPAND),
            ("multiply", multiply, MULTIPLY), ("expanded", expanded, SCRATCH),
        ):  # fmt: skip
            if arguments.only and name not in arguments.only:
                continue
            for variant in variants[: arguments.variants]:
                found = measure(pools, device, *variant)
                row = {"kernel": name, "density": density, "variant": variant}
                rows.append({**row, "us": round(found, 1), "bytes_floor_us": round(floor, 1)})
                print(rows[-1], flush=True)
    if arguments.out is not None:
        (arguments.out / "gpu-kernels.json").write_text(json.dumps(rows, indent=1) + "\n")


# (output rows a program, non-zeros at a time or tokens a tile, warps, for some the most registers);
# first: as served.
DECODE = ((8, 32, 1), (8, 64, 1), (8, 32, 1, 64), (8, 64, 1, 96), (16, 64, 1), (4, 128, 1),
          (8, 128, 1), (16, 32, 4), (16, 32, 2), (16, 32, 1), (8, 32, 2), (4, 64, 1), (8, 64, 4),
          (16, 64, 4), (32, 32, 8), (8, 128, 4), (4, 128, 2), (2, 128, 1))  # fmt: skip
ENCODE = ((16, 64, 4), (16, 64, 2), (8, 64, 2), (8, 64, 1), (32, 64, 8), (8, 128, 4), (16, 128, 4),
          (4, 128, 2), (16, 128, 8), (32, 128, 8))  # fmt: skip
# (output rows a program, non-zeros at a time, columns zeroed at a time, warps)
EXPAND = ((16, 64, 64, 4), (8, 64, 64, 4), (8, 64, 256, 4), (16, 32, 128, 4), (32, 64, 64, 8),
          (8, 64, 128, 2), (4, 64, 256, 2))  # fmt: skip
# (tokens, output rows, columns at a time, warps, stages)
MULTIPLY = ((128, 128, 64, 8, 3), (128, 128, 64, 4, 3), (64, 128, 64, 4, 3), (64, 128, 64, 4, 4),
            (128, 256, 64, 8, 3), (64, 256, 64, 4, 3), (128, 128, 64, 8, 4))  # fmt: skip
SCRATCH = ((128,), (64,), (32,), (16,))  # MiB

if __name__ == "__main__":
    main()
