"""Trunks: versions folded into the backbone's weights compute what the merged backbone computes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from decoding import first_batch, load_reference, make_sequence, oracle, run
from device_slots import CPU
from factories import Style, random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import CombinedDelta, Delta, LowRankDelta, SparseDelta
from jumplora_adapters.errors import BackboneError
from jumplora_adapters.format import Adapter
from jumplora_adapters.network import HEAD
from jumplora_server.core import EngineLimits, Kernels, Sequence
from jumplora_server.engine.cuda.runner import CudaRunner
from jumplora_server.engine.delta import make_plan
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.trunk import merged_weight
from jumplora_server.engine.weights import StoredTensors

KERNELS: tuple[Kernels, ...] = ("torch", "native")
DTYPES = ("float32", "int8")
STYLES: tuple[Style, ...] = ("v1.0", "v1.1")
LENGTHS = (5, 17, 70, 12)
FED = (7, 11, 30)  # after the start token
DEPTH = 5

# Which roles each version of the chain targets. A trunk has the union of its versions'.
ROLES: tuple[tuple[str, ...], ...] = (
    ("q", "v"),
    ("q", "v"),
    ("o", "wi", "wi_0", "wo"),
    ("k", "v", "wi_1", HEAD),
    ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo", HEAD),
)


@pytest.fixture(scope="module", params=STYLES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp(request.param.replace(".", ""))
    return read_backbone(tiny_t5(folder, style=request.param, vocab=160, seed=3))


def chain(backbone: Backbone, seed: int = 0) -> tuple[Adapter, ...]:
    """Five versions of all kinds of deltas, oldest first."""
    made: list[Adapter] = []
    for depth, roles in enumerate(ROLES[:DEPTH]):
        targets = [name for name, site in backbone.sites.items() if site.role in roles]
        manifest, deltas = random_adapter(
            backbone,
            kind=("masked", "lowrank", "masked", "combined", "masked")[depth],
            density=(0.05, 1, 0.6, 0.1, 0.1)[depth],
            seed=100 * seed + depth,
            scale=0.15,
            targets=targets,
            lineage=[link.digest for link in made],
        )
        made.append(Adapter(manifest, deltas, f"{seed}{depth}" * 32))
    return tuple(made)


def merged(backbone: Backbone, adapters: Rows[Adapter], folder: Path) -> Path:
    """The backbone's folder with the adapters merged as training merges ancestors."""
    shutil.copytree(backbone.path, folder)
    tensors = load_file(folder / "model.safetensors")
    for adapter in adapters:
        for name, delta in adapter.deltas.items():
            weight = f"{name}.weight"
            if weight not in tensors:  # a tied head: its delta is none of the embedding
                tensors[weight] = tensors["shared.weight"].clone()
            tensors[weight] = tensors[weight] + delta.to_dense()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_engine(folder: Path, dtype: str, kernels: Kernels) -> Engine:
    return Engine(
        folder, dtype=dtype, max_rows=16, max_source_tokens=80, max_target_tokens=16,
        kernels=kernels,
    )  # fmt: skip


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [[*torch.randint(3, 150, (n,), generator=generator).tolist(), 1] for n in LENGTHS]


@torch.inference_mode()
def logits(engine: Engine, rows: Mapping[int, tuple[int, ...]]) -> dict[int, Tensor]:
    """Of some rows' first tokens [steps, vocabulary]. `rows`: each row's slots."""
    asked = prompts()
    sequences = [
        make_sequence(asked[row % len(asked)], row=row, slots=slots) for row, slots in rows.items()
    ]
    return dict(zip(rows, _steps(engine, sequences), strict=True))


def _steps(engine: Engine, sequences: list[Sequence]) -> Rows[Tensor]:
    engine._encode(first_batch(sequences).encode)
    lineages = [engine._bank.lineage(sequence.encoding.slots) for sequence in sequences]
    steps = [engine.runner.logits(sequences, lineages).clone()]
    for token in FED:
        for sequence in sequences:
            sequence.output.append(token)
        steps.append(engine.runner.logits(sequences, lineages).clone())
    return torch.stack(steps, dim=1).unbind(0)


# -- the arithmetic


def forms_of(delta: LowRankDelta) -> dict[str, Delta]:
    generator = torch.Generator().manual_seed(1)
    keep = torch.rand(delta.shape, generator=generator) < 0.2
    sparse = SparseDelta.from_dense(delta.to_dense() * keep, torch.bfloat16)
    return {"masked": sparse, "low rank": delta, "combined": CombinedDelta(sparse, delta)}


@pytest.mark.parametrize("form", ["masked", "low rank", "combined"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 24), (7, 65)])
def test_adding_a_delta_has_the_bits_of_adding_its_matrix(
    shape: tuple[int, int], form: str
) -> None:
    d_out, d_in = shape
    generator = torch.Generator().manual_seed(d_in)
    low = LowRankDelta(
        torch.randn(2, d_in, generator=generator), torch.randn(d_out, 2, generator=generator)
    )
    delta = forms_of(low)[form]
    weight = torch.randn(shape, generator=generator)
    weight[0, 0] = -0.0  # which a matrix's zero turns positive
    expected = weight + delta.to_dense()
    delta.add_to(weight)
    assert torch.equal(weight.view(torch.int32), expected.view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_merged_weight_is_the_stored_one_and_each_delta_in_order(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    backbone = read_backbone(tiny_t5(tmp_path, vocab=160, seed=3, dtype=dtype))
    weights = StoredTensors(backbone.checkpoint)
    versions = chain(backbone)
    for name, site in backbone.sites.items():
        before = weights[site.weight]
        deltas = [link.deltas[name] for link in versions if name in link.deltas]
        expected = before.float()
        for delta in deltas:
            expected = expected + delta.to_dense()
        assert torch.equal(merged_weight(weights, site, deltas), expected)
        assert torch.equal(weights[site.weight], before)


# -- against the merged backbone


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("depth", [1, 2, 3, DEPTH])
def test_a_trunk_has_the_bits_of_the_merged_backbone(
    backbone: Backbone, kernels: Kernels, depth: int, tmp_path: Path
) -> None:
    ancestors = chain(backbone)[:depth]
    engine = make_engine(backbone.path, "float32", kernels)
    trunk = engine.install(engine.fold(ancestors))
    found = logits(engine, dict.fromkeys(range(4), (trunk,)))
    whole = make_engine(merged(backbone, ancestors, tmp_path / "merged"), "float32", kernels)
    expected = logits(whole, dict.fromkeys(range(4), ()))
    bare = logits(engine, dict.fromkeys(range(4), ()))
    for row in range(4):
        assert torch.equal(found[row], expected[row])
        assert not torch.equal(found[row], bare[row])


@pytest.mark.parametrize("kernels", KERNELS)
def test_in_int8_a_trunk_is_nearer_to_float32_than_the_merged_backbone(
    backbone: Backbone, kernels: Kernels, tmp_path: Path
) -> None:
    """Its weights have the same bits, but the numbers that they meet are finer."""
    versions = chain(backbone)
    folder = merged(backbone, versions, tmp_path / "merged")
    bare, engine = dict.fromkeys(range(4), ()), make_engine(backbone.path, "int8", kernels)
    trunk = engine.install(engine.fold(versions))
    exact = logits(make_engine(folder, "float32", kernels), bare)
    coarse = logits(make_engine(folder, "int8", kernels), bare)
    fine = logits(engine, dict.fromkeys(range(4), (trunk,)))

    def error(found: Mapping[int, Tensor]) -> float:
        return sum(float((found[row] - exact[row]).square().sum()) for row in range(4))

    assert 0 < error(fine) < 0.8 * error(coarse)


# Of a row's standard deviation. In int8 the weights are rounded after the deltas were added to
# them, and not before: each entry may differ by a step of its output's scale.
NEAR = {"float32": 1e-4, "int8": 0.25}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_trunk_and_later_deltas_are_near_the_unfolded_lineage(
    backbone: Backbone, dtype: str, kernels: Kernels
) -> None:
    engine = make_engine(backbone.path, dtype, kernels)
    versions = chain(backbone)
    slots = tuple(engine.install(engine.pack(link)) for link in versions)
    bare, unfolded = logits(engine, {0: ()})[0], logits(engine, {0: slots})[0]
    for depth in range(1, DEPTH + 1):
        trunk = engine.install(engine.fold(versions[:depth]))
        folded = logits(engine, {0: (trunk, *slots[depth:])})[0]
        off = (folded - unfolded).abs().max() / unfolded.std()
        assert off < NEAR[dtype], f"a trunk of {depth}"
    assert (bare - unfolded).abs().max() / unfolded.std() > 1, "no contrast"


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("depth", range(DEPTH + 1))
def test_tokens_are_those_of_transformers_on_the_merged_backbone(
    backbone: Backbone, kernels: Kernels, depth: int
) -> None:
    engine = make_engine(backbone.path, "float32", kernels)
    versions = chain(backbone)
    trunk = (engine.install(engine.fold(versions[:depth])),) if depth else ()
    later = tuple(engine.install(engine.pack(link)) for link in versions[depth:])
    for prompt in prompts():
        found = run(engine, [make_sequence(prompt, row=2, slots=(*trunk, *later))])[0]
        assert found == oracle(backbone.path, prompt, [dict(link.deltas) for link in versions])


@pytest.mark.parametrize("kernels", KERNELS)
def test_logits_are_those_of_transformers_on_the_merged_folder(
    backbone: Backbone, kernels: Kernels, tmp_path: Path
) -> None:
    versions = chain(backbone)[:3]  # the head keeps its embedding, so the folder stays tied
    engine = make_engine(backbone.path, "float32", kernels)
    trunk = engine.install(engine.fold(versions))
    found = logits(engine, dict.fromkeys(range(4), (trunk,)))
    model = load_reference(merged(backbone, versions, tmp_path / "merged"))
    for row, prompt in enumerate(prompts()):
        with torch.inference_mode():
            expected = model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0, *FED]])
            ).logits[0]
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)


# -- in company


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_its_bits_beside_bare_unfolded_and_folded_rows(
    backbone: Backbone, dtype: str, kernels: Kernels
) -> None:
    engine = make_engine(backbone.path, dtype, kernels)
    lineages: list[tuple[int, ...]] = [()]
    for seed in (1, 2):
        versions = chain(backbone, seed)
        slots = tuple(engine.install(engine.pack(link)) for link in versions)
        deep = engine.install(engine.fold(versions[:4]))
        shallow = engine.install(engine.fold(versions[:2]))
        lineages += [
            slots, (shallow,), (deep,), (deep, slots[4]), (shallow, *slots[2:]), slots[:1],
            (deep,),
        ]  # fmt: skip
    mixed = logits(engine, dict(enumerate(lineages)))
    for row, slots in enumerate(lineages):
        asked = prompts()[row % len(LENGTHS)]
        # Alone it has another row, and the prompt and the slots that it has in company.
        alone = _alone(engine, asked, (row + 3) % 16, slots)
        assert torch.equal(mixed[row], alone), f"row {row}"
    asked_of = {(slots, row % len(LENGTHS)) for row, slots in enumerate(lineages)}
    found = {rows.numpy().tobytes() for rows in mixed.values()}
    assert len(found) == len(asked_of), "each lineage and prompt has numbers of its own"


@torch.inference_mode()
def _alone(engine: Engine, prompt: list[int], row: int, slots: tuple[int, ...]) -> Tensor:
    return _steps(engine, [make_sequence(prompt, row=row, slots=slots)])[0]


# -- what it takes, and where it cannot be


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """Of odd widths, so that padded forms show."""
    folder = tmp_path_factory.mktemp("small")
    return read_backbone(tiny_t5(folder, vocab=161, d_ff=37, layers=1, seed=3))


@pytest.fixture(scope="module", params=[(d, k) for d in DTYPES for k in KERNELS], ids=str)
def engine(request: pytest.FixtureRequest, small: Backbone) -> Engine:
    return make_engine(small.path, *request.param)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_trunk_bytes_are_those_of_the_trunk(
    engine: Engine, small: Backbone, data: st.DataObject
) -> None:
    targets = st.lists(st.sampled_from(sorted(small.sites)), min_size=1, max_size=6, unique=True)
    versions = [
        Adapter(*random_adapter(small, targets=names, seed=seed), f"{seed}" * 64)
        for seed, names in enumerate(data.draw(st.lists(targets, min_size=1, max_size=3)))
    ]
    trunk = engine.fold(versions)
    names = [name for link in versions for name in link.deltas]
    assert trunk.nbytes == sum(form.nbytes for form in trunk.forms.values())
    assert trunk.nbytes == engine.trunk_bytes(names) == engine.trunk_bytes(trunk.forms)
    assert trunk.version == versions[-1].digest
    shapes = [small.sites[name].shape for name in {*names}]
    assert trunk.nnz == sum(d_out * d_in for d_out, d_in in shapes)
    assert trunk.density == 1.0


def test_a_checkpoint_that_was_replaced_folds_as_it_was_and_an_overwritten_one_is_refused(
    small: Backbone, tmp_path: Path
) -> None:
    folder = shutil.copytree(small.path, tmp_path / "backbone")
    engine = make_engine(folder, "float32", "torch")
    versions, file = chain(small), folder / "model.safetensors"
    before = engine.install(engine.fold(versions))
    other = {name: tensor + 1 for name, tensor in load_file(file).items()}
    save_file(other, tmp_path / "new", metadata={"format": "pt"})
    os.link(file, tmp_path / "old")
    os.replace(tmp_path / "new", file)
    after = engine.install(engine.fold(versions))
    assert torch.equal(logits(engine, {0: (before,)})[0], logits(engine, {0: (after,)})[0])

    file.unlink()
    os.link(tmp_path / "old", file)  # the one that was opened
    content = bytearray(file.read_bytes())
    content[-4:] = bytes(4)
    stamp = file.stat().st_mtime_ns
    file.write_bytes(content)
    os.utime(file, ns=(stamp + 10**9, stamp + 10**9))
    with pytest.raises(BackboneError, match="changed in place"):
        engine.fold(versions)


def test_a_trunk_of_no_version_is_refused(engine: Engine) -> None:
    assert engine.can_fold
    with pytest.raises(ValueError, match="no adapter was given"):
        engine.fold([])


def test_bfloat16_has_no_trunks(small: Backbone) -> None:
    engine = make_engine(small.path, "bfloat16", "torch")
    assert not engine.can_fold
    with pytest.raises(ValueError, match="float32 and int8 on the CPU, not in bfloat16 on cpu"):
        engine.fold(chain(small))
    with pytest.raises(ValueError, match="float32 and int8 on the CPU, not in bfloat16 on cpu"):
        engine.trunk_bytes(small.sites)


def test_the_gpu_runner_has_no_trunks(small: Backbone) -> None:
    limits = EngineLimits(max_rows=4, max_source_tokens=16, max_target_tokens=8, end_token_ids=(1,))
    runner = CudaRunner(
        small.architecture, StoredTensors(small.checkpoint), start_token_id=0, dtype="float32",
        device=CPU, limits=limits,
    )  # fmt: skip
    assert not runner.can_fold
    with pytest.raises(ValueError, match="are folded in float32 and int8 on the CPU"):
        runner.fold(chain(small))


def test_a_trunk_behind_another_slot_is_refused(small: Backbone) -> None:
    engine = make_engine(small.path, "float32", "torch")
    versions = chain(small)
    own, trunk = engine.pack(versions[0]).forms, engine.fold(versions[:2]).forms
    with pytest.raises(ValueError, match="a trunk stands first in its lineage, not at place 1"):
        make_plan([(own, trunk)], [(0, 1)], "decode", CPU)
