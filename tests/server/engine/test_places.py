"""Several continuations of one prompt: it is encoded once, and rows are copied."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from decoding import advance, first_batch, make_sequence, run
from factories import random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import Adapter
from jumplora_server.core import Batch, Encoding, Kernels, RowCopy, Sampling, Sequence, StepOutput
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable

native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
PATHS = [
    pytest.param("float32", "native", marks=native),
    pytest.param("int8", "native", marks=native),
    ("float32", "torch"),
    ("bfloat16", "torch"),
]
ROWS, TARGET = 6, 40


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return read_backbone(tiny_t5(tmp_path_factory.mktemp("backbone"), seed=3))


def make_engine(backbone: Backbone, dtype: str, kernels: Kernels) -> tuple[Engine, int]:
    """An engine and the slot of an adapter that it holds."""
    engine = Engine(
        backbone.path, dtype=dtype, max_rows=ROWS, max_source_tokens=96, max_target_tokens=TARGET,
        kernels=kernels,
    )  # fmt: skip
    manifest, deltas = random_adapter(backbone, seed=5)
    return engine, engine.install(engine.pack(Adapter(manifest, deltas, "a" * 64)))


def prompt(tokens: int, seed: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [*torch.randint(3, 300, (tokens,), generator=generator).tolist(), 1]


def another(first: Sequence, row: int, sampling: Sampling | None = None) -> Sequence:
    """A sequence of the same prompt in a row of its own."""
    sequence = make_sequence((), row=row, sampling=sampling or first.sampling)
    return replace(sequence, encoding=first.encoding)


def sampled(seed: int, tokens: int = 12) -> Sampling:
    return Sampling(
        max_new_tokens=tokens, min_new_tokens=tokens, mode="sample", temperature=1.2, seed=seed,
        repetition_penalty=1.3,
    )  # fmt: skip


@pytest.mark.parametrize(("dtype", "kernels"), PATHS)
def test_sequences_of_one_encoding_are_those_of_a_prompt_each(
    backbone: Backbone, dtype: str, kernels: Kernels
) -> None:
    engine, slot = make_engine(backbone, dtype, kernels)
    alone = [
        run(engine, [make_sequence(prompt(30), row=0, slots=(slot,), sampling=sampled(seed))])[0]
        for seed in range(3)
    ]
    assert len({tuple(tokens) for tokens in alone}) == 3, "no contrast"
    other = make_sequence(prompt(70, seed=2), row=5, sampling=sampled(9))
    other.encoding.place = 0
    wanted_other = run(engine, [make_sequence(prompt(70, seed=2), row=1, sampling=sampled(9))])[0]
    first = make_sequence(prompt(30), row=2, slots=(slot,), sampling=sampled(0))
    first.encoding.place = 4  # another number than any of its rows
    answers = [first, another(first, 0, sampled(1)), another(first, 3, sampled(2))]
    found = run(engine, [*answers, other])
    assert found == [*alone, wanted_other]


@pytest.mark.parametrize(("dtype", "kernels"), PATHS)
def test_a_sequence_may_join_a_prompt_that_was_encoded_before(
    backbone: Backbone, dtype: str, kernels: Kernels
) -> None:
    engine, slot = make_engine(backbone, dtype, kernels)
    first = make_sequence(prompt(30), row=1, slots=(slot,), sampling=sampled(0))
    wanted = run(engine, [make_sequence(prompt(30), row=0, slots=(slot,), sampling=sampled(7))])[0]
    advance(engine, [first], [first])
    late = another(first, 4, sampled(7))
    for _ in range(11):
        advance(engine, (), [first, late])
    advance(engine, (), [late])
    assert late.output == wanted


@pytest.mark.parametrize("stands", [1, 15, 16, 17, 33])
@pytest.mark.parametrize(("dtype", "kernels"), PATHS)
def test_a_copied_row_goes_on_as_the_row_that_it_was_copied_from(
    backbone: Backbone, dtype: str, kernels: Kernels, stands: int
) -> None:
    engine, slot = make_engine(backbone, dtype, kernels)
    sampling = sampled(3, tokens=stands + 5)
    source = make_sequence(prompt(30), row=1, slots=(slot,), sampling=sampling)
    spoilt = make_sequence(prompt(9, seed=8), row=4, sampling=sampled(6, TARGET))
    run(engine, [spoilt])  # what the row held before
    advance(engine, [source], [source])
    for _ in range(stands - 1):
        advance(engine, (), [source])
    copied = another(source, 4)
    copied.output.extend(source.output)
    copied.id = 77
    copies = (RowCopy(source=1, row=4, tokens=stands),)
    for step in range(5):
        both = (source, copied)
        output = engine.step(Batch((), both, copies if step == 0 else ()))
        for sequence, token in zip(both, output.token_ids, strict=True):
            sequence.output.append(token)
    assert copied.output == source.output
    assert len(copied.output) == stands + 5


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=native), "torch"])
def test_a_copy_knows_the_tokens_that_its_source_never_looked_at(
    backbone: Backbone, kernels: Kernels
) -> None:
    """A greedy row takes no notice of its tokens, but the one that continues may repeat none.

    Or must, as here: what it was fed is preferred to all the rest.
    """
    engine, slot = make_engine(backbone, "float32", kernels)
    repeating = Sampling(max_new_tokens=TARGET, repetition_penalty=0.02)
    run(engine, [make_sequence(prompt(9, seed=8), row=4, sampling=repeating)])  # fed before
    source = make_sequence(prompt(30), row=1, slots=(slot,), sampling=Sampling(TARGET))
    engine.step(first_batch([source]))
    source.output.append(5)
    while len(source.output) < 9:
        engine.step(Batch((), (source,)))
        source.output.append(5 + 7 * len(source.output))
    copied = another(source, 4, repeating)
    copied.output.extend(source.output)
    copied.id = 77
    lineage = engine._bank.lineage((slot,))
    with torch.inference_mode():
        logits = engine.runner.logits([source], [lineage])[0].clone()
        likeliest = int(logits.argmax())
        fed = torch.tensor([0, *source.output])
        logits[fed] = torch.where(logits[fed] > 0, logits[fed] / 0.02, logits[fed] * 0.02)
    output = engine.step(Batch((), (source, copied), (RowCopy(1, 4, len(source.output)),)))
    assert output.token_ids == (likeliest, int(logits.argmax()))
    assert likeliest not in source.output, "no contrast"
    assert output.token_ids[1] in source.output, "no contrast"


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=native), "torch"])
def test_a_sequence_that_takes_up_anothers_tokens_knows_them(
    backbone: Backbone, kernels: Kernels
) -> None:
    """As a beam does: the row keeps its sequence, and goes on from where another one stands."""
    engine, _ = make_engine(backbone, "float32", kernels)
    repeating = Sampling(max_new_tokens=12, min_new_tokens=12, repetition_penalty=3.0)
    source = make_sequence(prompt(30), row=1, sampling=repeating)
    beam = another(source, 4, replace(repeating, mode="sample", temperature=50.0, seed=1))
    beam.id = 77
    advance(engine, [source, beam], [source, beam])
    for _ in range(6):
        advance(engine, (), [source, beam])
    assert beam.output != source.output, "no contrast"
    beam.output[:] = source.output
    beam.sampling = repeating
    output = engine.step(Batch((), (source, beam), (RowCopy(1, 4, len(source.output)),)))
    assert output.token_ids[0] == output.token_ids[1]


@pytest.mark.parametrize("tokens", [3, 16, 64, 79])
@pytest.mark.parametrize(("dtype", "kernels"), PATHS)
def test_neighbours_of_one_prompt_have_the_bits_of_each_alone(
    backbone: Backbone, dtype: str, kernels: Kernels, tokens: int
) -> None:
    """However many they are: kernels take some of them together."""
    engine, _ = make_engine(backbone, dtype, kernels)
    first = make_sequence(prompt(tokens), row=0)
    other = make_sequence(prompt(20, seed=2), row=ROWS - 1)
    first.encoding.place = 3
    rows = [first, *(another(first, row) for row in range(1, ROWS - 1))]
    engine.step(first_batch([*rows, other]))
    with torch.inference_mode():
        for row in rows:  # what they were fed differs
            row.output.append(5 + row.row)
        alone = [engine.runner.logits([row], [()])[0].clone() for row in rows]
        assert not torch.equal(alone[0], alone[1]), "no contrast"
        for count in range(1, len(rows) + 1):
            for given in (rows[:count], [*rows[:count], other], [other, *rows[:count]]):
                logits = engine.runner.logits(given, [()] * len(given))
                start = given.index(rows[0])
                for got, wanted in zip(logits[start : start + count], alone, strict=False):
                    assert torch.equal(got, wanted)


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=native), "torch"])
def test_a_copy_has_the_bits_of_its_source(backbone: Backbone, kernels: Kernels) -> None:
    engine, slot = make_engine(backbone, "float32", kernels)
    source = make_sequence(prompt(30), row=0, slots=(slot,))
    advance(engine, [source], [source])
    source.output[:] = [17]
    copied = another(source, 3)
    copied.output.extend(source.output)
    with torch.inference_mode():
        engine.runner.copy([RowCopy(source=0, row=3, tokens=1)])
        lineage = engine._bank.lineage((slot,))
        logits = engine.runner.logits([source, copied], [lineage, lineage])
        assert torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(
    ("copies", "error"),
    [
        ([RowCopy(0, 1, 2), RowCopy(2, 1, 2)], ValueError),
        ([RowCopy(0, 1, 2), RowCopy(1, 2, 2)], ValueError),
        ([RowCopy(0, 0, 2)], ValueError),
        ([RowCopy(0, 1, TARGET + 1)], IndexError),
        ([RowCopy(0, 1, 2, same=3)], IndexError),
        ([RowCopy(0, 1, 2, same=-1)], IndexError),
        ([RowCopy(0, ROWS, 2)], IndexError),
        ([RowCopy(-1, 1, 2)], IndexError),
    ],
    ids=[
        "twice",
        "from and to",
        "itself",
        "too many tokens",
        "more the same",
        "less than none the same",
        "to no row",
        "from no row",
    ],
)
def test_copies_that_have_no_meaning_are_refused(
    backbone: Backbone, copies: Rows[RowCopy], error: type[Exception]
) -> None:
    engine, _ = make_engine(backbone, "float32", "torch")
    with pytest.raises(error, match="cop"):
        engine.step(Batch((), (), tuple(copies)))


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=native), "torch"])
def test_a_place_is_clean_after_a_row_that_failed(
    backbone: Backbone, kernels: Kernels, tmp_path: Path
) -> None:
    engine, _ = make_engine(backbone, "float32", kernels)
    manifest, deltas = random_adapter(backbone, scale=1e37, density=0.5)
    broken_slot = engine.install(engine.pack(Adapter(manifest, deltas, "f" * 64)))
    broken = make_sequence(prompt(80), row=2, slots=(broken_slot,))
    broken.encoding.place = 3
    assert engine.step(first_batch((broken, another(broken, 1)))).failed == (0, 1)
    assert tokens_at(engine, row=2, place=3) == tokens_at(
        make_engine(backbone, "float32", kernels)[0]
    )


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=native), "torch"])
def test_a_place_and_a_row_are_clean_after_a_step_that_raised(
    backbone: Backbone, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = make_engine(backbone, "float32", kernels)
    manifest, deltas = random_adapter(backbone, scale=1e37, density=0.5)
    broken_slot = engine.install(engine.pack(Adapter(manifest, deltas, "f" * 64)))
    broken = make_sequence(prompt(80), row=2, slots=(broken_slot,))
    broken.encoding.place = 3
    decode = engine.runner.decode

    def raise_late(*given: Any) -> StepOutput:
        decode(*given)
        raise MemoryError("after all was written")

    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "decode", raise_late)
        with pytest.raises(MemoryError):
            engine.step(first_batch([broken]))
    assert tokens_at(engine, row=2, place=3) == tokens_at(
        make_engine(backbone, "float32", kernels)[0]
    )


@pytest.mark.parametrize("role", ["k", "v"])
@pytest.mark.parametrize(("dtype", "kernels"), PATHS)
def test_a_row_whose_prompt_has_infinite_keys_or_values_fails_alone(
    backbone: Backbone, dtype: str, kernels: Kernels, role: str
) -> None:
    """They are kept in 16 bits in int8, where what is merely large becomes the largest number."""
    engine, _ = make_engine(backbone, dtype, kernels)
    targets = [f"decoder.block.0.layer.1.EncDecAttention.{role}"]
    manifest, deltas = random_adapter(backbone, scale=6e37, density=1, targets=targets)
    slot = engine.install(engine.pack(Adapter(manifest, deltas, "f" * 64)))
    rows = [make_sequence(prompt(20), row=row, slots=(slot,) * row) for row in (0, 1)]
    assert engine.step(first_batch(rows)).failed == (1,)


def tokens_at(engine: Engine, row: int = 1, place: int = 1) -> list[int]:
    """Of a short prompt beside a long one, whose length its attention reads, too."""
    short, long = make_sequence(prompt(10), row=row), make_sequence(prompt(85, seed=4), row=0)
    short.encoding.place = place
    return run(engine, [short, long])[0]


def test_an_encoding_knows_its_sequences_by_count_alone() -> None:
    encoding = Encoding(None, (5, 1))
    assert (encoding.place, encoding.sequences, encoding.slots) == (-1, 0, ())


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=native), "torch"])
@pytest.mark.parametrize(
    ("output", "words"),
    [([-1], "token -1"), ([10**6], "token 1000000"), ([5] * TARGET, "has them all")],
    ids=["a failed row's mark", "beyond the vocabulary", "a full row"],
)
def test_tokens_that_no_row_can_be_fed_are_refused(
    backbone: Backbone, kernels: Kernels, output: list[int], words: str
) -> None:
    engine, _ = make_engine(backbone, "float32", kernels)
    sequence = make_sequence(prompt(9), row=1)
    engine.step(first_batch((sequence,)))
    sequence.output.extend(output)
    with pytest.raises(IndexError, match=words):
        engine.step(Batch((), (sequence,)))


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=native), "torch"])
def test_a_prompt_that_no_place_takes_is_refused(backbone: Backbone, kernels: Kernels) -> None:
    engine, _ = make_engine(backbone, "float32", kernels)
    with pytest.raises(IndexError, match="97 tokens; a place takes 96"):
        engine.step(first_batch((make_sequence(prompt(96), row=0),)))
