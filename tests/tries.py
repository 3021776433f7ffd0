"""Options for tests of choices: random tries, a runner's passes through them, and what is true."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

import torch

from decoding import make_sequence
from jumplora_server.core import Choices, Pass, Sampling, Sequence
from jumplora_server.engine.engine import Runner
from jumplora_server.trie import Trie

EOS = 1
Options = Rows[Rows[int]]


def random_options(
    count: int, *, seed: int, vocab: int, longest: int = 6, words: int = 4
) -> list[list[int]]:
    """So many different ones, end token last. Few `words` at a place make them share beginnings."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randint(3, vocab, (longest, words), generator=generator).tolist()
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        length = int(torch.randint(1, longest, (1,), generator=generator))
        at = torch.randint(0, words, (length,), generator=generator).tolist()
        found[(*(pool[place][word] for place, word in enumerate(at)), EOS)] = None
    return [[*option] for option in found]


def choosing(
    prompt: Rows[int], options: Options, *, row: int, slots: tuple[int, ...] = ()
) -> Sequence:
    """A sequence that asks for these options."""
    sampling = Sampling(1, choices=Choices(Trie.of(options)))
    return make_sequence(prompt, row=row, slots=slots, sampling=sampling)


def whole_pass(sequence: Sequence) -> Pass:
    """All nodes of its trie."""
    assert sequence.sampling.choices is not None
    trie = sequence.sampling.choices.trie
    return Pass(sequence, trie, tuple(range(len(trie))))


@torch.inference_mode()
def computed(
    runner: Runner, sequences: Rows[Sequence], lineages: Rows[tuple[Any, ...]]
) -> list[list[float]]:
    """Encode, then all passes in one step: each sequence's log-probability of each option."""
    runner.encode([sequence.encoding for sequence in sequences], lineages)
    passes = [whole_pass(sequence) for sequence in sequences]
    output = runner.decode((), (), passes, lineages)
    return [
        joint(each.trie, found) if found else []
        for each, found in zip(passes, output.passes, strict=True)
    ]


def joint(trie: Trie, logprobs: Rows[Rows[float]]) -> list[float]:
    """The log-probability of each option, from those of all edges of all nodes."""
    reached, found = [0.0] * len(trie), [0.0] * trie.options
    for node, values in enumerate(logprobs):
        for edge, value in zip(trie.edges[node], values, strict=True):
            if edge.node < 0:
                found[edge.option] = reached[node] + value
            else:
                reached[edge.node] = reached[node] + value
    return found


@torch.inference_mode()
def teacher_forced(model: Any, prompt: Rows[int], options: Options) -> list[float]:
    """The same by transformers' `model`, which is fed each option whole."""
    longest = max(map(len, options))
    fed = torch.tensor([[0, *ids[:-1], *[0] * (longest - len(ids))] for ids in options])
    encoded = model.get_encoder()(input_ids=torch.tensor([prompt])).last_hidden_state
    logits = model(
        encoder_outputs=(encoded.expand(len(options), -1, -1),), decoder_input_ids=fed
    ).logits
    logprobs = logits.double().log_softmax(dim=-1)
    return [
        sum(float(logprobs[i, place, token]) for place, token in enumerate(ids))
        for i, ids in enumerate(options)
    ]
