"""Passes through tries on the GPU runner: the torch runner's numbers, by the kernels of its deltas.

Interpreted where there is no GPU; where there is one, rows of the same step replay their graph.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from decoding import make_sequence
from device_slots import CPU, DEVICE, adapter_of
from factories import random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import Delta, SparseDelta
from jumplora_adapters.format import Adapter
from jumplora_server.core import EngineLimits, Sampling, Sequence
from jumplora_server.engine.cuda.runner import CudaRunner
from jumplora_server.engine.torch_runner import Lineage, TorchRunner
from jumplora_server.engine.weights import StoredTensors
from tries import EOS, choosing, computed, whole_pass

TAU, RANK, ALPHA = 0.9, 4, 2.0
LIMITS = EngineLimits(max_rows=8, max_source_tokens=64, max_target_tokens=16, end_token_ids=(EOS,))
LINEAGES = ((), ("a",), ("gated",), ("lora",), ("a", "gated", "full"))
OPTIONS = (
    [[7], [9]],
    [[7, EOS], [7, 8, EOS]],
    [[9, 8, EOS], [9, 7, EOS], [EOS]],
    [[11], [12, EOS]],
    [[7, 8, 9, EOS], [8, EOS]],
)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder: Path = tmp_path_factory.mktemp("nodes")
    tiny = tiny_t5(folder, style="v1.1", layers=1, vocab=140, d_model=16, heads=2, d_ff=24, seed=3)
    return read_backbone(tiny)


def runner_of(backbone: Backbone, dtype: str, *, on_gpu: bool) -> TorchRunner:
    config, weights = backbone.architecture, StoredTensors(backbone.checkpoint)
    if not on_gpu:
        return TorchRunner(
            config, weights, start_token_id=0, dtype=dtype, device=CPU, limits=LIMITS
        )
    return CudaRunner(
        config, weights, start_token_id=0, dtype=dtype, device=DEVICE, limits=LIMITS,
        resident="factored",
    )  # fmt: skip


def gated(backbone: Backbone) -> Adapter:
    """A masked adapter that carries its factors."""
    generator = torch.Generator().manual_seed(5)
    factors, deltas = {}, dict[str, Delta]()
    for module, (d_out, d_in) in backbone.targets.items():
        a = torch.randn(RANK, d_in, generator=generator)
        b = torch.randn(d_out, RANK, generator=generator) * 0.3
        product = b @ a
        kept = product * (product.abs() > TAU) * (ALPHA / RANK)
        deltas[module] = SparseDelta.from_dense(kept, torch.bfloat16)
        factors[module] = (a, b)
    return adapter_of(deltas, factors=factors, rank=RANK, alpha=ALPHA, thresholds={"global": TAU})


def lineages_of(runner: TorchRunner, backbone: Backbone) -> list[Lineage]:
    made = {"gated": gated(backbone)}
    for seed, (name, density) in enumerate({"a": 0.3, "full": 0.9, "lora": 1.0}.items()):
        manifest, deltas = random_adapter(
            backbone, seed=seed, density=density, scale=1.0,
            kind="lowrank" if name == "lora" else "masked",
        )  # fmt: skip
        made[name] = Adapter(manifest, deltas, str(seed) * 64)
    packed = {name: runner.pack(adapter) for name, adapter in made.items()}
    return [tuple(packed[name] for name in names) for names in LINEAGES]


def asked() -> list[Sequence]:
    prompts = [[*range(5 + row, 9 + 2 * row), EOS] for row in range(len(OPTIONS))]
    pairs = enumerate(zip(prompts, OPTIONS, strict=True))
    return [choosing(prompt, options, row=row) for row, (prompt, options) in pairs]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_kernels_give_the_torch_runners_numbers(backbone: Backbone, dtype: str) -> None:
    found = []
    for on_gpu in (True, False):
        runner = runner_of(backbone, dtype, on_gpu=on_gpu)
        found.append(computed(runner, asked(), lineages_of(runner, backbone)))
        bare = computed(runner, asked(), [()] * len(OPTIONS))
    slack = 1e-4 if dtype == "float32" else 0.25
    for names, mine, other, without in zip(LINEAGES, *found, bare, strict=True):
        assert mine == pytest.approx(other, abs=slack)
        assert not names or mine != pytest.approx(without, abs=2 * slack), "no contrast"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pass_is_computed_as_it_is_alone(backbone: Backbone, dtype: str) -> None:
    runner = runner_of(backbone, dtype, on_gpu=True)
    lineages = lineages_of(runner, backbone)
    together = computed(runner, asked(), lineages)
    # Bits on a CPU, where linears promise it; a GPU's choose their order by the row count.
    slack = 0.0 if DEVICE.type == "cpu" else 1e-1 if dtype == "bfloat16" else 1e-4
    for i in (2, 4):
        (alone,) = computed(runner, [asked()[i]], [lineages[i]])
        assert alone == pytest.approx(together[i], abs=slack, rel=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.inference_mode()
def test_passes_between_replays_of_a_graph(backbone: Backbone) -> None:
    """A pass is launched eagerly; what the graph reads and writes stays as it is."""
    runner = runner_of(backbone, "float32", on_gpu=True)
    lineages, outputs = lineages_of(runner, backbone), []
    for company in (False, True):
        row = make_sequence((5, 9, 3, EOS), row=6, sampling=Sampling(8, logprobs="chosen"))
        runner.encode([row.encoding], [lineages[1]])
        passes = []
        if company:
            runner.encode([sequence.encoding for sequence in asked()], lineages)
            passes = [whole_pass(sequence) for sequence in asked()]
        for _ in range(4):  # the first captures
            output = runner.decode([row], [lineages[1]], passes, lineages if company else [])
            assert all(output.passes)
            assert len(output.passes) == len(passes)
            outputs.append((output.token_ids, output.logprobs))
            row.output.append(output.token_ids[0])
    assert outputs[:4] == outputs[4:]
