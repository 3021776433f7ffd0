"""A row's logits have the same bits alone and in company, for every form of delta at every site.

An adapter targets one kind of site in all blocks (the o of cross-attention, the decoder's wo ...).
The adapters of all kinds are in one batch, some of them for two prompts, beside the bare backbone
and lineages. Alone, a row has another number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from decoding import make_sequence
from device_slots import CPU
from factories import Style, random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import CombinedDelta, Delta, LowRankDelta, SparseDelta
from jumplora_adapters.format import Adapter
from jumplora_adapters.network import Site
from jumplora_server.core import EngineLimits, InstructionSet
from jumplora_server.engine.bank import PackedAdapter
from jumplora_server.engine.cuda.runner import CudaRunner
from jumplora_server.engine.engine import Runner
from jumplora_server.engine.native.library import (
    best_set,
    load_library,
    runnable_sets,
    why_unavailable,
)
from jumplora_server.engine.native.runner import NativeRunner
from jumplora_server.engine.torch_runner import TorchRunner
from jumplora_server.engine.weights import StoredTensors

Way = Literal["native", "torch", "cuda"]
native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
WAYS = [
    pytest.param("native", "float32", marks=native),
    pytest.param("native", "int8", marks=native),
    ("torch", "float32"),
    ("torch", "int8"),
    ("torch", "bfloat16"),
]
FOLDING: list[tuple[Way, str]] = [("torch", "float32"), ("torch", "int8")]
STYLES: tuple[Style, ...] = ("v1.0", "v1.1")
LENGTHS = (4, 70, 16, 11, 32)
FED = (7, 11)  # after the start token
LIMITS = EngineLimits(max_rows=32, max_source_tokens=80, max_target_tokens=8, end_token_ids=(1,))

Lineage = tuple[str, ...]  # names of adapters, oldest first


def masked(delta: LowRankDelta, density: float) -> SparseDelta:
    kept = torch.rand(delta.shape, generator=torch.Generator().manual_seed(1)) < density
    return SparseDelta.from_dense(delta.to_dense(torch.float32) * kept, torch.bfloat16)


FORMS: Mapping[str, Callable[[LowRankDelta], Delta]] = {
    "low rank": lambda delta: delta,
    "masked": lambda delta: masked(delta, 0.1),
    "dense": lambda delta: masked(delta, 0.9),
    "combined": lambda delta: CombinedDelta(masked(delta, 0.1), delta),
}


@pytest.fixture(scope="module", params=STYLES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder: Path = tmp_path_factory.mktemp("bits")
    return read_backbone(tiny_t5(folder, style=request.param, vocab=160, layers=1, seed=3))


def make_runner(
    backbone: Backbone, way: Way, dtype: str, name: InstructionSet | None = None
) -> Runner:
    """`name`: of native kernels; None is the best that runs here."""
    config, weights = backbone.architecture, StoredTensors(backbone.checkpoint)
    if way == "native":
        return NativeRunner(
            config, weights, start_token_id=0, dtype=dtype, limits=LIMITS,
            library=load_library(name or best_set()),
        )  # fmt: skip
    make = TorchRunner if way == "torch" else CudaRunner
    return make(config, weights, start_token_id=0, dtype=dtype, device=CPU, limits=LIMITS)


def kind_of(site: Site) -> str:
    return f"{site.stack} {site.part} {site.role}"


def adapters(backbone: Backbone, form: str) -> dict[str, Adapter]:
    """One for each kind of site, and one for all sites."""
    kinds: dict[str, list[str]] = {}
    for name, site in backbone.sites.items():
        kinds.setdefault(kind_of(site), []).append(name)
    kinds["all"] = list(backbone.sites)
    made = {}
    for seed, (kind, targets) in enumerate(kinds.items()):
        manifest, deltas = random_adapter(backbone, kind="lowrank", seed=seed, targets=targets)
        formed = {
            name: FORMS[form](delta)
            for name, delta in deltas.items()
            if isinstance(delta, LowRankDelta)
        }
        made[kind] = Adapter(manifest, formed, f"{seed:02x}" * 32)
    return made


def lineages_of(kinds: list[str]) -> list[Lineage]:
    """Each kind alone, the bare backbone, neighbours of one lineage, and lineages of several."""
    return [
        *((kind,) for kind in kinds),
        (),
        ("all",),
        ("all",),
        ("all", "decoder head lm_head"),
        ("decoder cross k", "all", "encoder self o"),
    ]


@torch.inference_mode()
def logits(runner: Runner, rows: Mapping[int, int], lineages: Rows[tuple[object, ...]]) -> Tensor:
    """Of the first tokens [rows, steps, vocabulary]. `rows`: the row that the i-th one takes."""
    sequences = [
        make_sequence([*range(3 + i, 3 + i + LENGTHS[i % len(LENGTHS)]), 1], row=row)
        for i, row in rows.items()
    ]
    own = [lineages[i] for i in rows]
    runner.encode([sequence.encoding for sequence in sequences], own)
    steps = [runner.logits(sequences, own).clone()]
    for token in FED:
        for sequence in sequences:
            sequence.output.append(token)
        steps.append(runner.logits(sequences, own).clone())
    return torch.stack(steps, dim=1)


def in_one_batch(runner: Runner, made: Mapping[str, Adapter]) -> Tensor:
    """The logits of all lineages in one batch."""
    packed = {kind: runner.pack(adapter) for kind, adapter in made.items()}
    lineages = [tuple(packed[name] for name in own) for own in lineages_of(list(made))]
    return logits(runner, {i: i for i in range(len(lineages))}, lineages)


def faults(runner: Runner, made: Mapping[str, Adapter]) -> list[str]:
    """Lineages that have other bits alone, and those that add nothing to the bare backbone."""
    packed = {kind: runner.pack(adapter) for kind, adapter in made.items()}
    return faults_of(runner, packed, lineages_of(list(packed)))


def folded_faults(runner: Runner, made: Mapping[str, Adapter]) -> list[str]:
    """The same of trunks: of each kind, under later deltas, and beside the same unfolded."""
    slots = {kind: runner.pack(adapter) for kind, adapter in made.items()}
    head = "decoder head lm_head"
    trunks = {f"trunk of {kind}": runner.fold([adapter]) for kind, adapter in made.items()}
    trunks["trunk of two"] = runner.fold([made["all"], made[head]])
    names: list[Lineage] = [
        *((trunk,) for trunk in trunks),
        (),
        ("all",),
        ("all", head),
        ("trunk of two", "encoder self o"),
        ("trunk of two", "encoder self o"),
        (f"trunk of {head}", "all"),
    ]
    return faults_of(runner, slots | trunks, names)


def faults_of(
    runner: Runner, packed: Mapping[str, PackedAdapter[Any]], names: list[Lineage]
) -> list[str]:
    lineages = [tuple(packed[name] for name in own) for own in names]
    everywhere = {i: i for i in range(len(names))}
    bare = logits(runner, everywhere, [()] * len(names))
    together = logits(runner, everywhere, lineages)
    found = []
    for i, own in enumerate(names):
        alone = logits(runner, {i: (i + 1) % 3}, lineages)[0]
        if not torch.equal(alone, together[i]):
            found.append(f"{own} alone")
        if torch.equal(bare[i], together[i]) != (own == ()):
            found.append(f"{own} beside the bare backbone")
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("way", "dtype"), WAYS)
def test_a_row_has_its_bits_in_any_company(
    backbone: Backbone, way: Way, dtype: str, form: str
) -> None:
    assert faults(make_runner(backbone, way, dtype), adapters(backbone, form)) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("way", "dtype"), FOLDING)
def test_a_row_of_a_trunk_has_them_too(backbone: Backbone, way: Way, dtype: str, form: str) -> None:
    assert folded_faults(make_runner(backbone, way, dtype), adapters(backbone, form)) == []


@pytest.mark.parametrize("name", runnable_sets()[1:])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_row_has_its_bits_on_every_processor(
    backbone: Backbone, dtype: str, form: str, name: InstructionSet
) -> None:
    made = adapters(backbone, form)
    of_the_best = in_one_batch(make_runner(backbone, "native", dtype), made)
    assert torch.equal(
        in_one_batch(make_runner(backbone, "native", dtype, name), made), of_the_best
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_row_of_the_interpreted_gpu_kernels_has_them_too(tmp_path: Path, form: str) -> None:
    """The linears are torch's on this CPU, so what is shown is what deltas and attention do.

    float32 alone: server/GPU.md says what is open of bfloat16.
    """
    folder = tiny_t5(tmp_path, vocab=160, layers=1, d_model=16, heads=2, d_ff=16, seed=3)
    backbone = read_backbone(folder)
    assert faults(make_runner(backbone, "cuda", "float32"), adapters(backbone, form)) == []


@native
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("int8", 0.1)])
def test_the_kernels_compute_what_torch_does(
    backbone: Backbone, dtype: str, tolerance: float, form: str
) -> None:
    """Up to a share of a row's standard deviation; each kind of site moves it by over a quarter.

    With int8, a number between two steps may be rounded to either.
    """
    native_logits, torch_logits = (
        in_one_batch(make_runner(backbone, way, dtype), adapters(backbone, form))
        for way in ("native", "torch")
    )
    off = (native_logits - torch_logits).abs().amax((1, 2)) / torch_logits.std((1, 2))
    assert off.max() < tolerance
