"""Rows that fork as a beam search has them: copied each step, all of them of one encoding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from decoding import make_sequence, merged_model, run
from factories import random_adapter, tiny_t5
from forking import Forks, Step, assert_transformers, search
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import Delta
from jumplora_adapters.format import Adapter
from jumplora_server.core import Batch, Beams, Encoding, Kernels, Sampling
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable

native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
PATHS = [
    pytest.param("float32", "native", marks=native),
    pytest.param("int8", "native", marks=native),
    ("float32", "torch"),
    ("bfloat16", "torch"),
]
STEPS = 34  # past two whole vectors of keys
PLAIN = Sampling(STEPS, beams=Beams(3))
EDITED = Sampling(
    STEPS, beams=Beams(4), repetition_penalty=1.4, no_repeat_ngram_size=2, min_new_tokens=5
)
GREEDY = Sampling(STEPS, min_new_tokens=STEPS, repetition_penalty=1.2)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return read_backbone(tiny_t5(tmp_path_factory.mktemp("backbone"), seed=3))


def make_engine(backbone: Backbone, dtype: str, kernels: Kernels) -> tuple[Engine, int]:
    """An engine and the slot of an adapter that it holds."""
    engine = Engine(
        backbone.path, dtype=dtype, max_rows=10, max_source_tokens=96, max_target_tokens=STEPS + 2,
        kernels=kernels,
    )  # fmt: skip
    manifest, deltas = random_adapter(backbone, seed=5)
    return engine, engine.install(engine.pack(Adapter(manifest, deltas, "a" * 64)))


def prompt(tokens: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [*torch.randint(3, 250, (tokens,), generator=generator).tolist(), 1]


def make_forks(slots: tuple[int, ...]) -> tuple[Forks, Forks]:
    """Searches whose rows lie between one another, and whose places are no rows of theirs."""
    plain = Forks(70, prompt(30, 1), [6, 1, 3], place=8, sampling=PLAIN)
    edited = Forks(71, prompt(9, 2), [2, 7, 0, 5], slots=slots, place=1, sampling=EDITED)
    return plain, edited


def alone(forks: Forks, step: Step, output: list[int]) -> None:
    """Feed one hypothesis's tokens to a row that is never copied: it sees the same candidates."""
    encoding = Encoding(None, forks.encoding.prompt, forks.encoding.slots, place=0)
    sequence = make_sequence((), row=0, sampling=forks.hypotheses[0].sampling)
    sequence.encoding = encoding
    for token in output:
        first = (encoding,) if not sequence.output else ()
        (listed,) = step(Batch(first, (sequence,))).candidates
        assert listed == forks.seen[tuple(sequence.output)]
        sequence.output.append(token)


@pytest.mark.parametrize(("dtype", "kernels"), PATHS)
def test_a_hypothesis_in_copied_rows_has_the_bits_of_one_alone(
    backbone: Backbone, dtype: str, kernels: Kernels
) -> None:
    engine, slot = make_engine(backbone, dtype, kernels)
    wanted = run(engine, [make_sequence(prompt(50, 3), row=0, sampling=GREEDY)])[0]
    greedy = make_sequence(prompt(50, 3), row=4, sampling=GREEDY)
    searches = make_forks((slot,))
    search(engine.step, searches, [greedy], STEPS)
    assert greedy.output == wanted
    for each in searches:
        assert each.copies > STEPS // 2, "no contrast"
        for hypothesis in each.hypotheses:
            alone(each, engine.step, hypothesis.output)


def dense(deltas: dict[str, Delta]) -> dict[str, torch.Tensor]:
    return {module: delta.to_dense(torch.float32) for module, delta in deltas.items()}


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=native), "torch"])
def test_hypotheses_see_what_transformers_gives_their_tokens(
    backbone: Backbone, kernels: Kernels, tmp_path: Path
) -> None:
    engine, slot = make_engine(backbone, "float32", kernels)
    plain, edited = make_forks((slot,))
    search(engine.step, (plain, edited), [], STEPS)
    _, deltas = random_adapter(backbone, seed=5)
    for forks, updates in ((plain, []), (edited, [dense(deltas)])):
        assert_transformers(forks, merged_model(backbone.path, updates), hair=2e-4)
