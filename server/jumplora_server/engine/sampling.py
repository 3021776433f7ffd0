"""From logits to tokens in torch: all rows of a step at once, on any device.

A row's token depends on its own logits, seed and position alone. Which one it is, is said slowly in
sampling_reference.py; native/src/sampling.cpp is the CPU's other way.

sampling_parameters.py says how to add a parameter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jumplora_server.core import Candidate, Sampling, Sequence, StepOutput
from jumplora_server.engine.candidates import (
    log_mass,
    log_softmax,
    most_candidates,
    rank,
    read_candidates,
    with_beams,
)
from jumplora_server.engine.sampling_parameters import (
    EDITS,
    SELECTIONS,
    Asked,
    Ranked,
    sets,
)

_LISTED = 1024  # tokens that are ranked where no top_k says how many: most distributions need fewer
_WORD = 2**64


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that chooses a sequence's token at a position (0: its first).

    SplitMix64's output of that number (Steele, Lea and Flood, OOPSLA 2014): there is no state.
    """
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) % _WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % _WORD
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


@dataclass(frozen=True, slots=True)
class Chosen:
    """Of each row the highest logit that is left, and the token; the candidates of some."""

    highest: Tensor  # [n]
    tokens: Tensor  # [n]
    listed: tuple[Tensor, ...] = ()  # ids and log-probabilities, each [rows with beams, most]


class Chooser:
    """Chooses tokens; keeps what each cache row was fed, on the device."""

    def __init__(
        self,
        *,
        end_token_ids: tuple[int, ...],
        start_token_id: int,
        rows: int,
        positions: int,
        device: torch.device,
    ) -> None:
        self._ends = end_token_ids
        self._start = start_token_id
        self._fed = torch.full((rows, positions), start_token_id, device=device)
        self._owners: list[int | None] = [None] * rows  # whose tokens they are, by sequence id

    def choose(self, logits: Tensor, sequences: Rows[Sequence]) -> StepOutput:
        """Choose one token a row.

        Args:
            logits: [n, vocabulary] float32, one row a sequence.

        Returns:
            The tokens; `failed` names the rows that can have none: a logit is not finite, or
            nothing is allowed.
        """
        highest, tokens = logits.max(dim=-1)  # NaN wins a max
        is_sound = highest.isfinite()
        listed: tuple[Tensor, ...] = ()
        if choosing := [i for i, s in enumerate(sequences) if not s.sampling.is_plain]:
            asked = self._asked(sequences, choosing)
            place = asked["place"][:, 0].long()
            chosen = _choose(logits[place], asked)
            tokens[place] = chosen.tokens
            is_sound[place] &= chosen.highest.isfinite()
            listed = chosen.listed
        logprobs = torch.zeros(len(logits), device=logits.device)
        if wanted := [i for i, s in enumerate(sequences) if wants_logprob(s.sampling)]:
            place = to_device(torch.tensor(wanted), logits.device)
            logprobs[place] = _logprobs(logits[place], tokens[place])
        sound, ids, scores, *lists = _fetch(is_sound, tokens, logprobs, *listed)
        candidates = {}
        if listed:
            samplings = [sequence.sampling for sequence in sequences]
            candidates = read_candidates(samplings, len(self._ends), *lists)
        return step_output(sequences, sound, ids, scores, candidates)

    def forget(self, row: int) -> None:
        """The row was copied to: what it was fed is the output of the sequence that comes."""
        self._owners[row] = None

    def _asked(self, sequences: Rows[Sequence], choosing: Rows[int]) -> Asked:
        for i in choosing:
            self._catch_up(sequences[i])
        table = torch.tensor(
            [self._numbers(i, sequences[i]) for i in choosing], dtype=torch.float64
        ).t()
        table = to_device(table.contiguous(), self._fed.device)
        _, rows, tokens, positions = table[:4].long()
        self._fed[rows, positions] = tokens
        width = 1 + max(len(sequences[i].output) for i in choosing)
        fed = self._fed[rows, :width]
        steps = torch.arange(width, device=fed.device)
        # What another sequence left behind in the row is past this one's position.
        fed = torch.where(steps > positions[:, None], fed[:, :1], fed)
        return Asked([sequences[i].sampling for i in choosing], table, fed, self._ends)

    def _catch_up(self, sequence: Sequence) -> None:
        """Note what a row was fed before its sequence came: it may continue from one whose tokens
        were not looked at."""
        if self._owners[sequence.row] == sequence.id:
            return
        self._owners[sequence.row] = sequence.id
        if sequence.output:
            given = torch.tensor([self._start, *sequence.output[:-1]])
            self._fed[sequence.row, : len(given)] = to_device(given, self._fed.device)

    def _numbers(self, place: int, sequence: Sequence) -> tuple[float, ...]:
        sampling, position = sequence.sampling, len(sequence.output)
        token = sequence.output[-1] if position else self._start
        draw = uniform(sampling.seed, position) if sampling.mode == "sample" else 0.0
        values = (getattr(sampling, name) for name in (*EDITS, *SELECTIONS))
        given = (torch.inf if value is None else value for value in values)
        return (place, sequence.row, token, position, draw, sampling.temperature, *given)


def step_output(
    sequences: Rows[Sequence],
    is_sound: Rows[float | bool],
    tokens: Rows[float | int],
    logprobs: Rows[float],
    candidates: Mapping[int, tuple[Candidate, ...]] | None = None,
) -> StepOutput:
    """A step's output from what was found for every row, also where it is not wanted.

    Args:
        candidates: of the rows with beams, by index.
    """
    wants = [wants_logprob(sequence.sampling) for sequence in sequences]
    listed: tuple[tuple[Candidate, ...], ...] = ()
    if candidates and any(is_sound[i] for i in candidates):
        listed = tuple(candidates.get(i, ()) if ok else () for i, ok in enumerate(is_sound))
    return StepOutput(
        tuple(int(token) if ok else -1 for token, ok in zip(tokens, is_sound, strict=True)),
        tuple(p if w and ok else None for p, w, ok in zip(logprobs, wants, is_sound, strict=True)),
        tuple(i for i, ok in enumerate(is_sound) if not ok),
        candidates=listed,
    )


def _fetch(*tensors: Tensor) -> list[Any]:
    """What they hold. This is the one time that the device is waited for."""
    flat = torch.cat([tensor.double().flatten() for tensor in tensors]).cpu()
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(t.shape).tolist() for part, t in zip(parts, tensors, strict=True)]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device without waiting for it."""
    if device.type != "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def wants_logprob(sampling: Sampling) -> bool:
    """Whether the log-probability of the chosen token is asked for; with beams none is chosen."""
    return sampling.logprobs == "chosen" and sampling.beams is None


def _logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """The model's own log-probabilities of tokens [n] under logits [n, vocabulary]."""
    top = logits.max(dim=-1, keepdim=True).values
    chosen = (logits.gather(1, tokens[:, None]) - top)[:, 0]
    return (chosen - log_mass(logits, top)).float()


def _choose(x: Tensor, asked: Asked) -> Chosen:
    """`x` [n, vocabulary] has the logits, and is changed."""
    searching: Tensor | None = None
    if rows := with_beams(asked.samplings):
        searching = to_device(torch.tensor(rows), x.device)
        x[searching] = log_softmax(x[searching])
    for name, edit in EDITS.items():
        if asked.sets(name):
            edit(x, asked)
    highest, tokens = x.max(dim=-1)
    groups = defaultdict[int, list[int]](list)
    for i, sampling in enumerate(asked.samplings):
        if sampling.mode == "sample":
            groups[_list_size(sampling, x.shape[1])].append(i)
    for listed, members in groups.items():
        index = to_device(torch.tensor(members), x.device)
        given = asked.of(members, index)
        tokens[index] = _sample(x[index], highest[index, None], given, listed)
    if searching is None:
        return Chosen(highest, tokens)
    x = x[searching]
    ids = rank(x, min(most_candidates(asked.samplings, len(asked.ends)), x.shape[1]))
    tokens[searching] = ids[:, 0]
    return Chosen(highest, tokens, (ids, x.gather(1, ids)))


def _list_size(sampling: Sampling, vocabulary: int) -> int:
    """How many tokens are ranked: none where nothing is dropped; few sizes, so that rows share."""
    if not any(sets(sampling, name) for name in SELECTIONS):
        return 0
    if sampling.top_k is None:
        return min(_LISTED, vocabulary)
    size = max(64, 1 << sampling.top_k.bit_length())  # over top_k
    return size if size <= min(_LISTED, vocabulary) else vocabulary


def _sample(x: Tensor, highest: Tensor, asked: Asked, listed: int) -> Tensor:
    """Tokens [n], drawn from logits x [n, vocabulary], of which `listed` are ranked."""
    if listed == 0:
        return _draw(_weights(x, highest, asked), asked)
    ids = rank(x, listed)
    weights = _weights(x.gather(1, ids), highest, asked)
    is_part = listed < x.shape[1] and any(each.top_k is None for each in asked.samplings)
    beyond = torch.zeros_like(highest, dtype=torch.float64)
    if is_part:
        beyond = _sum(_weights(x, highest, asked)) - _sum(weights)
    ranked = Ranked(weights, beyond)
    for name, select in SELECTIONS.items():
        if asked.sets(name):
            select(ranked, asked)
    if is_part and bool(weights[:, -1].any()):  # a flat distribution: more belong to it
        return _sample(x, highest, asked, x.shape[1])
    if listed == x.shape[1]:
        return _draw(torch.zeros_like(weights).scatter_(1, ids, weights), asked)
    ids, order = ids.sort(dim=-1)
    return ids.gather(1, _draw(weights.gather(1, order), asked)[:, None])[:, 0]


def _weights(x: Tensor, highest: Tensor, asked: Asked) -> Tensor:
    return ((x.double() - highest) / asked["temperature"]).exp()


def _sum(weights: Tensor) -> Tensor:
    """[n, 1], added in one order whatever n is."""
    return weights.cumsum(dim=-1)[:, -1:]


def _draw(weights: Tensor, asked: Asked) -> Tensor:
    """Places [n] in weights [n, tokens], in the order of their ids, by inverting their sum."""
    mass = weights.cumsum(dim=-1)
    total = mass[:, -1:].contiguous()
    place = torch.searchsorted(mass, asked["draw"] * total, right=True)
    # Rounding may take the point to the total; the last one that weighs anything reaches that. NaN
    # reaches nothing.
    last = torch.searchsorted(mass, total).clamp(max=weights.shape[1] - 1)
    return torch.minimum(place, last)[:, 0]
