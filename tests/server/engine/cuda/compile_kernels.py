"""Compiles the kernels for compute capability 9.0 and prints what they became, as JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from jumplora_server.engine.cuda import attention, expansion, kernels, launch
from jumplora_server.engine.cuda.expanded import PLANES
from jumplora_server.engine.cuda.plan import TOKENS

HOPPER = GPUTarget("cuda", 90, 32)
INTS = ("module", "rows", "depth", "n", "x_stride", "y_stride", "d_out", "d_in", "width", "target",
        "source")  # fmt: skip


def compiled(
    kernel: Any,
    pointers: dict[str, str],
    constants: dict[str, Any],
    options: dict[str, Any] = launch.OPTIONS,
    *,
    is_aligned: bool = False,
) -> dict[str, Any]:
    """Counts of instructions and bytes of one variant.

    `is_aligned`: as a launch specialises it where addresses, sizes and strides divide by 16.
    """
    signature = {
        name: "constexpr" if name in constants else pointers.get(name, "i32")
        for name in kernel.arg_names
    }
    assert all(kind != "i32" or name in INTS for name, kind in signature.items()), signature
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(kernel.arg_names)
            if is_aligned and name not in constants and name != "module"
        },
    )
    made = triton.compile(source, target=HOPPER, options=options)
    ptx: str = made.asm["ptx"]
    return {
        "machine_code_bytes": len(made.asm["cubin"]),
        "fma": len(re.findall(r"\bfma\.rn\.f32", ptx)),
        "multiplications": len(re.findall(r"\bmul(\.rn)?\.f32", ptx)),
        "flushed_denormals": ptx.count(".ftz"),
        "wide_copies": len(re.findall(r"cp\.async\.cg", ptx)),
        "tensor_core": len(re.findall(r"\b(wgmma|mma)\.", ptx)),
        "tf32": ptx.count("tf32"),
        "spilled_bytes": spilled(made.asm["cubin"]),
    }


def spilled(cubin: bytes) -> int:
    """Bytes of stack a thread takes, as the tools that come with Triton report it."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    print(usage, file=sys.stderr)
    return sum(int(size) for size in re.findall(r"(?:STACK|LOCAL):(\d+)", usage))


def variants() -> dict[str, dict[str, Any]]:
    """Every variant a server launches."""
    found = {}
    for name, is_bf16 in (("float32", False), ("bfloat16", True)):
        kind = "*i16" if is_bf16 else "*fp32"
        found[f"decode {name}"] = compiled(
            kernels.decode_kernel,
            {"lineages": "*i64", "x": kind, "y": kind},
            {"IS_BF16": is_bf16, "OUT": launch.DECODE_OUT, "NNZ": launch.NNZ, "IN": launch.IN},
            launch.DECODE_OPTIONS,
        )
        found[f"encode {name}"] = compiled(
            kernels.encode_kernel,
            {"tiles": "*i64", "x": kind, "y": kind},
            {
                "IS_BF16": is_bf16, "DOT_BF16": is_bf16, "OUT": launch.OUT, "TOKENS": TOKENS,
                "IN": launch.IN,
            },
        )  # fmt: skip
        for values, planes in PLANES.items():
            found[f"multiply {name} by {str(values)[6:]}"] = compiled(
                expansion.multiply_kernel,
                {"tiles": "*i64", "scratch": "*i16", "x": kind, "y": kind},
                {
                    "IS_BF16": is_bf16,
                    "DOT_BF16": True,
                    "PLANES": planes,
                    **launch.multiply_blocks(is_bf16),
                },
                launch.multiply_options(is_bf16),
                is_aligned=True,
            )
        found[f"attend own {name}"] = compiled(
            attention.attend_own_kernel,
            {
                **dict.fromkeys(("qkv", "keys", "values", "out"), kind),
                "positions": "*i64", "is_live": "*i32", "bias": "*fp32",
            },
            {"HEADS": 16, "IS_BF16": is_bf16, "WIDTH": 64, "KEYS": launch.OWN_KEYS},
            launch.OWN_OPTIONS,
        )  # fmt: skip
        found[f"attend source {name}"] = compiled(
            attention.attend_source_kernel,
            {
                **dict.fromkeys(("q", "keys", "values", "out"), kind),
                "places": "*i64",
                "lengths": "*i64",
            },
            {"HEADS": 16, "IS_BF16": is_bf16, "WIDTH": 64, "KEYS": launch.SOURCE_KEYS},
            launch.SOURCE_OPTIONS,
        )
    for values, planes in PLANES.items():
        found[f"expand {str(values)[6:]}"] = compiled(
            expansion.expand_kernel,
            {"slots": "*i64", "scratch": "*i16"},
            {"PLANES": planes, **launch.EXPAND},
        )
    found["mask"] = compiled(
        kernels.mask_kernel, {"table": "*i64", "mask": "*i8"}, {"OUT": launch.OUT, "IN": launch.IN}
    )
    return found


if __name__ == "__main__":
    print(json.dumps(variants()))
