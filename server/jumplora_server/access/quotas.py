"""What each key uses of its quota: prompts and tokens at an even pace, and rows at a time.

A quota of n a minute is a pace: one each 60 / n seconds. What was used ahead of it sinks as time
passes, and a key may be `BURST_SECONDS` ahead when it asks for more: a token bucket whose balance
may be negative. So a minute brings n, the burst and the rest of the last request at most, a client
that asks evenly is never refused, and a list costs as much as its prompts one by one: it is taken
whole, and what follows waits. How many tokens an answer has is not known before it ends. What the
key's answers had so far is taken for it first, and corrected at the end.

Knows neither HTTP nor queues.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from jumplora_server.access.caller import Caller, Quota
from jumplora_server.errors import KeyQuotaExceeded

QuotaReason = Literal["requests", "tokens", "rows"]
BURST_SECONDS = 2.0  # of the pace: under 5 % of a minute, and more than Retry-After is rounded up
_FIRST_SHARE = 0.1  # of the tokens that an answer may have, while none of the key has ended
_WEIGHT = 0.1  # of the newest answer in averages
_ROUNDING = 1e-6  # seconds


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks for.

    `prompts` has an upper bound of each prompt's tokens. Each prompt makes `sequences` of `rows`
    rows, which generate `new_tokens` at most.
    """

    prompts: Sequence[int]
    sequences: int = 0
    rows: int = 0
    new_tokens: int = 0

    @property
    def all_rows(self) -> int:
        """Those of all prompts together."""
        return len(self.prompts) * self.sequences * self.rows


@dataclass(frozen=True, slots=True)
class Left:
    """What a key may use at once now; None where it has no such quota."""

    requests: int | None
    tokens: int | None


class Pace:
    """How far a use is ahead of so many a minute. Times in seconds on one clock."""

    __slots__ = ("_ahead", "_at")

    def __init__(self) -> None:
        self._ahead = 0.0
        self._at = -math.inf

    def ahead(self, a_minute: int, now: float) -> float:
        """What was used ahead of the pace."""
        if now > self._at:
            self._ahead = max(0.0, self._ahead - (now - self._at) * a_minute / 60)
            self._at = now
        return self._ahead

    def wait(self, a_minute: int, now: float) -> float:
        """Seconds until more may be used; 0: now."""
        seconds = self.ahead(a_minute, now) * 60 / a_minute - BURST_SECONDS
        return seconds if seconds > _ROUNDING else 0.0

    def left(self, a_minute: int, now: float) -> int:
        """How much may be used one by one at once."""
        return max(0, math.floor(a_minute / 60 * BURST_SECONDS - self.ahead(a_minute, now) + 1))

    def add(self, amount: float, a_minute: int, now: float) -> None:
        """Use that much, or give it back where it is negative."""
        self._ahead = max(0.0, self.ahead(a_minute, now) + amount)


class Meter:
    """What one key uses, by the quota that it has now. `Quotas` has the lock."""

    __slots__ = ("answered", "quota", "requests", "row_seconds", "rows", "tokens")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.requests = Pace()
        self.tokens = Pace()
        self.rows = 0
        self.answered = _FIRST_SHARE  # of the tokens that answers might have had, on average
        self.row_seconds = 1.0  # how long a row is held, on average

    def use(self, requests: float, tokens: float, rows: int, now: float) -> None:
        """Add to what is used; negative numbers give back."""
        quota = self.quota
        if quota.requests_per_minute is not None and requests:
            self.requests.add(requests, quota.requests_per_minute, now)
        if quota.tokens_per_minute is not None and tokens:
            self.tokens.add(tokens, quota.tokens_per_minute, now)
        self.rows += rows

    def refusal(self, demand: Demand, now: float) -> tuple[QuotaReason, float] | None:
        """What a request has to wait for longest, and how many seconds; None: it may come."""
        quota, waits = self.quota, dict[QuotaReason, float]()
        if quota.requests_per_minute is not None:
            waits["requests"] = self.requests.wait(quota.requests_per_minute, now)
        if quota.tokens_per_minute is not None:
            waits["tokens"] = self.tokens.wait(quota.tokens_per_minute, now)
        if quota.rows is not None:
            over = self.rows + demand.all_rows - quota.rows
            if demand.all_rows and over > 0:
                wait = self.row_seconds * min(1.0, over / max(1, self.rows))
                waits["rows"] = max(_ROUNDING, wait)
        reason = max(waits, key=lambda reason: waits[reason], default=None)
        return None if reason is None or not waits[reason] else (reason, waits[reason])

    def left(self, now: float) -> Left:
        """What may be used at once."""
        requests, tokens = self.quota.requests_per_minute, self.quota.tokens_per_minute
        return Left(
            None if requests is None else self.requests.left(requests, now),
            None if tokens is None else self.tokens.left(tokens, now),
        )


class Share:
    """What one sequence takes of its key's quota, until it is settled or given back.

    Any thread, any number of times; once it has ended nothing of it changes.
    """

    __slots__ = (
        "_quotas", "began", "expected", "is_open", "meter", "most", "requests", "rows", "tokens",
    )  # fmt: skip

    def __init__(
        self, quotas: Quotas, meter: Meter, demand: Demand, tokens: int | None, began: float
    ) -> None:
        """`tokens` is the upper bound of its prompt; None where another sequence has the prompt."""
        self._quotas = quotas
        self.meter = meter
        self.requests = 0 if tokens is None else 1
        self.tokens = tokens or 0
        self.most = demand.new_tokens
        self.expected = demand.new_tokens * meter.answered
        self.rows = demand.rows
        self.began = began
        self.is_open = True

    def count(self, prompt_tokens: int) -> None:
        """Replace the upper bound of its prompt by the prompt's tokens."""
        self._quotas.count(self, prompt_tokens)

    def settle(self, generated_tokens: int) -> None:
        """It has ended, with so many tokens: replace what was expected, free its rows."""
        self._quotas.settle(self, generated_tokens)

    def give_back(self, *, requests: bool = True) -> None:
        """It came to nothing: give back its tokens, and the request with them if `requests`."""
        self._quotas.give_back(self, requests=requests)


class Quotas:
    """The meters of all keys with a quota. Thread-safe; requests use it on the event loop.

    As many meters are kept as there are keys: see `keep`.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        rejected: Callable[[str, QuotaReason], None],
        forgotten: Callable[[str], None],
    ) -> None:
        """`rejected` hears the key and the reason of each refusal, `forgotten` each key that is
        there no longer. Neither may wait."""
        self._clock = clock
        self._rejected = rejected
        self._forgotten = forgotten
        self._lock = threading.Lock()
        self._meters: dict[str, Meter] = {}
        self._keys: frozenset[str] | None = None  # all that there are; None: not said yet

    def take(self, caller: Caller, demand: Demand) -> list[Share]:
        """Take what a request asks for, or nothing of it: a share for each sequence, those of the
        first prompt first. Raises KeyQuotaExceeded, with `retry_after` in seconds.

        The caller is metered. A request that has more prompts or rows than the quota never fits;
        that is to be refused before.
        """
        key, now = caller.key_id, self._clock()
        assert key is not None, "only a key is metered"
        with self._lock:
            meter = self._meters.get(key)
            if meter is None:
                meter = self._meters[key] = Meter(caller.quota)
            meter.quota = caller.quota
            refusal = meter.refusal(demand, now)
            if refusal is None:
                return self._taken(meter, demand, now)
            error = _explained(meter, demand, *refusal, now)
            # A request that came before its key went must not bring back the key's series.
            if self._keys is None or key in self._keys:
                self._rejected(key, refusal[0])
        raise error

    def _taken(self, meter: Meter, demand: Demand, now: float) -> list[Share]:
        shares = [
            Share(self, meter, demand, None if number else tokens, now)
            for tokens in demand.prompts
            for number in range(demand.sequences)
        ]
        expected = sum(share.expected for share in shares)
        meter.use(len(demand.prompts), sum(demand.prompts) + expected, demand.all_rows, now)
        return shares

    def count(self, share: Share, prompt_tokens: int) -> None:
        """See `Share.count`."""
        with self._lock:
            if share.is_open:
                share.meter.use(0, prompt_tokens - share.tokens, 0, self._clock())
                share.tokens = prompt_tokens

    def settle(self, share: Share, generated_tokens: int) -> None:
        """See `Share.settle`."""
        with self._lock:
            if not share.is_open:
                return
            share.is_open = False
            meter, now = share.meter, self._clock()
            meter.use(0, generated_tokens - share.expected, -share.rows, now)
            part = min(1.0, generated_tokens / max(1, share.most))
            meter.answered += _WEIGHT * (part - meter.answered)
            meter.row_seconds += _WEIGHT * (now - share.began - meter.row_seconds)

    def give_back(self, share: Share, *, requests: bool) -> None:
        """See `Share.give_back`."""
        with self._lock:
            if not share.is_open:
                return
            share.is_open = False
            share.meter.use(
                -share.requests if requests else 0,
                -share.tokens - share.expected,
                -share.rows,
                self._clock(),
            )

    def left(self, caller: Caller) -> Left:
        """What a caller may use at once now."""
        with self._lock:
            meter = None if caller.key_id is None else self._meters.get(caller.key_id)
            return Left(None, None) if meter is None else meter.left(self._clock())

    def rows(self, key: str) -> int:
        """The rows of a key that wait or are computed."""
        with self._lock:
            meter = self._meters.get(key)
            return 0 if meter is None else meter.rows

    def keep(self, keys: Collection[str]) -> None:
        """Forget all keys but these, which are all that there are now. A key whose quota is another
        one now keeps what it has used."""
        with self._lock:
            self._keys = frozenset(keys)
            for key in [key for key in self._meters if key not in keys]:
                del self._meters[key]
                self._forgotten(key)


def _explained(
    meter: Meter, demand: Demand, reason: QuotaReason, wait: float, now: float
) -> KeyQuotaExceeded:
    quota, seconds = meter.quota, max(1, math.ceil(wait))
    if reason == "rows":
        asked = "" if demand.all_rows == 1 else f" and this request has {demand.all_rows}"
        said = (
            f"this key may have {quota.rows} sequences waiting or computed at a time; it has "
            f"{meter.rows}{asked}"
        )
    else:
        what = "prompts" if reason == "requests" else "tokens of prompts and answers"
        most = quota.requests_per_minute if reason == "requests" else quota.tokens_per_minute
        pace = meter.requests if reason == "requests" else meter.tokens
        assert most is not None
        said = (
            f"this key may use {most} {what} a minute, evenly; it is "
            f"{math.ceil(pace.ahead(most, now))} ahead of that"
        )
    return KeyQuotaExceeded(
        f"{said}: try again in {seconds} s", reason=reason, retry_after=float(seconds)
    )
