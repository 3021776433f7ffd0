"""What an engine keeps of its checkpoint: its own tensors, and the open file where it can fold."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from decoding import make_sequence, oracle, run
from factories import tiny_t5
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.errors import BackboneError
from jumplora_server.core import Kernels
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.linear import quantise_weight
from jumplora_server.engine.native.library import why_unavailable
from jumplora_server.engine.weights import StoredTensors

native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
PATHS = [
    pytest.param("float32", "native", marks=native),
    pytest.param("int8", "native", marks=native),
    ("float32", "torch"),
    ("int8", "torch"),
    ("bfloat16", "torch"),
]
PROMPT = [17, 4, 250, 93, 1]


def mapped(file: Path) -> list[str]:
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return [line for line in maps if line.endswith(str(file))]


def opened(file: Path) -> list[str]:
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return [link for link in links if os.path.realpath(link) == str(file)]


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=["stored32", "stored16"])
@pytest.mark.parametrize(("dtype", "kernels"), PATHS)
def test_a_loaded_engine_computes_without_the_file(
    tmp_path: Path, dtype: str, kernels: Kernels, stored: torch.dtype
) -> None:
    folder = tiny_t5(tmp_path, style="v1.0", dtype=stored)
    file = (folder / "model.safetensors").resolve()
    engine = Engine(
        folder, dtype=dtype, kernels=kernels, max_rows=4, max_source_tokens=16, max_target_tokens=12
    )
    gc.collect()
    assert mapped(file) == []
    assert bool(opened(file)) == engine.can_fold
    expected = oracle(folder, PROMPT, [], max_new_tokens=8) if dtype == "float32" else None
    file.write_bytes(bytes(file.stat().st_size))  # what would show through a map
    [tokens] = run(engine, [make_sequence(PROMPT, row=0, sampling=None)])
    assert len(tokens) > 0
    if expected is not None:
        assert tokens[: len(expected)] == expected


def test_tensors_are_copies_in_their_stored_dtype(tmp_path: Path) -> None:
    folder = tiny_t5(tmp_path, style="v1.0", dtype=torch.bfloat16)
    file = (folder / "model.safetensors").resolve()
    weights = StoredTensors(read_backbone(folder).checkpoint)
    whole = load_file(file)
    shared = weights["shared.weight"]
    assert shared.dtype == torch.bfloat16
    assert torch.equal(shared, whole["shared.weight"])
    assert torch.equal(weights["lm_head.weight"], shared)
    assert weights["shared.weight"].data_ptr() != shared.data_ptr()
    assert len(weights) == len(set(weights)) == len(dict(weights))
    assert "encoder.nothing" not in weights


def test_a_file_that_is_cut_while_it_is_read_is_a_backbone_error(tmp_path: Path) -> None:
    folder = tiny_t5(tmp_path)
    weights = StoredTensors(read_backbone(folder).checkpoint)
    os.truncate(folder / "model.safetensors", 4096)
    with pytest.raises(BackboneError, match=r"shared\.weight of .* cannot be read"):
        weights["shared.weight"]


RESIDENT = """
import os
import torch
from jumplora_server.engine.memory import lazy_zeros, lean_memory

def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

torch.ones(1 << 16).clone().sum()  # what torch sets up at first
before = resident_bytes()
"""
LAZY = """
zeros = lazy_zeros((64, 1024, 1024), torch.{dtype})
zeros[5, 3] = 1
print(resident_bytes() - before)
assert zeros.shape == (64, 1024, 1024)
assert zeros[5].sum() == 1024
assert not zeros[4].any()
"""
LOAD = """
kept = []
with lean_memory():
    for _ in range(16):
        temporary = torch.ones(2 << 20)  # 8 MB, and beside it what is kept of it
        kept.append(temporary[: 1 << 17].clone())
        del temporary
assert sum(tensor.nbytes for tensor in kept) == 8 << 20
print(resident_bytes() - before)
"""


def growth(code: str) -> int:
    """Bytes by which `code` says that a process of its own grows: here earlier tests would count,
    and later ones would have its settings of malloc."""
    ended = subprocess.run(
        [sys.executable, "-c", RESIDENT + code], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lazy_zeros_cost_what_is_written(dtype: str) -> None:
    assert growth(LAZY.format(dtype=dtype)) < 16 << 20


def test_what_a_load_frees_goes_back() -> None:
    assert growth(LOAD) < 24 << 20  # 121 MB without lean_memory


def test_parts_of_a_weight_are_quantised_as_the_whole() -> None:
    weight = torch.randn(2500, 2048, generator=torch.Generator().manual_seed(0))  # two parts
    scale, values = quantise_weight(weight)
    whole = weight.abs().amax(dim=1) / 127
    assert torch.equal(scale, whole)
    assert torch.equal(values, (weight / whole[:, None]).round().to(torch.int8))
