"""A pass's log-probabilities have the bits of a decode that was fed the same tokens one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from decoding import first_batch, make_sequence, run, torch_threads
from factories import random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import Adapter
from jumplora_server.core import Batch, Beams, Choices, Encoding, Pass, Sampling, StepOutput
from jumplora_server.core import Sequence as Decoded
from jumplora_server.engine.engine import Engine, Kernels
from jumplora_server.engine.native.library import runnable_sets, why_unavailable
from jumplora_server.trie import Trie

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

TARGET = 40
Known = Mapping[tuple[int, ...], float]
"""The log-probability of a path's last token."""
PROMPT = [*range(40, 71), 1]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return read_backbone(tiny_t5(tmp_path_factory.mktemp("backbone"), seed=3))


@dataclass(frozen=True)
class Held:
    """An engine with a chain of three adapters, and its first two folded."""

    engine: Engine
    lineages: Mapping[str, tuple[int, ...]]


def make_engine(backbone: Backbone, dtype: str, kernels: Kernels = "native") -> Held:
    engine = Engine(
        backbone.path, dtype=dtype, max_rows=6, max_source_tokens=64, max_target_tokens=TARGET,
        kernels=kernels,
    )  # fmt: skip
    chain = [
        Adapter(*random_adapter(backbone, seed=seed, kind=kind, scale=0.2), f"{seed}" * 64)
        for seed, kind in ((5, "masked"), (6, "lowrank"), (7, "masked"))
    ]
    one, two, three = (engine.install(engine.pack(adapter)) for adapter in chain)
    trunk = engine.install(engine.fold(chain[:2]))
    lineages = {"bare": (), "chain": (one, two, three), "trunk": (trunk, three)}
    return Held(engine, lineages)


def decode_all(engine: Engine, slots: tuple[int, ...], *, paths: int, most: int) -> Known:
    """What sampled decodes of the prompt give their tokens, each one longer than a part of another
    with which it begins."""
    known: dict[tuple[int, ...], float] = {}
    generator = torch.Generator().manual_seed(1)
    outputs: list[list[int]] = [[]]
    for seed in range(paths):
        earlier = outputs[seed // 2]
        shared = int(torch.randint(len(earlier) + 1, (1,), generator=generator))
        length = most if seed == 0 else int(torch.randint(1, most + 1, (1,), generator=generator))
        sequence = make_sequence(PROMPT, row=0, slots=slots, number=100 + seed)
        sequence.sampling = Sampling(
            TARGET, mode="sample", temperature=3.0, seed=seed, logprobs="chosen"
        )
        encode: tuple[Encoding, ...] = (sequence.encoding,)
        while len(sequence.output) < max(length, shared + 1):
            output = engine.step(Batch(encode, (sequence,)))
            encode = ()
            (token,), (logprob,) = output.token_ids, output.logprobs
            assert logprob is not None
            known[(*sequence.output, token)] = logprob
            stands = len(sequence.output)
            sequence.output.append(earlier[stands] if stands < shared else token)
        outputs.append(sequence.output)
    return known


def trie_of(known: Known) -> Trie:
    """Of all paths that no other one begins with."""
    begun = {path[:-1] for path in known}
    return Trie.of([path for path in known if path not in begun])


def logprobs_of(trie: Trie, nodes: Sequence[int], known: Known) -> tuple[tuple[float, ...], ...]:
    def path(node: int) -> tuple[int, ...]:
        return tuple(trie.tokens[each] for each in trie.path(node)[1:])

    return tuple(tuple(known[*path(node), e.token] for e in trie.edges[node]) for node in nodes)


def make_pass(trie: Trie, slots: tuple[int, ...], *, row: int, nodes: Sequence[int] = ()) -> Pass:
    sequence = make_sequence(PROMPT, row=row, slots=slots, number=50 + row)
    sequence.sampling = Sampling(TARGET, choices=Choices(trie))
    return Pass(sequence, trie, tuple(nodes) or tuple(range(len(trie))))


def compute(engine: Engine, *passes: Pass, decode: Sequence[Decoded] = ()) -> StepOutput:
    prompts = (*(each.sequence for each in passes), *decode)
    return engine.step(Batch(first_batch(prompts).encode, tuple(decode), passes=passes))


@pytest.mark.parametrize("kernels", runnable_sets())
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_it_has_the_bits_of_a_decode(backbone: Backbone, dtype: str, kernels: Kernels) -> None:
    held = make_engine(backbone, dtype, kernels)
    for slots in held.lineages.values():
        known = decode_all(held.engine, slots, paths=12, most=6)
        trie = trie_of(known)
        assert 12 < len(trie) <= 64
        (found,) = compute(held.engine, make_pass(trie, slots, row=2)).passes
        assert found == logprobs_of(trie, range(len(trie)), known)
