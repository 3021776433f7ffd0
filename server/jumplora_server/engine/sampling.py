"""From logits to tokens in torch: all rows of a step at once, on any device.

A row's token depends on its own logits, seed and position alone. Which one it is, is said slowly in
sampling_reference.py; native/src/sampling.cpp is the CPU's other way.

To add a parameter: a field of core.Sampling, and a function in EDITS or SELECTIONS here and in
sampling.cpp (and in the reference).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from jumplora_server.core import Sampling, Sequence, StepOutput

_PLAIN = Sampling(max_new_tokens=1)
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
class Asked:
    """What some rows ask for."""

    table: Tensor  # [columns, n] float64, on the device
    fed: Tensor  # [n, width] the start token and the tokens chosen so far; the first fills it up
    ends: tuple[int, ...]

    def __getitem__(self, name: str) -> Tensor:
        """A column [n, 1]; infinite where a row does not set the parameter."""
        return self.table[_COLUMNS.index(name)][:, None]

    def of(self, index: Tensor) -> Asked:
        """Some of the rows."""
        return Asked(self.table[:, index], self.fed[index], self.ends)


@dataclass(frozen=True, slots=True)
class Ranked:
    """The highest tokens of some rows, of equals the lower id first. To drop one is to set it 0."""

    weights: Tensor  # [n, listed] float64: e^((logit - highest) / temperature)
    beyond: Tensor  # [n, 1] the weight of all that is not listed


def _penalise_repetition(x: Tensor, asked: Asked) -> None:
    """CTRL's (arXiv 1909.05858, section 4.1): sign-aware, start token and all, as transformers."""
    penalty = asked["repetition_penalty"].float()
    seen = x.gather(1, asked.fed)
    x.scatter_(1, asked.fed, torch.where(seen > 0, seen / penalty, seen * penalty))


def _forbid_an_early_end(x: Tensor, asked: Asked) -> None:
    is_early = asked["position"] < asked["min_new_tokens"]
    for end in asked.ends:
        x[:, end].masked_fill_(is_early[:, 0], -torch.inf)


def _keep_top_k(ranked: Ranked, asked: Asked) -> None:
    listed = ranked.weights.shape[1]
    ranks = torch.arange(listed, device=ranked.weights.device)
    ranked.weights.masked_fill_(ranks >= asked["top_k"], 0.0)
    ranked.beyond.masked_fill_(asked["top_k"] <= listed, 0.0)


def _keep_top_p(ranked: Ranked, asked: Asked) -> None:
    """The smallest set whose mass reaches top_p: the token that crosses it belongs to it."""
    mass = ranked.weights.cumsum(dim=-1)
    goal = asked["top_p"] * (mass[:, -1:] + ranked.beyond)
    ranked.weights[:, 1:].masked_fill_(mass[:, :-1] >= goal, 0.0)


# In the order in which they count, each under its field of Sampling.
EDITS = {
    "repetition_penalty": _penalise_repetition,
    "min_new_tokens": _forbid_an_early_end,
}
"""Change logits [n, vocabulary] in place."""
SELECTIONS = {
    "top_k": _keep_top_k,
    "top_p": _keep_top_p,
}
"""Drop ranked tokens, the lowest ones."""

_COLUMNS = ("place", "row", "token", "position", "draw", "temperature", *EDITS, *SELECTIONS)


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
        if choosing := [i for i, s in enumerate(sequences) if _decides(s.sampling)]:
            asked = self._asked(sequences, choosing)
            place = asked["place"][:, 0].long()
            x = logits[place]
            top, tokens[place] = _choose(x, asked, [sequences[i].sampling for i in choosing])
            is_sound[place] &= top.isfinite()
        logprobs = torch.zeros(len(logits), device=logits.device)
        if wanted := [i for i, s in enumerate(sequences) if s.sampling.logprobs == "chosen"]:
            place = to_device(torch.tensor(wanted), logits.device)
            logprobs[place] = _logprobs(logits[place], tokens[place])
        # The one time that the device is waited for.
        found = torch.stack([is_sound.double(), tokens.double(), logprobs.double()]).tolist()
        return step_output(sequences, *found)

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
        return Asked(table, torch.where(steps > positions[:, None], fed[:, :1], fed), self._ends)

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
) -> StepOutput:
    """A step's output from what was found for every row, also where it is not wanted."""
    wants = [s.sampling.logprobs == "chosen" for s in sequences]
    return StepOutput(
        tuple(int(token) if ok else -1 for token, ok in zip(tokens, is_sound, strict=True)),
        tuple(p if w and ok else None for p, w, ok in zip(logprobs, wants, is_sound, strict=True)),
        tuple(i for i, ok in enumerate(is_sound) if not ok),
    )


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device without waiting for it."""
    if device.type != "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _decides(sampling: Sampling) -> bool:
    """Whether the highest logit may not be the answer."""
    return sampling.mode == "sample" or any(_sets(sampling, name) for name in EDITS)


def _sets(sampling: Sampling, name: str) -> bool:
    return bool(getattr(sampling, name) != getattr(_PLAIN, name))


def _logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """The model's own log-probabilities of tokens [n] under logits [n, vocabulary]."""
    top = logits.max(dim=-1, keepdim=True).values
    mass = (logits - top).exp().sum(dim=-1, dtype=torch.float64)
    chosen = (logits.gather(1, tokens[:, None]) - top)[:, 0]
    return (chosen - mass.log()).float()  # rounded: the sum's order may depend on the other rows


def _choose(x: Tensor, asked: Asked, samplings: Rows[Sampling]) -> tuple[Tensor, Tensor]:
    """The highest logits that are left, and the tokens. `x` [n, vocabulary] is changed."""
    for name, edit in EDITS.items():
        if any(_sets(sampling, name) for sampling in samplings):
            edit(x, asked)
    highest, tokens = x.max(dim=-1)
    groups = defaultdict[int, list[int]](list)
    for i, sampling in enumerate(samplings):
        if sampling.mode == "sample":
            groups[_list_size(sampling, x.shape[1])].append(i)
    for listed, members in groups.items():
        index = to_device(torch.tensor(members), x.device)
        given = [samplings[i] for i in members]
        tokens[index] = _sample(x[index], highest[index, None], asked.of(index), given, listed)
    return highest, tokens


def _list_size(sampling: Sampling, vocabulary: int) -> int:
    """How many tokens are ranked: none where nothing is dropped; few sizes, so that rows share."""
    if not any(_sets(sampling, name) for name in SELECTIONS):
        return 0
    if sampling.top_k is None:
        return min(_LISTED, vocabulary)
    size = max(64, 1 << sampling.top_k.bit_length())  # over top_k
    return size if size <= min(_LISTED, vocabulary) else vocabulary


def _sample(
    x: Tensor, highest: Tensor, asked: Asked, samplings: Rows[Sampling], listed: int
) -> Tensor:
    """Tokens [n], drawn from logits x [n, vocabulary], of which `listed` are ranked."""
    if listed == 0:
        return _draw(_weights(x, highest, asked), asked)
    ids = _rank(x, listed)
    weights = _weights(x.gather(1, ids), highest, asked)
    is_part = listed < x.shape[1] and any(sampling.top_k is None for sampling in samplings)
    beyond = torch.zeros_like(highest, dtype=torch.float64)
    if is_part:
        beyond = _sum(_weights(x, highest, asked)) - _sum(weights)
    ranked = Ranked(weights, beyond)
    for name, select in SELECTIONS.items():
        if any(_sets(sampling, name) for sampling in samplings):
            select(ranked, asked)
    if is_part and bool(weights[:, -1].any()):  # a flat distribution: more belong to it
        return _sample(x, highest, asked, samplings, x.shape[1])
    if listed == x.shape[1]:
        return _draw(torch.zeros_like(weights).scatter_(1, ids, weights), asked)
    ids, order = ids.sort(dim=-1)
    return ids.gather(1, _draw(weights.gather(1, order), asked)[:, None])[:, 0]


def _weights(x: Tensor, highest: Tensor, asked: Asked) -> Tensor:
    return ((x.double() - highest) / asked["temperature"]).exp()


def _sum(weights: Tensor) -> Tensor:
    """[n, 1], added in one order whatever n is."""
    return weights.cumsum(dim=-1)[:, -1:]


def _rank(x: Tensor, listed: int) -> Tensor:
    """Ids [n, listed] of the highest logits, of equals the lower id first."""
    if listed == x.shape[1]:
        return x.sort(dim=-1, descending=True, stable=True).indices
    bits = (x + 0.0).view(torch.int32)  # -0.0 equals 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # as integers they compare as the floats did
    last = x.shape[1] - 1
    keys = (ordered.long() << 32) | torch.arange(last, -1, -1, device=x.device)
    return last - (keys.topk(listed).values & 0xFFFFFFFF)


def _draw(weights: Tensor, asked: Asked) -> Tensor:
    """Places [n] in weights [n, tokens], in the order of their ids, by inverting their sum."""
    mass = weights.cumsum(dim=-1)
    total = mass[:, -1:].contiguous()
    place = torch.searchsorted(mass, asked["draw"] * total, right=True)
    # Rounding may take the point to the total; the last one that weighs anything reaches that. NaN
    # reaches nothing.
    last = torch.searchsorted(mass, total).clamp(max=weights.shape[1] - 1)
    return torch.minimum(place, last)[:, 0]
