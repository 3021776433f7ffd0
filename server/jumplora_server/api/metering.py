"""What a request takes of its key's quota, and the words of it: `access/quotas` counts."""

from __future__ import annotations

from collections.abc import Sequence

from jumplora_adapters.errors import AdapterError
from jumplora_server.access.caller import Caller
from jumplora_server.access.quotas import Demand, Quotas, Share
from jumplora_server.api.ask import Ask
from jumplora_server.api.errors import as_server_error
from jumplora_server.core import FinishReason, TokenEvent
from jumplora_server.errors import DeadlineExceeded, InvalidInput, ServerError
from jumplora_server.loop.outbox import OnEvent

REASON = "key_quota"  # of what no waiting helps
_TOKENIZING = Demand(prompts=(0,))


class Metered:
    """The shares of a request's sequences, those of the first prompt first. Of the event loop."""

    def __init__(self, quotas: Quotas, ask: Ask, demand: Demand) -> None:
        """Takes them from the caller's key. Raises KeyQuotaExceeded, and InvalidInput for more than
        the quota ever allows; then nothing is taken."""
        _check(ask, demand)
        self._quotas = quotas
        self._ask = ask
        self._each = demand.sequences
        self._shares: Sequence[Share] = quotas.take(ask.caller, demand)

    def count(self, encoded: Sequence[Sequence[int]]) -> None:
        """Replace the upper bounds of prompts by their tokens. Raises InvalidInput where these are
        more than the quota ever allows."""
        most, tokens = self._ask.caller.quota.tokens_per_minute, sum(map(len, encoded))
        if most is not None and tokens > most:
            raise InvalidInput(
                f"{self._ask.names.prompts}: {tokens} tokens given; this key may use {most} a "
                "minute: send less at once",
                reason=REASON,
            )
        for index, ids in enumerate(encoded):
            self._shares[index * self._each].count(len(ids))

    def settled(self, number: int, on_event: OnEvent) -> OnEvent:
        """`on_event` of the sequence `number`, which hears of the end once the share is settled."""
        share = self._shares[number]

        def hear(event: TokenEvent) -> None:
            finish = event.finish
            if finish is not None and finish.reason is FinishReason.ERROR:
                share.give_back()
            elif finish is not None:
                share.settle(finish.generated_tokens)
            on_event(event)

        return hear

    def give_back(self, error: BaseException, first: int = 0) -> None:
        """Give back what never became a sequence, from the one numbered `first` on. The request
        still counts where the client was wrong, late or gone: it was work to find out."""
        if isinstance(error, AdapterError):
            error = as_server_error(error)
        is_ours = isinstance(error, Exception) and not isinstance(error, DeadlineExceeded)
        if isinstance(error, ServerError) and error.status < 500:
            is_ours = False
        for share in self._shares[first:]:
            share.give_back(requests=is_ours)

    def refused(self) -> None:
        """Give all back: the server has no room, which costs no key anything."""
        for share in self._shares:
            share.give_back()

    def headers(self) -> dict[str, str]:
        """What the key may use in a minute and at once now, by OpenAI's names."""
        caller = self._ask.caller
        left = self._quotas.left(caller)
        rows = {
            "requests": (caller.quota.requests_per_minute, left.requests),
            "tokens": (caller.quota.tokens_per_minute, left.tokens),
        }
        headers: dict[str, str] = {}
        for what, (limit, remaining) in rows.items():
            if limit is not None and remaining is not None:
                headers[f"x-ratelimit-limit-{what}"] = str(limit)
                headers[f"x-ratelimit-remaining-{what}"] = str(remaining)
        return headers


def take_one(quotas: Quotas, caller: Caller) -> None:
    """What is tokenized alone is a request of the quota, without rows. Raises KeyQuotaExceeded."""
    if caller.is_metered:
        quotas.take(caller, _TOKENIZING)


def _check(ask: Ask, demand: Demand) -> None:
    quota, prompts = ask.caller.quota, len(demand.prompts)
    most = quota.requests_per_minute
    if most is not None and prompts > most:
        raise InvalidInput(
            f"{ask.names.prompts}: {prompts} prompts given; this key may send {most} a minute: "
            "send fewer at once",
            reason=REASON,
        )
    if quota.rows is not None and demand.all_rows > quota.rows:
        raise InvalidInput(
            f"{ask.names.prompts}: {prompts} prompts with {demand.sequences * demand.rows} answers "
            f"or beams each make {demand.all_rows} sequences; this key may have {quota.rows} "
            "waiting or computed at a time: ask for fewer at once",
            reason=REASON,
        )
