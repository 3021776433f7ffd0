"""Every member of the family and odd shapes: transformers' tokens, with adapters on all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch

from decoding import first_batch, make_sequence, oracle, run
from factories import random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import Adapter
from jumplora_adapters.manifest import Kind
from jumplora_server.core import Kernels, Sampling, Sequence
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable
from odd_shapes import MEMBERS, SHAPES

native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
KERNELS = [pytest.param("native", marks=native), "torch"]
TOKENS = 8
LENGTHS = (5, 70, 12, 33)
LINEAGES: tuple[tuple[str, ...], ...] = ((), ("sparse",), ("lora",), ("sparse", "lora"))
KINDS: dict[str, Kind] = {"sparse": "masked", "lora": "lowrank"}


@dataclass(frozen=True, slots=True)
class Member:
    """A backbone with an adapter of each kind on every linear layer, and what it answers."""

    backbone: Backbone
    adapters: dict[str, Adapter]
    expected: list[list[int]]  # of each lineage, by transformers


@pytest.fixture(scope="module", params=[*MEMBERS, *SHAPES])
def member(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Member:
    folder = tmp_path_factory.mktemp("family") / "backbone"
    options = {**MEMBERS, **SHAPES}[request.param]
    backbone, adapters = read_backbone(tiny_t5(folder, seed=3, **options)), {}
    for seed, (name, kind) in enumerate(KINDS.items()):
        manifest, deltas = random_adapter(
            backbone, seed=seed, kind=kind, scale=0.1, targets=list(backbone.sites)
        )
        adapters[name] = Adapter(manifest, deltas, digest=f"{seed}" * 64)
    # transformers' cache has room for no more blocks than the encoder has.
    shape = backbone.architecture
    has_room = shape.num_decoder_layers <= shape.num_layers
    expected = [
        oracle(
            folder, prompt, [adapters[name].deltas for name in lineage],
            max_new_tokens=TOKENS, use_cache=has_room,
        )
        for prompt, lineage in zip(prompts(), LINEAGES, strict=True)
    ]  # fmt: skip
    return Member(backbone, adapters, expected)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [[*torch.randint(3, 300, (n,), generator=generator).tolist(), 1] for n in LENGTHS]


def batch(engine: Engine, adapters: Mapping[str, Adapter]) -> list[Sequence]:
    """A row of each lineage, whose prompts have other lengths."""
    slots = {name: engine.install(engine.pack(adapter)) for name, adapter in adapters.items()}
    sampling = Sampling(max_new_tokens=TOKENS)
    return [
        make_sequence(
            prompt, row=row, slots=tuple(slots[name] for name in lineage), sampling=sampling
        )
        for row, (prompt, lineage) in enumerate(zip(prompts(), LINEAGES, strict=True))
    ]


def make_engine(backbone: Backbone, dtype: str, kernels: Kernels) -> Engine:
    return Engine(
        backbone.path, dtype=dtype, max_rows=6, max_source_tokens=80, max_target_tokens=16,
        kernels=kernels,
    )  # fmt: skip


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_mixed_batch_has_transformers_tokens(member: Member, kernels: Kernels) -> None:
    engine = make_engine(member.backbone, "float32", kernels)
    assert run(engine, batch(engine, member.adapters)) == member.expected


@pytest.mark.parametrize(
    ("dtype", "kernels"),
    [
        pytest.param("float32", "native", marks=native),
        pytest.param("int8", "native", marks=native),
        ("float32", "torch"),
    ],
)
def test_a_rows_bits_are_its_own(member: Member, dtype: str, kernels: Kernels) -> None:
    engine = make_engine(member.backbone, dtype, kernels)
    together = logits_of(engine, batch(engine, member.adapters))
    for row, sequence in enumerate(batch(engine, member.adapters)):
        sequence.row = sequence.encoding.place = (row + 1) % 6
        assert torch.equal(logits_of(engine, [sequence])[0], together[row]), f"row {row}"


@native
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_native_logits_are_those_of_torch(member: Member, dtype: str) -> None:
    paths: tuple[Kernels, ...] = ("native", "torch")
    logits = []
    for kernels in paths:
        engine = make_engine(member.backbone, dtype, kernels)
        logits.append(logits_of(engine, batch(engine, member.adapters)))
    # int8 rounds activations: where sums differ in the last bit, a few fall to the other side.
    tolerance = (1e-4 if dtype == "float32" else 0.1) * float(logits[1].std())
    torch.testing.assert_close(logits[0], logits[1], atol=tolerance, rtol=1e-4)


@torch.inference_mode()
def logits_of(engine: Engine, sequences: list[Sequence]) -> torch.Tensor:
    """Of a step after two tokens that all rows were given."""
    engine._encode(first_batch(sequences).encode)
    lineages = [engine._bank.lineage(sequence.encoding.slots) for sequence in sequences]
    for token in (7, 9, 11):
        logits = engine.runner.logits(sequences, lineages).clone()
        for sequence in sequences:
            sequence.output.append(token)
    return logits
