"""A pass's log-probabilities have the bits of a decode that was fed the same tokens one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from decoding import first_batch, make_sequence, run, torch_threads
from factories import random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import Adapter
from jumplora_adapters.manifest import Kind
from jumplora_server.core import (
    Batch,
    Beams,
    Choices,
    Encoding,
    Kernels,
    Pass,
    Sampling,
    StepOutput,
)
from jumplora_server.core import Sequence as Decoded
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import runnable_sets, why_unavailable
from jumplora_server.trie import Trie

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

TARGET = 40
KINDS: Mapping[int, Kind] = {5: "masked", 6: "lowrank", 7: "masked"}
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
        for seed, kind in KINDS.items()
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


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_as_many_nodes_as_a_step_takes_on_paths_of_two_vectors_of_keys(
    backbone: Backbone, dtype: str
) -> None:
    held = make_engine(backbone, dtype)
    engine, slots = held.engine, held.lineages["chain"]
    known = decode_all(engine, slots, paths=9, most=TARGET)
    trie = trie_of(known)
    depth = max(len(trie.path(node)) for node in range(len(trie)))
    assert depth == TARGET
    deepest = trie.path(max(range(len(trie)), key=lambda node: len(trie.path(node))))
    others = [node for node in range(len(trie)) if node not in deepest]
    nodes = sorted([*deepest, *others[: 64 - TARGET]])
    assert len(nodes) == engine.limits.max_nodes == 64
    (found,) = compute(engine, make_pass(trie, slots, row=2, nodes=nodes)).passes
    assert found == logprobs_of(trie, nodes, known)


def beside(held: Held) -> list[Decoded]:
    """Rows of other tasks: sampled, greedy, and of a search."""
    chosen = {
        "chain": Sampling(8, mode="sample", temperature=2.0, seed=4, logprobs="chosen"),
        "bare": Sampling(8, min_new_tokens=8, repetition_penalty=1.3),
        "trunk": Sampling(8, beams=Beams(3)),
    }
    return [
        make_sequence([*range(9, 20 + 9 * row), 1], row=row, slots=held.lineages[name], sampling=s)
        for row, (name, s) in enumerate(chosen.items())
    ]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_mixed_batch_changes_no_bit_of_anything_in_it(
    backbone: Backbone, dtype: str, threads: int
) -> None:
    held = make_engine(backbone, dtype)
    engine, asked = held.engine, dict[str, tuple[Trie, Known]]()
    for name, slots in held.lineages.items():
        known = decode_all(engine, slots, paths=6, most=3)
        asked[name] = trie_of(known), known
    alone = [engine.step(first_batch([sequence])) for sequence in beside(held)]
    passes = [
        make_pass(trie, held.lineages[name], row=3 + number)
        for number, (name, (trie, _)) in enumerate(asked.items())
    ]
    assert sum(len(each.nodes) for each in passes) > 20
    with torch_threads(threads):
        mixed = compute(engine, *passes, decode=beside(held))
    for each, (trie, known), found in zip(passes, asked.values(), mixed.passes, strict=True):
        assert found == logprobs_of(trie, each.nodes, known)
    assert mixed.token_ids == tuple(token for output in alone for token in output.token_ids)
    assert mixed.logprobs == tuple(value for output in alone for value in output.logprobs)
    assert mixed.candidates == ((), (), *alone[2].candidates)


def test_a_pass_leaves_the_rows_of_the_caches_as_they_are(backbone: Backbone) -> None:
    """Its own row, too: whatever was there may go on."""
    held = make_engine(backbone, "int8")
    engine, slots = held.engine, held.lineages["chain"]
    sampling = Sampling(12, min_new_tokens=12, repetition_penalty=1.5)
    expected = run(engine, [make_sequence(PROMPT, row=1, slots=slots, sampling=sampling)])[0]
    sequence = make_sequence(PROMPT, row=1, slots=slots, sampling=sampling)
    trie = Trie.of([[9, 8, 7, 1], [9, 8, 1], [30, 1]])
    engine.step(first_batch([sequence]))
    sequence.output.append(expected[0])
    while len(sequence.output) < 12:
        output = compute(engine, make_pass(trie, slots, row=1), decode=[sequence])
        sequence.output.extend(output.token_ids)
    assert sequence.output == expected


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_what_is_not_finite_fails_its_own_pass(backbone: Backbone, dtype: str) -> None:
    held = make_engine(backbone, dtype)
    engine = held.engine
    manifest, deltas = random_adapter(backbone, scale=1e37, density=0.5)
    bad = engine.install(engine.pack(Adapter(manifest, deltas, "f" * 64)))
    trie = Trie.of([[9, 8, 1], [9, 1], [30, 1]])
    slots = held.lineages["chain"]
    alone = compute(engine, make_pass(trie, slots, row=2))
    passes = [make_pass(trie, given, row=row) for row, given in enumerate([slots, (bad,), slots])]
    greedy = make_sequence(PROMPT, row=4)
    wanted = engine.step(first_batch([make_sequence(PROMPT, row=4)])).token_ids
    output = compute(engine, *passes, decode=[greedy])
    assert output.passes == (*alone.passes, (), *alone.passes)
    assert (output.failed, output.token_ids) == ((), wanted)


def test_one_node_that_is_not_finite_fails_its_pass_and_no_other(tmp_path: Path) -> None:
    """The embedding of a token that neither the prompt nor another option has is broken."""
    folder = tiny_t5(tmp_path, seed=3)  # with a head of its own
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["shared.weight"][300] = math.nan
    save_file(tensors, path, metadata={"format": "pt"})
    engine = make_engine(read_backbone(folder), "int8").engine
    sound = Trie.of([[9, 8, 1], [30, 300]])  # it is read off there, and not fed
    broken = Trie.of([[9, 8, 1], [300, 1]])
    output = compute(engine, make_pass(broken, (), row=0), make_pass(sound, (), row=1))
    assert output.passes == ((), *compute(engine, make_pass(sound, (), row=1)).passes)
    assert len(output.passes[1]) == len(sound)


def test_a_pass_that_is_deeper_than_a_row_is_refused(backbone: Backbone) -> None:
    engine = make_engine(backbone, "float32").engine
    fits, deep = ([*range(5, 5 + count), 1] for count in (TARGET - 1, TARGET))
    assert len(compute(engine, make_pass(Trie.of([fits]), (), row=0)).passes[0]) == TARGET
    with pytest.raises(IndexError, match="node 40 is token 41 of its path; a row takes 40"):
        compute(engine, make_pass(Trie.of([deep]), (), row=0))
