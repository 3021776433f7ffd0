"""Beam searches in a mixed batch are those of transformers, whatever stands beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from decoding import beams_oracle, oracle
from factories import tiny_t5, write_random_adapter
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import read_adapter
from jumplora_server.core import Beams, Finish, Kernels, Sampling
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable
from scheduled import Asked, Site

native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
PATHS = [
    pytest.param("float32", "native", marks=native),
    pytest.param("int8", "native", marks=native),
    ("float32", "torch"),
]
GREEDY = Sampling(max_new_tokens=9)
ROWS = 14


@pytest.fixture(scope="module", params=("v1.0", "v1.1", "mt5", "umt5"))
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp(request.param.replace(".", ""))
    return read_backbone(tiny_t5(folder, style=request.param, seed=3))


def make_site(backbone: Backbone, folder: Path, dtype: str, kernels: Kernels) -> Site:
    site = Site(
        Engine(
            backbone.path,
            dtype=dtype,
            max_rows=ROWS,
            max_source_tokens=64,
            max_target_tokens=16,
            kernels=kernels,
        )
    )
    for seed, (task, kind) in enumerate({"a": "masked", "b": "masked", "lora": "lowrank"}.items()):
        path = write_random_adapter(folder, backbone, task=task, seed=seed, density=0.2, kind=kind)
        adapter = read_adapter(path, backbone)
        site.slots[task] = (site.engine.install(site.engine.pack(adapter)),)
        site.deltas[task] = (dict(adapter.deltas),)
    return site


def prompts() -> list[list[int]]:
    return [[*range(3 + i, 40 + i, 2 + i), 1] for i in range(6)]


SEARCHES: list[tuple[str | None, Sampling]] = [
    (None, Sampling(9, beams=Beams(4, answers=4))),
    ("a", Sampling(9, beams=Beams(2, 0.0, early_stopping=True))),
    ("b", Sampling(7, beams=Beams(3, 2.0, "never", answers=2))),
    ("lora", Sampling(9, no_repeat_ngram_size=2, beams=Beams(3, answers=3))),
    ("a", Sampling(8, min_new_tokens=5, repetition_penalty=1.4, beams=Beams(2, answers=2))),
    (None, Sampling(9, no_repeat_ngram_size=1, beams=Beams(3, -0.5))),
]


def mixed(site: Site) -> list[Asked]:
    """Every search, and greedy or sampled sequences between."""
    asked: list[Asked] = []
    for i, (task, sampling) in enumerate(SEARCHES):
        sampled = Sampling(6, mode="sample", temperature=1.5, seed=i)
        other = GREEDY if i % 2 else sampled
        asked.append((task, prompts()[i], sampling))
        asked.append((("a", None, "lora")[i % 3], prompts()[-i], other))
    return asked


def options(sampling: Sampling) -> dict[str, Any]:
    beams = sampling.beams
    assert beams is not None
    return {
        "max_new_tokens": sampling.max_new_tokens,
        "min_new_tokens": sampling.min_new_tokens or None,
        "num_beams": beams.width,
        "length_penalty": beams.length_penalty,
        "early_stopping": beams.early_stopping,
        "num_return_sequences": beams.answers,
        "no_repeat_ngram_size": sampling.no_repeat_ngram_size or None,
        "repetition_penalty": sampling.repetition_penalty,
        "do_sample": False,
    }


def tokens_of(finish: Finish) -> list[list[int]]:
    return [[token.id for token in answer.tokens] for answer in finish.answers]


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=native), "torch"])
def test_answers_and_scores_are_those_of_transformers(
    backbone: Backbone, kernels: Kernels, tmp_path: Path
) -> None:
    site = make_site(backbone, tmp_path, "float32", kernels)
    asked = mixed(site)
    for (task, prompt, sampling), finish in zip(asked, site.answers(asked), strict=True):
        deltas = site.deltas.get(task or "", ())
        if sampling.beams is None:
            if sampling is GREEDY:
                expected = oracle(backbone.path, prompt, deltas, max_new_tokens=9)
                assert finish.generated_tokens == len(expected)
            continue
        theirs = beams_oracle(backbone.path, prompt, deltas, **options(sampling))
        assert tokens_of(finish) == [tokens for tokens, _ in theirs], (task, sampling)
        scores = [answer.score for answer in finish.answers]
        assert scores == pytest.approx([score for _, score in theirs], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("dtype", "kernels"), PATHS)
def test_alone_and_in_a_mixed_batch_they_are_the_same_to_the_bit(
    backbone: Backbone, dtype: str, kernels: Kernels, tmp_path: Path
) -> None:
    site = make_site(backbone, tmp_path, dtype, kernels)
    asked = mixed(site)
    together = site.answers(asked)
    for ask, finish in zip(asked, together, strict=True):
        (alone,) = site.answers([ask])
        assert tokens_of(alone) == tokens_of(finish)
        assert [a.score for a in alone.answers] == [a.score for a in finish.answers]
        assert alone.generated_tokens == finish.generated_tokens


def test_a_prompt_is_encoded_once_whatever_the_number_of_hypotheses(
    backbone: Backbone, tmp_path: Path
) -> None:
    site = make_site(backbone, tmp_path, "float32", "auto")
    asked = mixed(site)
    site.answers(asked)
    assert sorted(site.encoded) == sorted(tuple(prompt) for _, prompt, _ in asked)
