"""Drives an engine without the server: what engine tests and the oracle share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Rows
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from jumplora_adapters.delta import Delta
from jumplora_server.core import Batch, Encoding, NoText, Sampling, Sequence
from jumplora_server.engine.engine import Engine


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """torch computes with that many threads inside, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rows_that_differ(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, counts: Iterable[int]
) -> list[str]:
    """Which counts of rows get other bits than in the whole x: in their places, or in others."""
    whole, wrong = function(x), []
    for count in counts:
        if not torch.equal(function(x[:count]), whole[:count]):
            wrong.append(f"{count} rows")
        if not torch.equal(function(x[:count].roll(1, 0)), whole[:count].roll(1, 0)):
            wrong.append(f"{count} rows in other places")
    return wrong


def make_sequence(
    prompt: Rows[int],
    *,
    row: int,
    slots: tuple[int, ...] = (),
    sampling: Sampling | None = None,
    number: int | None = None,
) -> Sequence:
    """A sequence that already holds its row and slots."""
    return Sequence(
        id=row if number is None else number,
        encoding=Encoding(None, tuple(prompt), slots, place=row),
        sampling=sampling or Sampling(max_new_tokens=12),
        detokenizer=NoText(),
        arrived=0.0,
        row=row,
    )


def first_batch(sequences: Rows[Sequence]) -> Batch:
    """Their prompts, each once, and their first tokens."""
    prompts = dict.fromkeys(sequence.encoding for sequence in sequences)
    return Batch(tuple(prompts), tuple(sequences))


def is_over(engine: Engine, sequence: Sequence) -> bool:
    """Whether a sequence has an end token or all its tokens."""
    output, ends = sequence.output, engine.limits.end_token_ids
    return bool(output) and (output[-1] in ends or len(output) == sequence.sampling.max_new_tokens)


def advance(engine: Engine, encode: Rows[Sequence], decode: Rows[Sequence]) -> list[Sequence]:
    """One step; returns the sequences of `decode` that go on."""
    output = engine.step(Batch(first_batch(encode).encode, tuple(decode)))
    assert output.failed == ()
    for sequence, token in zip(decode, output.token_ids, strict=True):
        sequence.output.append(token)
    return [sequence for sequence in decode if not is_over(engine, sequence)]


def run(engine: Engine, sequences: Rows[Sequence]) -> list[list[int]]:
    """Decode sequences together until all are over."""
    live = advance(engine, sequences, sequences)
    while live:
        live = advance(engine, (), live)
    return [sequence.output for sequence in sequences]


def load_reference(folder: Path) -> Any:
    """transformers' model of a folder, in float32.

    transformers 5 multiplies the decoder's output of every umT5 by d_model ** -0.5, which the
    published ones were not trained with. Its greedy tokens are the same without that, its
    probabilities are those of the training. Here as in the server, the folder's own field says so.
    """
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    if model.config.model_type == "umt5":
        scales = getattr(model.config, "scale_decoder_outputs", False)
        model.config.tie_word_embeddings = scales  # what its forward looks at
    return model


_reference = lru_cache(maxsize=4)(load_reference)


def oracle(
    folder: Path, prompt: Rows[int], deltas: Rows[Mapping[str, Delta]], **options: Any
) -> list[int]:
    """transformers' greedy tokens of the backbone with these deltas merged into its weights."""
    dense = [
        {module: delta.to_dense(torch.float32) for module, delta in member.items()}
        for member in deltas
    ]
    return _merged_tokens(folder, list(prompt), dense, options)


def oracle_of_weights(
    folder: Path, prompt: str, updates: Rows[Mapping[str, torch.Tensor]], **options: Any
) -> list[int]:
    """The same for a text and for plain dense updates [d_out, d_in] of each module's weight."""
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(prompt).ids
    return _merged_tokens(folder, ids, updates, options)


def beams_oracle(
    folder: Path, prompt: Rows[int], deltas: Rows[Mapping[str, Delta]], **options: Any
) -> list[tuple[list[int], float]]:
    """transformers' beam search of the same: the tokens and the score of each answer."""
    dense = [
        {module: delta.to_dense(torch.float32) for module, delta in member.items()}
        for member in deltas
    ]
    model = merged_model(folder, dense)
    with torch.inference_mode():
        found = model.generate(
            torch.tensor([prompt]), return_dict_in_generate=True, output_scores=True, **options
        )
    answers = []
    for row, score in zip(found.sequences.tolist(), found.sequences_scores.tolist(), strict=True):
        end = row.index(1) + 1 if 1 in row else len(row)  # the rest is padding
        answers.append((row[1:end], score))
    return answers


def _merged_tokens(
    folder: Path,
    prompt: list[int],
    updates: Rows[Mapping[str, torch.Tensor]],
    options: dict[str, Any],
) -> list[int]:
    model = merged_model(folder, updates)
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "num_beams": 1}
    with torch.inference_mode():
        ids = model.generate(torch.tensor([prompt]), **{**settings, **options})
    tokens: list[int] = ids[0].tolist()[1:]
    return tokens


def merged_model(folder: Path, updates: Rows[Mapping[str, torch.Tensor]]) -> Any:
    """transformers' model with these updates [d_out, d_in] added to the modules' weights."""
    model = copy.deepcopy(_reference(folder))
    head = model.get_output_embeddings()  # a delta of a tied head is none of the embedding
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for member in updates:
            for module, update in member.items():
                parameters[f"{module}.weight"] += update
    return model
