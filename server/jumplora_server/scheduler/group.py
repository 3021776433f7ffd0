"""The rows of one beam search: each running hypothesis is a sequence of its own in one of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Rows
from dataclasses import replace

from jumplora_server.core import Answer, Candidate, EngineLimits, RowCopy, Sequence, Token
from jumplora_server.scheduler.beams import BeamSearch, Ended
from jumplora_server.scheduler.text import OutputText


class BeamGroup:
    """What the engine decodes for a sequence that asks for beams.

    It holds all of its rows from the first step on, in which one hypothesis runs.
    """

    def __init__(self, sequence: Sequence, rows: tuple[int, ...], limits: EngineLimits) -> None:
        """`rows` are as many as the beams are wide."""
        beams = sequence.sampling.beams
        assert beams is not None
        assert len(rows) == beams.width
        self.sequence = sequence
        self.rows = rows
        self.members: tuple[Sequence, ...] = (replace(sequence, row=rows[0], output=[]),)
        """Of the running hypotheses, in their order: with the id of `sequence`, and a row each."""
        self._copies: tuple[RowCopy, ...] = ()
        self._fed: dict[int, list[int]] = {}  # by row, the tokens behind the start token
        self._ends = limits.end_token_ids
        self._search = BeamSearch(
            beams,
            max_new_tokens=min(sequence.sampling.max_new_tokens, limits.max_target_tokens),
            end_token_ids=self._ends,
        )

    def advance(self, candidates: Rows[Rows[Candidate]]) -> bool:
        """Take the candidates of each member; False when the search is over."""
        self._fed |= {member.row: member.output for member in self.members}
        parents = self._search.advance(candidates)
        kept = {self.members[parent].row for parent in parents}
        free = [row for row in self.rows if row not in kept]
        copies: list[RowCopy] = []
        members: list[Sequence] = []
        for parent, hypothesis in zip(parents, self._search.running, strict=True):
            row = self.members[parent].row
            if row not in kept:  # one that is likelier continues there
                source, row = row, free.pop()
                copies.append(self._copy(source, row))
            kept.discard(row)
            members.append(replace(self.sequence, row=row, output=[*hypothesis.tokens]))
        self.members, self._copies = tuple(members), tuple(copies)
        if members:
            self.sequence.output = members[0].output
        return bool(members)

    def take_copies(self) -> tuple[RowCopy, ...]:
        """What the rows of the next step must hold; once."""
        copies, self._copies = self._copies, ()
        return copies

    def _copy(self, source: int, row: int) -> RowCopy:
        """Most of what two rows were fed is the same, since they come of one hypothesis."""
        wanted, held = self._fed[source], self._fed.get(row)
        if held is None:
            return RowCopy(source, row, 1 + len(wanted))
        pairs = zip(wanted, held, strict=False)  # a row may have stood still for some steps
        same = [*itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
        return RowCopy(source, row, 1 + len(wanted), 1 + len(same))

    def answers(self) -> tuple[Answer, ...]:
        """The best first; none where no hypothesis ended. Raises what a detokenizer raises."""
        return tuple(self._answer(ended) for ended in self._search.answers())

    def _answer(self, ended: Ended) -> Answer:
        detokenizer = self.sequence.detokenizer.fresh()
        # Where only the end is wanted, it is detokenized once: other rows wait for it.
        output = OutputText(detokenizer, (), in_pieces=self.sequence.wants == "tokens")
        tokens: list[Token] = []
        text = ""
        for token_id, logprob in zip(
            ended.hypothesis.tokens, ended.hypothesis.logprobs, strict=True
        ):
            is_end = token_id in self._ends  # it has no text, a control token or not
            piece = "" if is_end else output.push(token_id)
            is_special = is_end or detokenizer.is_special(token_id)
            tokens.append(Token(token_id, piece, logprob, is_special))
            text += piece
        if rest := output.flush():
            tokens[-1] = replace(tokens[-1], text=tokens[-1].text + rest)
        return Answer(tuple(tokens), text + rest, ended.reason, len(tokens), ended.score)
