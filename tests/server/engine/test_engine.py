"""The mixed-batch theorem: a row's tokens are those of its request alone, and of merged weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from decoding import (
    advance,
    first_batch,
    load_reference,
    make_sequence,
    oracle,
    run,
    torch_threads,
)
from factories import random_adapter, tiny_t5, write_random_adapter
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import Delta
from jumplora_adapters.format import Adapter, read_adapter
from jumplora_server.core import Batch, Kernels, Sampling, Sequence
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable

STYLES = ("v1.0", "v1.1", "mt5", "umt5")
native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
PATHS = [
    pytest.param("float32", "native", marks=native),
    pytest.param("int8", "native", marks=native),
    ("float32", "torch"),
    ("int8", "torch"),
    ("bfloat16", "torch"),
]
KERNELS = [pytest.param("native", marks=native), "torch"]
LENGTHS = (5, 17, 33, 12, 1, 40)


@pytest.fixture(scope="module", params=STYLES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp(request.param.replace(".", ""))
    return read_backbone(tiny_t5(folder, style=request.param, seed=3))


def make_engine(
    backbone: Backbone,
    dtype: str = "float32",
    kernels: Kernels = "auto",
    *,
    rows: int = 8,
    source: int = 64,
) -> Engine:
    return Engine(
        backbone.path,
        dtype=dtype,
        max_rows=rows,
        max_source_tokens=source,
        max_target_tokens=16,
        kernels=kernels,
    )


@torch.inference_mode()
def logits_of(engine: Engine, batch: Batch) -> torch.Tensor:
    """The raw logits behind a step, to compare bits rather than tokens."""
    engine._encode(batch.encode)
    lineages = [engine._bank.lineage(sequence.encoding.slots) for sequence in batch.decode]
    return engine.runner.logits(batch.decode, lineages)


def prompts(lengths: Iterable[int] = LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [[*torch.randint(3, 300, (n,), generator=generator).tolist(), 1] for n in lengths]


class Shelf:
    """Three masked adapters and a low-rank one, installed, with the deltas they were made of."""

    def __init__(self, engine: Engine, backbone: Backbone, folder: Path) -> None:
        self.deltas: dict[int, dict[str, Delta]] = {}
        self.slots: dict[str, int] = {}
        for seed, name in enumerate(("a", "b", "dense", "lora")):
            density = 0.7 if name == "dense" else 0.1
            path = write_random_adapter(
                folder, backbone, task=name, seed=seed, density=density,
                kind="lowrank" if name == "lora" else "masked",
            )  # fmt: skip
            adapter = read_adapter(path, backbone)
            slot = engine.install(engine.pack(adapter))
            self.slots[name] = slot
            self.deltas[slot] = dict(adapter.deltas)

    def lineage(self, *names: str) -> tuple[int, ...]:
        return tuple(self.slots[name] for name in names)


LINEAGES: tuple[tuple[str, ...], ...] = (
    (), ("a",), ("b",), ("a",), ("lora",), ("a", "b", "dense"),
)  # fmt: skip


@pytest.mark.parametrize(("dtype", "kernels"), PATHS)
def test_mixed_batch_equals_each_alone(
    backbone: Backbone, dtype: str, kernels: Kernels, tmp_path: Path
) -> None:
    engine = make_engine(backbone, dtype, kernels)
    shelf = Shelf(engine, backbone, tmp_path)
    lineages = [shelf.lineage(*names) for names in LINEAGES]
    same_prompt = prompts()[1]
    by_lineage = [
        run(engine, [make_sequence(same_prompt, row=0, slots=slots)])[0]
        for slots in dict.fromkeys(lineages)
    ]
    assert len({tuple(tokens) for tokens in by_lineage}) == len(set(LINEAGES)), "no contrast"

    mixed = run(
        engine,
        [make_sequence(p, row=i, slots=lineages[i]) for i, p in enumerate(prompts())],
    )
    for i, prompt in enumerate(prompts()):
        alone = run(engine, [make_sequence(prompt, row=0, slots=lineages[i])])[0]
        assert mixed[i] == alone, f"row {i}, lineage {LINEAGES[i]}"


@pytest.mark.parametrize("kernels", KERNELS)
def test_mixed_batch_equals_transformers_with_merged_weights(
    backbone: Backbone, kernels: Kernels, tmp_path: Path
) -> None:
    engine = make_engine(backbone, kernels=kernels)
    shelf = Shelf(engine, backbone, tmp_path)
    lineages = [shelf.lineage(*names) for names in LINEAGES]
    mixed = run(
        engine,
        [make_sequence(p, row=i, slots=lineages[i]) for i, p in enumerate(prompts())],
    )
    for i, prompt in enumerate(prompts()):
        deltas = [shelf.deltas[slot] for slot in lineages[i]]
        assert mixed[i] == oracle(backbone.path, prompt, deltas), f"lineage {LINEAGES[i]}"


@pytest.mark.parametrize(("dtype", "kernels"), PATHS)
def test_rows_joining_and_leaving_do_not_disturb_others(
    backbone: Backbone, dtype: str, kernels: Kernels, tmp_path: Path
) -> None:
    engine = make_engine(backbone, dtype, kernels)
    shelf = Shelf(engine, backbone, tmp_path)
    limits = (12, 3, 9, 5, 12, 7)  # so that rows leave at different steps
    lineages = [shelf.lineage(*names) for names in LINEAGES]

    alone = [run(engine, [make_sequence(
        prompts()[i], row=0, slots=lineages[i], sampling=Sampling(max_new_tokens=limits[i])
    )])[0] for i in range(6)]  # fmt: skip

    # Rows 0..2 start; 3, 4, 5 join one step apart, 4 and 5 into rows that were left meanwhile.
    first = [
        make_sequence(
            prompts()[i], row=i, slots=lineages[i], sampling=Sampling(max_new_tokens=limits[i])
        )
        for i in range(3)
    ]
    everyone, live, waiting = list(first), list(first), [3, 4, 5]
    live = advance(engine, live, live)
    while live or waiting:
        joined = []
        if waiting:
            i = waiting.pop(0)
            row = min(set(range(8)) - {s.row for s in live})
            sampling = Sampling(max_new_tokens=limits[i])
            joined = [
                make_sequence(prompts()[i], row=row, slots=lineages[i], sampling=sampling, number=i)
            ]
            everyone += joined
        live = advance(engine, joined, [*live, *joined])
    assert [s.output for s in everyone] == alone


@pytest.mark.parametrize("kernels", KERNELS)
def test_same_seed_gives_the_same_tokens_in_any_batch(
    backbone: Backbone, kernels: Kernels, tmp_path: Path
) -> None:
    engine = make_engine(backbone, kernels=kernels)
    shelf = Shelf(engine, backbone, tmp_path)
    lineages = [shelf.lineage(*names) for names in LINEAGES]
    sampling = [
        Sampling(
            max_new_tokens=10,
            mode="sample",
            temperature=1.3,
            top_k=40,
            top_p=0.9,
            seed=i,
            repetition_penalty=1.0 + i / 5,
        )
        for i in range(6)
    ]
    mixed = run(
        engine,
        [
            make_sequence(p, row=i, slots=lineages[i], sampling=sampling[i])
            for i, p in enumerate(prompts())
        ],
    )
    for i, prompt in enumerate(prompts()):
        sequence = make_sequence(prompt, row=3, slots=lineages[i], sampling=sampling[i])
        assert run(engine, [sequence])[0] == mixed[i]
    other = [
        make_sequence(
            prompts()[0], row=0, slots=lineages[0],
            sampling=Sampling(max_new_tokens=10, mode="sample", temperature=1.3, seed=99),
        )
    ]  # fmt: skip
    assert run(engine, other)[0] != mixed[0]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    ("sampling", "options"),
    [
        (
            Sampling(max_new_tokens=12, repetition_penalty=1.7),
            {"repetition_penalty": 1.7},
        ),
        (Sampling(max_new_tokens=12, min_new_tokens=8), {"min_new_tokens": 8}),
    ],
    ids=["repetition penalty", "min_new_tokens"],
)
def test_constraints_match_transformers(
    backbone: Backbone, kernels: Kernels, sampling: Sampling, options: dict[str, float]
) -> None:
    engine = make_engine(backbone, kernels=kernels)
    for prompt in prompts():
        got = run(engine, [make_sequence(prompt, row=2, sampling=sampling)])[0]
        assert got == oracle(backbone.path, prompt, [], **options)


@pytest.mark.parametrize("kernels", KERNELS)
def test_logprobs_are_those_of_the_model_itself(backbone: Backbone, kernels: Kernels) -> None:
    engine = make_engine(backbone, kernels=kernels)
    sampling = Sampling(max_new_tokens=4, min_new_tokens=4, logprobs="chosen", temperature=0.5)
    sequence = make_sequence(prompts()[2], row=1, sampling=sampling)
    logprobs = []
    for step in range(4):
        output = engine.step(first_batch((sequence,)) if step == 0 else Batch((), (sequence,)))
        sequence.output.append(output.token_ids[0])
        logprobs.append(output.logprobs[0])
    model = load_reference(backbone.path)
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([prompts()[2]]),
            decoder_input_ids=torch.tensor([[0, *sequence.output[:-1]]]),
        ).logits[0]
    expected = torch.log_softmax(logits, dim=-1)[range(4), sequence.output]
    torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_row_with_non_finite_logits_fails_alone_and_leaves_a_clean_row(
    backbone: Backbone,
    kernels: Kernels,
) -> None:
    engine = make_engine(backbone, kernels=kernels)
    manifest, deltas = random_adapter(backbone, scale=1e37, density=0.5)
    slot = engine.install(engine.pack(Adapter(manifest=manifest, deltas=deltas, digest="f" * 64)))
    good = make_sequence(prompts()[0], row=0)
    bad = make_sequence(prompts()[5], row=1, slots=(slot,))
    output = engine.step(first_batch((good, bad)))
    assert output.failed == (1,)
    alone = make_sequence(prompts()[0], row=0, number=9)
    assert output.token_ids[0] == engine.step(first_batch((alone,))).token_ids[0]
    # The row's next tenant is shorter and stands beside a longer prompt, so that what the bad one
    # left behind the tenant's own tokens is read (under a mask).
    tenants = [make_sequence(prompts()[4], row=1), make_sequence(prompts()[5], row=0, number=8)]
    fresh = make_engine(backbone, kernels=kernels)
    expected = run(fresh, [make_sequence(prompts()[4], row=0)])[0]
    assert run(engine, tenants)[0] == expected


def steps_alone_and_together(engine: Engine, lineages: list[tuple[int, ...]], steps: int) -> int:
    """Compare the logits of 1 to 16 mates with each one's alone, at every step.

    Mate i sits in another row in each batch. Some mates are so much longer that attention runs over
    64, 128 or 192 keys. Returns how many rows of logits were compared.
    """
    asked = prompts((5, 17, 70, 12, 1, 150))

    def mate(i: int, row: int) -> Sequence:
        return make_sequence(asked[i % 6], row=row, slots=lineages[i % 6], number=100 * row + i)

    def steps_of(sequences: tuple[Sequence, ...]) -> list[torch.Tensor]:
        logits = []
        for step in range(steps):
            batch = first_batch(sequences) if step == 0 else Batch((), sequences)
            scores = logits_of(engine, batch).clone()
            logits.append(scores)
            for sequence in sequences:  # fixed tokens: one that differs must not hide in others
                sequence.output.append(5 + (7 * step + len(sequence.encoding.prompt)) % 300)
        return logits

    alone = [torch.stack(steps_of((mate(i, row=i),)))[:, 0] for i in range(6)]
    compared = 0
    for count in range(1, 17):
        batch = tuple(mate(i, row=(5 * i + count) % 16) for i in range(count))
        for step, together in enumerate(steps_of(batch)):
            for i in range(count):
                assert torch.equal(together[i], alone[i % 6][step]), f"{count} mates, {i}, {step}"
                compared += 1
    return compared


@pytest.mark.parametrize(("dtype", "kernels"), PATHS)
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_bits_do_not_depend_on_mates_at_real_widths_and_any_thread_count(
    tmp_path: Path, threads: int, dtype: str, kernels: Kernels
) -> None:
    backbone = read_backbone(
        tiny_t5(tmp_path / "t5", d_model=256, heads=4, d_kv=64, d_ff=2816, layers=1, seed=3)
    )
    with torch_threads(threads):
        engine = make_engine(backbone, dtype, kernels, rows=16, source=192)
        shelf = Shelf(engine, backbone, tmp_path)
        lineages = [shelf.lineage(*names) for names in LINEAGES]
        assert steps_alone_and_together(engine, lineages, steps=3) == 3 * sum(range(1, 17))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "float16"),
        ({"dtype": "int8", "device": "cuda"}, "CPU only"),
        ({"dtype": "bfloat16", "kernels": "native"}, r"not bfloat16 of (u?mt5|t5) on cpu"),
    ],
    ids=["unknown dtype", "int8 on a GPU", "native bfloat16"],
)
def test_impossible_settings_are_refused(
    backbone: Backbone, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(backbone.path, **options)  # type: ignore[arg-type]


@native
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_native_logits_are_those_of_the_torch_path(
    backbone: Backbone, dtype: str, tmp_path: Path
) -> None:
    logits = []
    paths: tuple[Kernels, ...] = ("native", "torch")
    for kernels in paths:
        engine = make_engine(backbone, dtype, kernels)
        shelf = Shelf(engine, backbone, tmp_path / kernels)
        batch = tuple(
            make_sequence(p, row=i, slots=shelf.lineage(*LINEAGES[i]))
            for i, p in enumerate(prompts())
        )
        logits.append(logits_of(engine, first_batch(batch)).clone())
    # int8 rounds activations: where sums differ in the last bit, a few fall to the other side.
    tolerance = 1e-4 if dtype == "float32" else 0.05 * float(logits[1].std())
    torch.testing.assert_close(logits[0], logits[1], atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_cuda_gives_the_tokens_of_the_cpu(
    backbone: Backbone, tmp_path: Path, kernels: Kernels
) -> None:
    on_cpu = make_engine(backbone)
    on_gpu = Engine(
        backbone.path, device="cuda", max_rows=8, max_source_tokens=64, max_target_tokens=16,
        kernels=kernels,
    )  # fmt: skip
    results = []
    for engine, folder in ((on_cpu, tmp_path / "cpu"), (on_gpu, tmp_path / "gpu")):
        shelf = Shelf(engine, backbone, folder)
        lineages = [shelf.lineage(*names) for names in LINEAGES]
        results.append(
            run(
                engine,
                [make_sequence(p, row=i, slots=lineages[i]) for i, p in enumerate(prompts())],
            )
        )
    assert results[0] == results[1]


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_token_without_an_embedding_fails_its_batch_alone(
    backbone: Backbone, kernels: Kernels
) -> None:
    engine = make_engine(backbone, kernels=kernels)
    broken = make_sequence([5, engine.vocab_size, 1], row=0)
    with pytest.raises(IndexError):
        engine.step(first_batch((broken,)))
    sound = make_sequence([5, 6, 1], row=1)
    assert engine.step(first_batch((sound,))).failed == ()
