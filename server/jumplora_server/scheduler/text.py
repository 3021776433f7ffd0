"""What a sequence says: its text, detokenized and cut before the first stop string, and its end."""

from __future__ import annotations

from jumplora_server.core import (
    Answer,
    Detokenizer,
    Finish,
    FinishReason,
    Sequence,
    Timing,
)


class OutputText:
    """Token ids in, text that may be shown out.

    What could still become a stop string is held back, so that no part of one is ever shown. Of
    several stop strings the one that is complete first wins, whatever pieces the text comes in.
    """

    __slots__ = ("_detokenizer", "_held", "_is_late", "_stops", "is_stopped")

    def __init__(
        self, detokenizer: Detokenizer, stops: tuple[str, ...], *, in_pieces: bool = True
    ) -> None:
        """`stops` are non-empty strings; none at all holds nothing back. Without `in_pieces`, and
        with nothing to look for, all of the text comes with the flush, detokenized once.
        """
        self._detokenizer = detokenizer
        self._is_late = not in_pieces and not stops
        self._stops = stops
        self._held = ""
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """Take the next token; return what may be shown. Nothing may be pushed once stopped."""
        if self._is_late:
            self._detokenizer.hold(token_id)
            return ""
        return self._cut(self._detokenizer.push(token_id))

    def take(
        self, token_id: int, *, is_end: bool, is_last: bool
    ) -> tuple[str, FinishReason | None]:
        """Take a sequence's next token; return what may be shown, and why it is the last if it is.

        An end token has no text, also where it is not a control token.
        """
        text = "" if is_end else self.push(token_id)
        reason = FinishReason.EOS_TOKEN if is_end else FinishReason.LENGTH if is_last else None
        if reason is not None and not self.is_stopped:
            text += self.flush()
        return text, FinishReason.STOP_SEQUENCE if self.is_stopped else reason

    def flush(self) -> str:
        """The sequence ends here: return the rest, unless it holds a stop string after all."""
        shown = self._cut(self._detokenizer.flush())
        if not self.is_stopped:
            shown, self._held = shown + self._held, ""
        return shown

    def _cut(self, text: str) -> str:
        assert not self.is_stopped, "text after a stop string"
        if not self._stops:
            return text
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            _, at = min(found)
            shown, self._held = self._held[:at], ""
            return shown
        cut = len(self._held) - max(self._overlap(stop) for stop in self._stops)
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that a proper start of `stop` equals."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)


def finish_of(
    sequence: Sequence,
    reason: FinishReason,
    now: float,
    error: Exception | None = None,
    answers: tuple[Answer, ...] = (),
    options: tuple[float | None, ...] = (),
) -> Finish:
    """What to tell of `sequence`, which ends at `now`. Phases that it never reached take 0 s.

    `answers` are those of a beam search that ended well, `options` what choices came to.
    """
    started = now if sequence.started is None else sequence.started
    encoded = now if sequence.encoded is None else sequence.encoded
    first, generated = sequence.first_token, len(sequence.output)
    has_score = sequence.sampling.logprobs == "chosen" and generated
    return Finish(
        reason=reason,
        text=answers[0].text if answers else sequence.text,
        prompt_tokens=len(sequence.encoding.prompt),
        generated_tokens=sum(a.generated_tokens for a in answers) if answers else generated,
        timing=Timing(
            queue=started - sequence.arrived,
            encode=encoded - started,
            decode=now - encoded,
            total=now - sequence.arrived,
            first_token=None if first is None else first - sequence.arrived,
            arrived=sequence.arrived,
        ),
        error=error,
        score=sequence.logprob / generated if has_score else None,
        answers=answers,
        options=options,
    )
