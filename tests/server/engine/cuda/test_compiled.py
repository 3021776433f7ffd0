"""Every kernel compiles for Hopper (H100, H200), down to machine code: no GPU is needed for that.

In a process of its own, because Triton decides at import whether it interprets or compiles.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMPILE = Path(__file__).with_name("compile_kernels.py")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, str(COMPILE)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def test_all_variants_become_machine_code(compiled: dict[str, dict[str, Any]]) -> None:
    types = ("float32", "float16", "bfloat16")
    assert set(compiled) == {
        "decode float32", "decode bfloat16", "encode float32", "encode bfloat16", "mask",
        *(f"attend {what} {x}" for what in ("own", "source") for x in ("float32", "bfloat16")),
        *(f"expand {values}" for values in types),
        *(f"multiply {x} by {values}" for x in ("float32", "bfloat16") for values in types),
    }  # fmt: skip
    assert all(variant["machine_code_bytes"] > 0 for variant in compiled.values())


def test_the_mask_is_computed_without_fma_and_with_denormals(
    compiled: dict[str, dict[str, Any]],
) -> None:
    assert compiled["mask"]["fma"] == 0
    assert compiled["mask"]["multiplications"] > 0
    assert all(variant["flushed_denormals"] == 0 for variant in compiled.values())


def test_bfloat16_encodes_and_expanded_products_use_tensor_cores(
    compiled: dict[str, dict[str, Any]],
) -> None:
    used = {name for name, variant in compiled.items() if variant["tensor_core"]}
    products = {name for name in compiled if name.startswith("multiply")}
    assert used == {"encode bfloat16"} | products
    assert not any(variant["tf32"] for variant in compiled.values())
    # Tiles are fetched ahead, 16 bytes a thread.
    assert all(compiled[name]["wide_copies"] for name in products)


def test_no_kernel_spills_registers(compiled: dict[str, dict[str, Any]]) -> None:
    assert {name: variant["spilled_bytes"] for name, variant in compiled.items()} == dict.fromkeys(
        compiled, 0
    )
