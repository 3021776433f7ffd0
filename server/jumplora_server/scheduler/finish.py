"""The end of a sequence as a value."""

from __future__ import annotations

from jumplora_server.core import Finish, FinishReason, Sequence, Timing


def finish_of(
    sequence: Sequence, reason: FinishReason, now: float, error: Exception | None = None
) -> Finish:
    """What to tell of `sequence`, which ends at `now`. Phases that it never reached take 0 s."""
    started = now if sequence.started is None else sequence.started
    encoded = now if sequence.encoded is None else sequence.encoded
    first = sequence.first_token
    return Finish(
        reason=reason,
        text=sequence.text,
        prompt_tokens=len(sequence.encoding.prompt),
        generated_tokens=len(sequence.output),
        timing=Timing(
            queue=started - sequence.arrived,
            encode=encoded - started,
            decode=now - encoded,
            total=now - sequence.arrived,
            first_token=None if first is None else first - sequence.arrived,
        ),
        error=error,
    )
