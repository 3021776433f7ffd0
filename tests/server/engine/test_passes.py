"""Passes through tries: log-probabilities are transformers', and each pass's bits are its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from decoding import make_sequence, merged_model, torch_threads
from device_slots import CPU
from factories import Style, random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import Delta
from jumplora_adapters.format import Adapter
from jumplora_adapters.manifest import Kind
from jumplora_server.core import EngineLimits, Pass, Sampling, Sequence
from jumplora_server.engine.cuda.reference import REFERENCE
from jumplora_server.engine.cuda.runner import CudaRunner
from jumplora_server.engine.engine import Runner
from jumplora_server.engine.native.library import best_set, load_library
from jumplora_server.engine.native.runner import NativeRunner
from jumplora_server.engine.torch_runner import TorchRunner
from jumplora_server.engine.weights import StoredTensors
from jumplora_server.trie import Trie
from tries import EOS, choosing, computed, random_options, teacher_forced, whole_pass

Way = Literal["native", "torch", "cuda"]
WAYS: tuple[Way, ...] = ("native", "torch", "cuda")
DTYPES: Mapping[Way, tuple[str, ...]] = {
    "native": ("float32", "int8"),
    "torch": ("float32", "int8", "bfloat16"),
    "cuda": ("float32", "bfloat16"),
}
ALL = [(way, dtype) for way in WAYS for dtype in DTYPES[way]]
STYLES: tuple[Style, ...] = ("v1.0", "v1.1", "mt5", "umt5")
VOCAB = {"v1.0": 160, "v1.1": 160, "mt5": 400, "umt5": 400}
LIMITS = EngineLimits(max_rows=8, max_source_tokens=96, max_target_tokens=32, end_token_ids=(EOS,))
LINEAGES: tuple[tuple[str, ...], ...] = ((), ("a",), ("lora",), ("a", "dense"), ("trunk", "lora"))


def random_ids(count: int, seed: int) -> list[int]:
    return torch.randint(3, 150, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


LONG = random_ids(20, seed=9)
OPTIONS: Mapping[str, list[list[int]]] = {
    "one token each": [[7], [9], [EOS], [120]],
    "beginnings of others": [[7, EOS], [7, 8, EOS], [7, 8, 9, EOS], [9, EOS]],
    "up to 20 tokens": [[*LONG[:19], EOS], [*LONG[:12], EOS], [*LONG[:12], 5, EOS], [4, EOS]],
    "a token that comes again": [[7, 7, 7, EOS], [7, 9, 7, EOS], [9, 7, 7, EOS]],
    "many": random_options(24, seed=2, vocab=150, longest=5),
}


@pytest.fixture(scope="module", params=STYLES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp(request.param.replace(".", ""))
    tiny = tiny_t5(folder, style=request.param, vocab=VOCAB[request.param], seed=3)
    return read_backbone(tiny)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """For what the interpreter of the GPU's kernels runs many times."""
    folder: Path = tmp_path_factory.mktemp("small")
    return read_backbone(tiny_t5(folder, vocab=160, layers=1, d_model=16, heads=2, d_ff=16, seed=3))


def make_runner(backbone: Backbone, way: Way, dtype: str = "float32") -> Runner:
    config, weights = backbone.architecture, StoredTensors(backbone.checkpoint)
    if way == "native":
        return NativeRunner(
            config, weights, start_token_id=0, dtype=dtype, limits=LIMITS,
            library=load_library(best_set()),
        )  # fmt: skip
    if way == "torch":
        return TorchRunner(
            config, weights, start_token_id=0, dtype=dtype, device=CPU, limits=LIMITS
        )
    return CudaRunner(
        config, weights, start_token_id=0, dtype=dtype, device=CPU, limits=LIMITS,
        kernels=REFERENCE,
    )  # fmt: skip


class Shelf:
    """Adapters of the kinds that a lineage mixes, as one runner holds them, and their deltas."""

    def __init__(self, runner: Runner, backbone: Backbone) -> None:
        kinds: dict[str, tuple[Kind, float, float]] = {
            "a": ("masked", 0.1, 0.3),
            "dense": ("masked", 0.8, 0.05),
            "lora": ("lowrank", 1.0, 0.3),
        }
        self._adapters: dict[str, Adapter] = {}
        for seed, (name, (kind, density, scale)) in enumerate(kinds.items()):
            manifest, deltas = random_adapter(
                backbone, seed=seed, kind=kind, density=density, scale=scale,
                targets=list(backbone.sites) if name == "dense" else None,
            )  # fmt: skip
            self._adapters[name] = Adapter(manifest, deltas, str(seed) * 64)
        self._packed = {name: runner.pack(adapter) for name, adapter in self._adapters.items()}
        if runner.can_fold:
            self._packed["trunk"] = runner.fold([self._adapters["a"], self._adapters["dense"]])

    def lineage(self, names: tuple[str, ...]) -> tuple[Any, ...]:
        """Where nothing is folded, a trunk's versions one after another."""
        held = self._packed if "trunk" in self._packed else None
        return tuple(self._packed[name] for name in (names if held else _unfolded(names)))

    def deltas(self, names: tuple[str, ...]) -> list[Mapping[str, Delta]]:
        return [self._adapters[name].deltas for name in _unfolded(names)]


def _unfolded(names: tuple[str, ...]) -> list[str]:
    return [each for name in names for each in (("a", "dense") if name == "trunk" else (name,))]


def asked() -> list[Sequence]:
    """A sequence for each list of options, with prompts of many lengths."""
    lengths = (5, 70, 16, 33, 1)
    return [
        choosing([*random_ids(length, seed=row), EOS], options, row=row)
        for row, (length, options) in enumerate(zip(lengths, OPTIONS.values(), strict=True))
    ]


def again(sequence: Sequence, row: int) -> Sequence:
    """The same in another row and place."""
    copy = make_sequence(sequence.encoding.prompt, row=row, sampling=sequence.sampling)
    return copy


# -- against transformers


@pytest.mark.parametrize("way", WAYS)
def test_options_have_the_probabilities_of_teacher_forcing(backbone: Backbone, way: Way) -> None:
    runner = make_runner(backbone, way)
    shelf, sequences = Shelf(runner, backbone), asked()
    found = computed(runner, sequences, [shelf.lineage(names) for names in LINEAGES])
    for sequence, names, options, mine in zip(
        sequences, LINEAGES, OPTIONS.values(), found, strict=True
    ):
        dense = [{m: d.to_dense() for m, d in each.items()} for each in shelf.deltas(names)]
        model = merged_model(backbone.path, dense)
        expected = teacher_forced(model, sequence.encoding.prompt, options)
        assert mine == pytest.approx(expected, abs=1e-4), names


@pytest.mark.parametrize(("way", "dtype"), ALL)
def test_a_node_has_the_numbers_of_a_row_that_was_fed_its_path(
    small: Backbone, way: Way, dtype: str
) -> None:
    """Rows of the target cache, a token a step: the other way to the same log-probabilities."""
    runner = make_runner(small, way, dtype)
    lineage = Shelf(runner, small).lineage(("a", "lora"))
    options = OPTIONS["beginnings of others"]
    sequence = choosing([*random_ids(20, seed=1), EOS], options, row=0)
    (found,) = computed(runner, [sequence], [lineage])
    slack = {"float32": 1e-4, "int8": 0.1, "bfloat16": 0.15}[dtype]
    with torch.inference_mode():
        for option, mine in zip(options, found, strict=True):
            row = make_sequence(sequence.encoding.prompt, row=0)
            total = 0.0
            for token in option:
                logits = runner.logits([row], [lineage])[0].double()
                total += float(logits.log_softmax(dim=-1)[token])
                row.output.append(token)
            assert mine == pytest.approx(total, abs=slack)


# -- in company


@pytest.mark.parametrize(("way", "dtype"), ALL)
def test_a_pass_has_its_bits_in_any_company(small: Backbone, way: Way, dtype: str) -> None:
    runner = make_runner(small, way, dtype)
    shelf, sequences = Shelf(runner, small), asked()
    lineages = [shelf.lineage(names) for names in LINEAGES]
    together = computed(runner, sequences, lineages)
    turned = computed(runner, sequences[::-1], lineages[::-1])[::-1]
    assert turned == together
    for i, sequence in enumerate(sequences):
        assert computed(runner, [again(sequence, 7 - i)], [lineages[i]]) == [together[i]]
        bare = computed(runner, [sequence], [()])
        assert (bare == [together[i]]) == (LINEAGES[i] == ()), "no contrast"


@pytest.mark.parametrize(("way", "dtype"), [pair for pair in ALL if pair[0] != "cuda"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_it_has_them_at_real_widths_and_any_thread_count(
    tmp_path: Path, threads: int, way: Way, dtype: str
) -> None:
    backbone = read_backbone(
        tiny_t5(tmp_path, d_model=256, heads=4, d_kv=64, d_ff=2816, layers=1, seed=3)
    )
    with torch_threads(threads):
        runner = make_runner(backbone, way, dtype)
        shelf, sequences = Shelf(runner, backbone), asked()
        lineages = [shelf.lineage(names) for names in LINEAGES]
        alone = [
            computed(runner, [sequence], [lineage])[0]
            for sequence, lineage in zip(sequences, lineages, strict=True)
        ]
        for order in ((0, 1), (4, 2), (3, 0, 4), (2, 3, 1, 0), (4, 1, 3, 2, 0), (1, 1, 1, 2, 2)):
            mixed = computed(runner, [sequences[i] for i in order], [lineages[i] for i in order])
            assert mixed == [alone[i] for i in order], order


@pytest.mark.parametrize(("way", "dtype"), ALL)
@torch.inference_mode()
def test_passes_and_rows_of_one_step_do_not_disturb_each_other(
    small: Backbone, way: Way, dtype: str
) -> None:
    """The row that a sequence with choices holds is not used, and a row's keys are as they were."""
    runner = make_runner(small, way, dtype)
    shelf, sequences = Shelf(runner, small), asked()
    lineages = [shelf.lineage(names) for names in LINEAGES]
    alone = computed(runner, sequences, lineages)
    plain = Sampling(8, logprobs="chosen")
    prompts = [[*random_ids(9 + row, seed=row), EOS] for row in (5, 6)]
    outputs = []
    for company in (False, True):
        rows = [make_sequence(p, row=5 + i, sampling=plain) for i, p in enumerate(prompts)]
        own = [lineages[1], ()]
        runner.encode([row.encoding for row in rows], own)
        passes = [whole_pass(sequence) for sequence in sequences] if company else []
        for _ in range(3):
            output = runner.decode(rows, own, passes, lineages if company else [])
            assert len(output.passes) == len(passes)
            outputs.append((output.token_ids, output.logprobs))
            for row, token in zip(rows, output.token_ids, strict=True):
                row.output.append(token)
    assert outputs[:3] == outputs[3:]
    assert computed(runner, sequences, lineages) == alone


@pytest.mark.parametrize(("way", "dtype"), ALL)
@torch.inference_mode()
def test_a_part_of_a_trie_is_what_the_whole_says_of_it(
    small: Backbone, way: Way, dtype: str
) -> None:
    runner = make_runner(small, way, dtype)
    sequence = choosing([*random_ids(20, seed=1), EOS], OPTIONS["many"], row=3)
    runner.encode([sequence.encoding], [()])
    whole = whole_pass(sequence)
    ((*expected,),) = runner.decode((), (), [whole], [()]).passes
    deepest = max(whole.nodes, key=lambda node: len(whole.trie.path(node)))
    path = whole.trie.path(deepest)
    assert 3 < len(path) < len(whole.nodes)
    (found,) = runner.decode((), (), [Pass(sequence, whole.trie, tuple(path))], [()]).passes
    slack = 0.1 if dtype == "bfloat16" else 1e-4
    for node, values in zip(path, found, strict=True):
        assert values == pytest.approx(expected[node], abs=slack)


@pytest.mark.parametrize(("way", "dtype"), ALL)
def test_a_pass_whose_logits_are_not_finite_fails_alone(
    small: Backbone, way: Way, dtype: str
) -> None:
    runner = make_runner(small, way, dtype)
    manifest, deltas = random_adapter(
        small, scale=1e37, density=0.5,
        targets=[name for name, site in small.sites.items() if site.stack == "decoder"],
    )  # fmt: skip
    broken = runner.pack(Adapter(manifest, deltas, "f" * 64))
    sequences = asked()
    bare = computed(runner, sequences, [()] * 5)
    mixed = computed(runner, sequences, [(), (broken,), (), (broken,), ()])
    assert mixed == [bare[0], [], bare[2], [], bare[4]]


def test_64_nodes_of_one_trie_and_of_64(small: Backbone) -> None:
    """As many as a step takes, in one pass and in one node each."""
    deep = [[*LONG[:16], *random_ids(17, seed=seed), EOS] for seed in range(3)]
    assert len(Trie.of(deep)) == 16 + 3 * 17 + 1 > LIMITS.max_nodes
    runner = make_runner(small, "torch")
    options = [[5 + i, EOS] for i in range(63)]
    assert len(Trie.of(options)) == LIMITS.max_nodes
    prompt = [*random_ids(12, seed=4), EOS]
    (whole,) = computed(runner, [choosing(prompt, options, row=0)], [()])
    assert whole == pytest.approx(
        teacher_forced(merged_model(small.path, []), prompt, options), abs=1e-4
    )
    single = choosing(prompt, [[5], [9]], row=0)
    (expected,) = computed(runner, [single], [()])
    many = computed(runner, [single] * 64, [()] * 64)
    assert many == [expected] * 64
