"""Choices through the scheduler and a real engine: a trie that is walked has the exhaustive answer.

What an answer's probabilities are made of is a log-probability for each option that counts. So the
rest must weigh next to nothing, at the temperature and at 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path

import pytest

from decoding import merged_model
from factories import random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import Adapter
from jumplora_server.core import Beams, Choices, FinishReason, Kernels, Sampling
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable
from jumplora_server.scheduler.walk import NEGLIGIBLE
from jumplora_server.trie import Trie
from scheduled import Asked, Site
from tries import EOS, random_options, teacher_forced

KERNELS: tuple[Kernels, ...] = ("native", "torch")
DTYPES = {"native": ("float32", "int8"), "torch": ("float32", "int8", "bfloat16")}
native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
MARKS = {"native": [native], "torch": []}
ALL = [
    pytest.param(kernels, dtype, marks=MARKS[kernels])
    for kernels in KERNELS
    for dtype in DTYPES[kernels]
]
LARGE = random_options(200, seed=5, vocab=150, longest=7, words=5)
SMALL = [[7, EOS], [7, 8, EOS], [9, EOS]]
PROMPTS = [[*range(3 + i, 30 + i, 2 + i), EOS] for i in range(6)]
# Passes of other nodes are rounded otherwise; a log-probability adds up to seven tokens'.
SLACK = {"float32": 1e-4, "int8": 0.2, "bfloat16": 1.0}


@dataclass(frozen=True)
class Served:
    """A backbone, a version for it, and that one's ancestor before it."""

    backbone: Backbone
    chain: tuple[Adapter, Adapter]

    def site(self, kernels: Kernels, dtype: str) -> Site:
        """Its tasks: the chain, and the same with the ancestor folded where it can be."""
        engine = Engine(
            self.backbone.path, dtype=dtype, kernels=kernels, max_rows=6, max_source_tokens=64,
            max_target_tokens=16,
        )  # fmt: skip
        ancestor, version = (engine.install(engine.pack(each)) for each in self.chain)
        site = Site(engine, slots={"chain": (ancestor, version)})
        if engine.can_fold:
            site.slots["folded"] = (engine.install(engine.fold(self.chain[:1])), version)
        return site

    def exhaustive(self, prompt: Rows[int], options: Rows[Rows[int]]) -> list[float]:
        """transformers' log-probabilities under the chain."""
        dense = [{m: d.to_dense() for m, d in each.deltas.items()} for each in self.chain]
        return teacher_forced(merged_model(self.backbone.path, dense), prompt, options)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder: Path = tmp_path_factory.mktemp("walked")
    backbone = read_backbone(tiny_t5(folder, vocab=160, seed=3))
    ancestor, version = (
        Adapter(*random_adapter(backbone, seed=seed, density=0.2, scale=0.3), str(seed) * 64)
        for seed in (0, 1)
    )
    return Served(backbone, (ancestor, version))


def one_by_one(site: Site, task: str, prompt: list[int], options: Rows[Rows[int]]) -> list[float]:
    """The engine's own log-probabilities, each option asked for alone."""
    asked: list[Asked] = [(task, prompt, choices([option])) for option in options]
    found = [finish.options[0] for finish in site.answers(asked)]
    assert None not in found
    return [value for value in found if value is not None]


def choices(options: Rows[Rows[int]], temperature: float = 1.0) -> Sampling:
    return Sampling(1, choices=Choices(Trie.of(options), temperature))


def weights(logprobs: Rows[float | None], temperature: float, highest: float) -> list[float]:
    return [0.0 if x is None else math.exp((x - highest) / temperature) for x in logprobs]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize(("kernels", "dtype"), ALL)
def test_a_walked_trie_has_the_exhaustive_answer(
    served: Served, kernels: Kernels, dtype: str, temperature: float
) -> None:
    site = served.site(kernels, dtype)
    trie = Trie.of(LARGE)
    assert len(trie) > 2 * site.engine.limits.max_nodes
    for task, prompt in zip(site.slots, PROMPTS, strict=False):
        site.passes.clear()
        (finish,) = site.answers([(task, prompt, choices(LARGE, temperature))])
        assert len(site.passes) > 1
        assert finish.reason == FinishReason.EOS_TOKEN
        exact = one_by_one(site, task, prompt, LARGE)
        if dtype == "float32":
            assert exact == pytest.approx(served.exhaustive(prompt, LARGE), abs=1e-4)
        for found, value in zip(finish.options, exact, strict=True):
            assert found is None or found == pytest.approx(value, abs=SLACK[dtype])
        # What was found in place of what is exact leaves what the walk itself does.
        known = [x if x is not None else y for x, y in zip(finish.options, exact, strict=True)]
        highest = max(known)
        for t in (1.0, temperature):
            reported, whole = (weights(each, t, highest) for each in (finish.options, known))
            for part, share in zip(reported, whole, strict=True):
                error = part / math.fsum(reported) - share / math.fsum(whole)
                assert abs(error) <= NEGLIGIBLE
            missing = math.fsum(whole) - math.fsum(reported)
            assert missing <= NEGLIGIBLE * math.fsum(reported)
        best = finish.options.index(max(x for x in finish.options if x is not None))
        assert finish.generated_tokens == len(LARGE[best])


@pytest.mark.parametrize(("kernels", "dtype"), ALL)
def test_a_hotter_temperature_looks_at_more(served: Served, kernels: Kernels, dtype: str) -> None:
    site = served.site(kernels, dtype)
    left_out = [
        site.answers([("chain", PROMPTS[0], choices(LARGE, t))])[0].options.count(None)
        for t in (0.2, 1.0, 3.0)
    ]
    assert left_out[0] == left_out[1] > left_out[2]


@pytest.mark.parametrize(("kernels", "dtype"), ALL)
def test_choices_have_their_bits_beside_all_other_kinds_of_requests(
    served: Served, kernels: Kernels, dtype: str
) -> None:
    """More than there are rows and more nodes than a step takes, so they wait for each other."""
    site = served.site(kernels, dtype)
    tasks: list[str | None] = [*site.slots, None]
    asked: list[Asked] = []
    for i, prompt in enumerate(PROMPTS):
        task, other = tasks[i % len(tasks)], tasks[(i + 1) % len(tasks)]
        asked.append((task, prompt, choices(LARGE, 1.0 + i % 2)))
        asked.append((other, prompt, Sampling(5 + i)))
        asked.append((other, PROMPTS[-i], choices(SMALL)))
        asked.append((task, prompt, Sampling(4, mode="sample", seed=i, logprobs="chosen")))
        asked.append((other, prompt, Sampling(4, beams=Beams(2, answers=2))))
    together = site.answers(asked)
    assert max(site.passes) > 30
    for each, finish in zip(asked, together, strict=True):
        (alone,) = site.answers([each])
        assert (alone.options, alone.answers) == (finish.options, finish.answers)
        assert alone.generated_tokens == finish.generated_tokens
