"""Nodes of passes in the kernels: the bits of a plain decode, alone and beside anything."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

import pytest
import torch

from factories import random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import Adapter
from jumplora_server.core import (
    Batch,
    Beams,
    Choices,
    Encoding,
    EngineLimits,
    InstructionSet,
    NoText,
    Pass,
    Sampling,
    Sequence,
)
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import runnable_sets
from jumplora_server.trie import Trie

EOS = 1
DEEP = [3 + n * 7 % 140 for n in range(40)]  # over two vectors of keys
OPTIONS = [
    [7, EOS],
    [7, 8, EOS],
    [9, 8, 7, EOS],
    [*DEEP, EOS],
    [*DEEP[:17], 5, EOS],
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp("backbone")
    return read_backbone(tiny_t5(folder, vocab=160, layers=2, d_model=48, heads=2, d_ff=80, seed=5))


def make_engine(
    backbone: Backbone, dtype: str = "int8", kernels: InstructionSet | None = None
) -> Engine:
    return Engine(
        backbone.path,
        dtype=dtype,
        max_rows=6,
        max_source_tokens=64,
        max_target_tokens=48,
        kernels=kernels or "native",
    )


def slots_of(engine: Engine, backbone: Backbone) -> list[tuple[int, ...]]:
    """Nothing, one adapter, a chain, and the same chain behind a trunk."""
    a, b, c = (
        Adapter(*random_adapter(backbone, seed=seed, density=0.1, scale=0.3), f"{seed}" * 64)
        for seed in (1, 2, 3)
    )
    first, second, third = (engine.install(engine.pack(each)) for each in (a, b, c))
    trunk = engine.install(engine.fold([a, b]))
    return [(), (first,), (first, second, third), (trunk, third)]


def sequence(
    number: int, slots: tuple[int, ...], sampling: Sampling, *, row: int, place: int | None = None
) -> Sequence:
    prompt = (*(3 + (number * 31 + n * 17) % 150 for n in range(9 + 5 * number)), EOS)
    encoding = Encoding(None, prompt, slots, row if place is None else place)
    return Sequence(number + 1, encoding, sampling, NoText(), 0.0, row=row)


def choosing(number: int, slots: tuple[int, ...], *, row: int) -> Sequence:
    return sequence(number, slots, Sampling(1, choices=Choices(Trie.of(OPTIONS))), row=row)


def whole(each: Sequence) -> Pass:
    assert each.sampling.choices is not None
    trie = each.sampling.choices.trie
    return Pass(each, trie, tuple(range(len(trie))))


def forced(engine: Engine, slots: tuple[int, ...], number: int) -> dict[tuple[int, ...], float]:
    """Of each prefix and next token of the options the log-probability, as a decode gives it that
    is fed the prefix: its logits, and what sampling's log-probabilities are made of."""
    found: dict[tuple[int, ...], float] = {}
    for option in OPTIONS:
        row = sequence(number, slots, Sampling(48), row=0)
        encode: tuple[Encoding, ...] = (row.encoding,)
        for at, token in enumerate(option):
            engine.step(Batch(encode, (row,)))
            encode = ()
            logits = engine.runner.logits([row], [engine._bank.lineage(slots)])[0]
            found[tuple(option[: at + 1])] = exact_log_softmax(logits, token)
            row.output.append(token)
    return found


def exact_log_softmax(logits: torch.Tensor, token: int) -> float:
    """The kernels sum e^(logit - top) as float32 numbers, of which the order may differ here."""
    top = logits.max()
    mass = (logits - top).exp().double().sum().log()
    return float(logits[token].double() - top.double() - mass)


def by_prefix(one: Pass, found: Rows[Rows[float]]) -> dict[tuple[int, ...], float]:
    prefixes: dict[tuple[int, ...], float] = {}
    for node, values in zip(one.nodes, found, strict=True):
        path = [one.trie.tokens[each] for each in one.trie.path(node)[1:]]
        for edge, value in zip(one.trie.edges[node], values, strict=True):
            prefixes[(*path, edge.token)] = value
    return prefixes


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("kernels", runnable_sets())
def test_a_node_has_the_logits_of_a_decode_that_is_fed_its_path(
    backbone: Backbone, dtype: str, kernels: InstructionSet
) -> None:
    engine = make_engine(backbone, dtype, kernels)
    for number, slots in enumerate(slots_of(engine, backbone)):
        one = whole(choosing(number, slots, row=0))
        (found,) = engine.step(Batch((one.sequence.encoding,), (), passes=(one,))).passes
        expected = forced(engine, slots, number)
        mine = by_prefix(one, found)
        assert mine.keys() == expected.keys()
        for prefix, value in mine.items():
            assert value == pytest.approx(expected[prefix], abs=1e-6), (slots, prefix)


def company(slots: list[tuple[int, ...]]) -> list[Sequence]:
    """A greedy row, a sampled one and a search that starts with one row."""
    return [
        sequence(4, slots[2], Sampling(8), row=3),
        sequence(5, slots[1], Sampling(8, mode="sample", seed=3, logprobs="chosen"), row=4),
        sequence(2, slots[3], Sampling(8, beams=Beams(2)), row=5),
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_pass_has_its_bits_beside_any_others(backbone: Backbone, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        engine = make_engine(backbone)
        slots = slots_of(engine, backbone)
        asked = [choosing(n, slots[3 - n], row=n) for n in range(3)]
        passes = [Pass(each, whole(each).trie, tuple(range(20))) for each in asked]
        alone = [
            engine.step(Batch((each.sequence.encoding,), (), passes=(each,))).passes[0]
            for each in passes
        ]
        others = company(slots)
        expected = engine.step(Batch(tuple(o.encoding for o in others), tuple(others)))
        encode = tuple(each.encoding for each in [*asked, *others])
        for turned in (False, True):
            given = tuple(passes[::-1] if turned else passes)
            output = engine.step(Batch(encode, tuple(others), passes=given))
            assert [*output.passes] == (alone[::-1] if turned else alone)
            assert output.token_ids == expected.token_ids
            assert output.logprobs == expected.logprobs
            assert output.candidates == expected.candidates
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ((), "cannot compute"),
        ((1, 2), "cannot compute"),
        ((0, 2, 1), "cannot compute"),
        ((0, 1, 1), "cannot compute"),
        ((0, 1000), "cannot compute"),
        ((0, 2), "has not its parent"),
    ],
)
def test_what_would_read_outside_of_arrays_is_refused(
    backbone: Backbone, nodes: tuple[int, ...], words: str
) -> None:
    engine = make_engine(backbone)
    each = choosing(0, (), row=0)
    given = Pass(each, whole(each).trie, nodes)
    with pytest.raises(IndexError, match=words):
        engine.step(Batch((each.encoding,), (), passes=(given,)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([[160, EOS]], "outside of 0 to 159"),
        ([[5, 160]], "outside of 0 to 159"),
        ([[-7, EOS]], "outside of 0 to 159"),
        ([[5] * 60], "too many"),
        ([[n, m, EOS] for n in range(2, 10) for m in range(20, 29)], "a step takes 64"),
    ],
)
def test_tries_that_no_step_takes_are_refused(
    backbone: Backbone, options: list[list[int]], words: str
) -> None:
    engine = make_engine(backbone)
    trie = Trie.of(options)
    each = sequence(0, (), Sampling(1, choices=Choices(trie)), row=0)
    given = Pass(each, trie, tuple(range(len(trie))))
    with pytest.raises(IndexError, match=words):
        engine.step(Batch((each.encoding,), (), passes=(given,)))


def test_the_limits_have_room_for_one_pass_of_all_nodes(backbone: Backbone) -> None:
    engine = make_engine(backbone)
    limits: EngineLimits = engine.limits
    trie = Trie.of([[n, EOS] for n in range(2, 2 + limits.max_nodes - 1)])
    assert len(trie) == limits.max_nodes
    each = sequence(0, (), Sampling(1, choices=Choices(trie)), row=0)
    others: list[Any] = company(slots_of(engine, backbone))
    encode = (each.encoding, *(other.encoding for other in others))
    full = Pass(each, trie, tuple(range(len(trie))))
    output = engine.step(Batch(encode, tuple(others), passes=(full,)))
    assert len(output.passes[0]) == limits.max_nodes
    assert not output.failed
