"""The GPU runner on a tiny T5: the torch runner's tokens, and each row alone in a mixed batch.

Interpreted where there is no GPU, compiled and captured where there is one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Rows
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from decoding import make_sequence, merged_model
from device_slots import CPU, DEVICE, adapter_of
from factories import Style, random_adapter, tiny_t5
from forking import Forks, assert_transformers, search
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import Delta, SparseDelta
from jumplora_adapters.format import Adapter
from jumplora_adapters.manifest import Kind
from jumplora_adapters.network import HEAD, kind_of
from jumplora_server.core import (
    Batch,
    Beams,
    Encoding,
    EngineLimits,
    RowCopy,
    Sampling,
    Sequence,
    StepOutput,
)
from jumplora_server.core import Kernels as EngineKernels
from jumplora_server.engine.cuda.forms import Resident
from jumplora_server.engine.cuda.plan import Kernels
from jumplora_server.engine.cuda.reference import REFERENCE
from jumplora_server.engine.cuda.runner import MOST_TARGETED, CudaRunner
from jumplora_server.engine.cuda.slot import DeviceAdapter, on_device
from jumplora_server.engine.engine import choose_torch_runner
from jumplora_server.engine.torch_runner import Lineage, TorchRunner
from jumplora_server.engine.weights import StoredTensors
from odd_shapes import MEMBERS, SHAPES

STEPS = 2
KINDS: tuple[Kind, ...] = ("masked", "lowrank")
TAU, RANK, ALPHA = 0.9, 4, 2.0
LINEAGES: tuple[tuple[str, ...], ...] = ((), ("a",), ("gated",), ("lora",), ("a", "gated", "full"))
LIMITS = EngineLimits(max_rows=8, max_source_tokens=128, max_target_tokens=16, end_token_ids=(1,))
LENGTHS = (3, 17, 9, 6, 70)
# The references read the host's memory: on a GPU the kernels take their place.
HOST_KERNELS = REFERENCE if DEVICE.type == "cpu" else None


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp("backbone")
    return read_backbone(tiny_t5(folder, layers=1, vocab=300, seed=3))


def cuda_runner(
    backbone: Backbone,
    dtype: str = "float32",
    resident: Resident = "factored",
    kernels: Kernels | None = None,
) -> CudaRunner:
    config = backbone.architecture
    return CudaRunner(
        config, StoredTensors(backbone.checkpoint), start_token_id=0, dtype=dtype, device=DEVICE,
        limits=LIMITS, resident=resident, kernels=kernels,
    )  # fmt: skip


def torch_runner(backbone: Backbone, dtype: str = "float32") -> TorchRunner:
    config = backbone.architecture
    return TorchRunner(
        config, StoredTensors(backbone.checkpoint), start_token_id=0, dtype=dtype, device=CPU,
        limits=LIMITS,
    )  # fmt: skip


def gated(backbone: Backbone) -> Adapter:
    """A masked adapter with factors, one of whose entries is an exception."""
    generator = torch.Generator().manual_seed(5)
    factors, deltas = {}, dict[str, Delta]()
    for module, (d_out, d_in) in backbone.targets.items():
        a = torch.randn(RANK, d_in, generator=generator)
        b = torch.randn(d_out, RANK, generator=generator) * 0.3
        product = b @ a
        keep = product.abs() > TAU
        keep[3, 7] = ~keep[3, 7]
        deltas[module] = SparseDelta.from_dense(product * keep * (ALPHA / RANK), torch.bfloat16)
        factors[module] = (a, b)
    return adapter_of(deltas, factors=factors, rank=RANK, alpha=ALPHA, thresholds={"global": TAU})


def adapters(backbone: Backbone) -> dict[str, Adapter]:
    made = {"gated": gated(backbone)}
    for seed, (name, density) in enumerate({"a": 0.1, "full": 0.9, "lora": 1.0}.items()):
        manifest, deltas = random_adapter(
            backbone, seed=seed, density=density, kind="lowrank" if name == "lora" else "masked"
        )
        made[name] = Adapter(manifest, deltas, str(seed) * 64)
    return made


class Shelf:
    """The adapters as one runner packs them."""

    def __init__(self, runner: TorchRunner, backbone: Backbone) -> None:
        self._packed = {name: runner.pack(adapter) for name, adapter in adapters(backbone).items()}

    def lineage(self, names: tuple[str, ...]) -> Lineage:
        return tuple(self._packed[name] for name in names)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [[*torch.randint(3, 250, (n,), generator=generator).tolist(), 1] for n in LENGTHS]


@torch.inference_mode()
def logits_of(
    runner: TorchRunner, sequences: list[Sequence], lineages: list[Lineage]
) -> list[torch.Tensor]:
    """Encode, then greedy steps: per step the logits [n, vocab]."""
    runner.encode([s.encoding for s in sequences], lineages)
    logits = []
    for _ in range(STEPS):
        logits.append(runner.logits(sequences, lineages).cpu().clone())
        for sequence, token in zip(sequences, logits[-1].argmax(-1).tolist(), strict=True):
            sequence.output.append(token)
    return logits


def batch(rows: list[int]) -> list[Sequence]:
    return [make_sequence(p, row=row) for p, row in zip(prompts(), rows, strict=True)]


@pytest.mark.parametrize(
    ("resident", "kernels"),
    [("packed", HOST_KERNELS), ("factored", HOST_KERNELS), ("factored", None)],
    ids=["packed, reference", "factored, reference", "factored, kernels"],
)
def test_a_mixed_batch_has_the_torch_runners_tokens(
    backbone: Backbone, resident: Resident, kernels: Kernels | None
) -> None:
    ours = cuda_runner(backbone, resident=resident, kernels=kernels)
    theirs = torch_runner(backbone)
    rows = [6, 0, 3, 1, 4]  # 2 and 5 are dead, 7 is padding
    results, outputs = [], []
    for runner in (ours, theirs):
        shelf = Shelf(runner, backbone)
        sequences = batch(rows)
        results.append(logits_of(runner, sequences, [shelf.lineage(names) for names in LINEAGES]))
        outputs.append([sequence.output for sequence in sequences])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-4)
    assert outputs[0] == outputs[1]
    assert len({tuple(output) for output in outputs[0]}) > 2, "no contrast"


@pytest.mark.parametrize("kernels", [HOST_KERNELS, None], ids=["reference", "kernels"])
@pytest.mark.parametrize("style", ["v1.0", "v1.1"])
def test_any_linear_layer_is_a_target(
    tmp_path: Path, style: Style, kernels: Kernels | None
) -> None:
    """Places in another order than rows, two rows of one prompt, and a copied row, beside."""
    tiny = tiny_t5(tmp_path, style=style, layers=1, vocab=140, d_model=16, heads=2, d_ff=24)
    backbone = read_backbone(tiny)
    names = list(backbone.sites)
    whole, low = (
        random_adapter(backbone, seed=seed, scale=0.1, kind=kind, targets=names, density=0.3)
        for seed, kind in enumerate(KINDS)
    )
    results = []
    for runner in (cuda_runner(backbone, kernels=kernels), torch_runner(backbone)):
        packed = [runner.pack(Adapter(*made, str(i) * 64)) for i, made in enumerate((whole, low))]
        lineages: list[Lineage] = [(packed[0],), (), (packed[1], packed[0])]
        sequences = [make_sequence((5, 9, 3 + row, 1), row=row) for row in range(3)]
        for sequence, place in zip(sequences, (4, 0, 2), strict=True):
            sequence.encoding.place = place
        steps = logits_of(runner, sequences, lineages)
        runner.copy([RowCopy(source=2, row=5, tokens=STEPS)])
        twin = replace(sequences[2], row=5, output=[*sequences[2].output])
        rows, slots = [*sequences, twin], [*lineages, lineages[2]]
        with torch.inference_mode():
            steps.append(runner.logits(rows, slots).cpu())
        results.append(steps)
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(results[0][-1][2], results[0][-1][3], atol=1e-6, rtol=0)


def test_rows_that_fork_see_what_transformers_gives_their_tokens(tmp_path: Path) -> None:
    """As a beam search has them: two prompts, copies before every step, and a greedy row beside."""
    tiny = tiny_t5(tmp_path, style="v1.1", layers=1, vocab=140, d_model=16, heads=2, d_ff=24)
    backbone = read_backbone(tiny)
    manifest, deltas = random_adapter(backbone, seed=4, density=0.3)
    runner = cuda_runner(backbone)
    packed = runner.pack(Adapter(manifest, deltas, "a" * 64))

    def step(batch: Batch) -> StepOutput:
        def lineages(encodings: Rows[Encoding]) -> list[Lineage]:
            return [(packed,) if encoding.slots else () for encoding in encodings]

        runner.copy(batch.copies)
        if batch.encode:
            runner.encode(batch.encode, lineages(batch.encode))
        return runner.decode(batch.decode, lineages([row.encoding for row in batch.decode]))

    edited = Sampling(9, beams=Beams(3), repetition_penalty=1.4, no_repeat_ngram_size=2)
    searches = (
        Forks(70, (9, 8, 5, 1), [6, 2, 4], slots=(0,), place=3, sampling=edited),
        Forks(71, (4, 1), [0, 7], place=2, sampling=Sampling(9, beams=Beams(2))),
    )
    beside = make_sequence((11, 12, 1), row=1)
    with torch.inference_mode():
        search(step, searches, [beside], steps=3)
    assert sum(forks.copies for forks in searches) >= 3, "no contrast"
    for forks, updates in zip(searches, ([deltas], []), strict=True):
        dense = [
            {m: delta.to_dense(torch.float32) for m, delta in each.items()} for each in updates
        ]
        assert_transformers(forks, merged_model(tiny, dense), hair=2e-4)


def test_targets_make_few_graphs(tmp_path: Path) -> None:
    """What a decode step does not compute makes none; past a number of sets, one has all kinds."""
    tiny = tiny_t5(tmp_path, style="v1.0", layers=2, vocab=140, d_model=16, heads=2, d_ff=24)
    backbone = read_backbone(tiny)
    runner = cuda_runner(backbone, kernels=HOST_KERNELS)
    numbers = {name: 1 << number for number, name in enumerate(backbone.sites)}
    decoded = {name for name, site in backbone.sites.items() if site.is_decoded}

    def packed(*names: str) -> DeviceAdapter:
        manifest, deltas = random_adapter(backbone, targets=names, density=0.3)
        return on_device((runner.pack(Adapter(manifest, deltas, "a" * 64)),))[0]

    once_a_prompt = packed(*(backbone.sites.keys() - decoded))
    assert runner._targeted([(once_a_prompt,), ()]) == 0
    one = next(name for name in decoded if name != HEAD)
    kind = {n for n in decoded if kind_of(n) == kind_of(one)}
    assert len(kind) == 2, "of two blocks"
    assert runner._targeted([(packed(one), once_a_prompt)]) == sum(numbers[n] for n in kind)
    # A module of each kind alone, and of every two: more sets than there may be.
    singles = [packed(name) for name in {kind_of(name): name for name in decoded}.values()]
    pairs = [*itertools.combinations(singles, 2)]
    assert len(pairs) > MOST_TARGETED
    sets = {runner._targeted([pair]) for pair in pairs}
    whole = sum(numbers[name] for name in decoded)
    assert whole in sets
    assert len(sets) <= MOST_TARGETED
    assert runner._targeted([(once_a_prompt,)]) == 0, "sets that were seen keep theirs"


def test_a_step_with_launches_that_no_row_needs_has_the_same_logits(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for most in (MOST_TARGETED, 0):
        monkeypatch.setattr("jumplora_server.engine.cuda.runner.MOST_TARGETED", most)
        runner = cuda_runner(backbone, kernels=HOST_KERNELS)
        shelf = Shelf(runner, backbone)
        lineages = [shelf.lineage(names) for names in LINEAGES]
        results.append(logits_of(runner, batch([0, 1, 2, 3, 4]), lineages))
    for few, all_kinds in zip(*results, strict=True):
        torch.testing.assert_close(few, all_kinds, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_computes_what_it_computes_alone(backbone: Backbone, dtype: str) -> None:
    runner = cuda_runner(backbone, dtype)
    shelf = Shelf(runner, backbone)
    lineages = [shelf.lineage(names) for names in LINEAGES]
    together = logits_of(runner, batch([0, 1, 2, 3, 4]), lineages)
    for i in (2, 4):
        alone = [make_sequence(prompts()[i], row=i)]
        for step, logits in enumerate(logits_of(runner, alone, [lineages[i]])):
            # Bits on a CPU, where linears promise it; a GPU's choose their order by the row count.
            tolerance = 0.0 if DEVICE.type == "cpu" else 1e-1 if dtype == "bfloat16" else 1e-4
            torch.testing.assert_close(logits[0], together[step][i], atol=tolerance, rtol=0)


def test_rows_that_join_and_leave_do_not_disturb_those_that_stay(backbone: Backbone) -> None:
    runner = cuda_runner(backbone, kernels=HOST_KERNELS)
    shelf = Shelf(runner, backbone)
    lineages = [shelf.lineage(names) for names in LINEAGES]
    expected = [
        logits_of(runner, [make_sequence(prompts()[i], row=0)], [lineages[i]]) for i in (1, 4)
    ]
    stays, leaves = make_sequence(prompts()[1], row=2), make_sequence(prompts()[3], row=5)
    joins = make_sequence(prompts()[4], row=5)
    with torch.inference_mode():
        runner.encode([stays.encoding, leaves.encoding], [lineages[1], lineages[3]])
        for step in range(STEPS + 1):
            live = [(stays, lineages[1])] if step < STEPS else []
            if step == 0:
                live.append((leaves, lineages[3]))
            if step == 1:
                runner.encode([joins.encoding], [lineages[4]])
            if step >= 1:
                live.insert(0, (joins, lineages[4]))
            logits = runner.logits([s for s, _ in live], [lineage for _, lineage in live]).cpu()
            for (sequence, _), row in zip(live, logits, strict=True):
                if sequence is not leaves:
                    wanted = expected[0 if sequence is stays else 1][len(sequence.output)][0]
                    torch.testing.assert_close(row, wanted, atol=1e-4, rtol=0)
                sequence.output.append(int(row.argmax()))


def test_sampled_rows_get_the_torch_runners_tokens(backbone: Backbone) -> None:
    sampling = Sampling(
        max_new_tokens=STEPS, mode="sample", temperature=0.7, top_k=20, top_p=0.9,
        repetition_penalty=1.3, logprobs="chosen",
    )  # fmt: skip
    found = []
    for runner in (cuda_runner(backbone, kernels=HOST_KERNELS), torch_runner(backbone)):
        shelf = Shelf(runner, backbone)
        lineages = [shelf.lineage(names) for names in LINEAGES]
        rows = [
            make_sequence(p, row=row, sampling=replace(sampling, seed=row))
            for row, p in enumerate(prompts())
        ]
        logprobs = []
        with torch.inference_mode():
            runner.encode([row.encoding for row in rows], lineages)
            for _ in range(STEPS):
                output = runner.decode(rows, lineages)
                assert output.failed == ()
                logprobs.append([logprob or 0.0 for logprob in output.logprobs])
                for row, token in zip(rows, output.token_ids, strict=True):
                    row.output.append(token)
        found.append(([row.output for row in rows], torch.tensor(logprobs)))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-3, rtol=0)


def test_factored_adapters_are_resident_as_factors(backbone: Backbone) -> None:
    packed, factored = (
        cuda_runner(backbone, resident=resident).pack(gated(backbone))
        for resident in ("packed", "factored")
    )
    assert {form.record.form for form in packed.forms.values()} == {"packed"}
    assert {form.record.form for form in factored.forms.values()} == {"factored"}
    assert {form.record.exceptions for form in factored.forms.values()} == {1}


def test_a_device_that_recomputes_another_mask_gets_packed_modules(backbone: Backbone) -> None:
    liar = next(iter(backbone.targets))

    def kept(table: torch.Tensor, module: int, shape: tuple[int, int]) -> torch.Tensor:
        mask = REFERENCE.kept(table.cpu(), module, shape)
        return ~mask if module == list(backbone.targets).index(liar) else mask

    if HOST_KERNELS is None:
        pytest.skip("the references read the host's memory")
    host = replace(REFERENCE, kept=kept)
    forms = cuda_runner(backbone, kernels=host).pack(gated(backbone)).forms
    assert {module for module, form in forms.items() if form.record.form == "packed"} == {liar}


@pytest.mark.parametrize(
    ("device", "kernels", "family", "expected"),
    [
        ("cuda", "auto", "t5", CudaRunner),
        ("cuda", "auto", "a family that torch alone computes", TorchRunner),
        ("cuda", "torch", "t5", TorchRunner),
        ("cpu", "auto", "t5", TorchRunner),
    ],
)
def test_a_gpu_has_its_own_runner_for_the_families_that_it_computes(
    device: str, kernels: EngineKernels, family: str, expected: type[TorchRunner]
) -> None:
    assert choose_torch_runner(torch.device(device), kernels, family) is expected


def test_int8_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        cuda_runner(backbone, dtype="int8")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_replayed_graphs_give_the_eager_steps_logits(backbone: Backbone, tmp_path: Path) -> None:
    runner = cuda_runner(backbone)
    shelf = Shelf(runner, backbone)
    lineages = [shelf.lineage(names) for names in LINEAGES]
    first = logits_of(runner, batch([0, 1, 2, 3, 4]), lineages)  # captures
    again = logits_of(runner, batch([0, 1, 2, 3, 4]), lineages)  # replays
    moved = logits_of(runner, batch([4, 2, 0, 1, 3]), lineages)  # replays with other rows
    for one, two, three in zip(first, again, moved, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, three, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["T5", "umT5", "UL2", "MADLAD-400", "GELU", "gated ReLU"])
def test_a_member_of_the_family_has_the_torch_runners_logits(
    tmp_path: Path, name: str, dtype: str
) -> None:
    assert_torch_runners_logits(tmp_path, name, dtype, HOST_KERNELS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["umT5", "heads of 5"])
def test_the_kernels_themselves_have_them(tmp_path: Path, name: str) -> None:
    assert_torch_runners_logits(tmp_path, name, "float32", None)


def assert_torch_runners_logits(
    folder: Path, name: str, dtype: str, kernels: Kernels | None
) -> None:
    options = {**MEMBERS, **SHAPES}[name]
    backbone = read_backbone(tiny_t5(folder, seed=4, **options))
    results = []
    for runner in (cuda_runner(backbone, dtype, kernels=kernels), torch_runner(backbone, dtype)):
        sequences = batch([0, 1, 2, 3, 4])
        with torch.inference_mode():
            runner.encode([s.encoding for s in sequences], [()] * 5)
            for sequence in sequences:
                sequence.output.extend([7, 9, 11])  # their keys are the empty cache's
            results.append(runner.logits(sequences, [()] * 5).cpu())
    wide = float(results[1].std())
    torch.testing.assert_close(*results, atol=wide * (1e-4 if dtype == "float32" else 0.1), rtol=0)
