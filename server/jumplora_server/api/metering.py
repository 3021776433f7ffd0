"""What a request takes of its key's quota, and the words of it: `access/quotas` counts."""

from __future__ import annotations

from collections.abc import Sequence

from jumplora_adapters.errors import AdapterError
from jumplora_server.access.caller import Caller
from jumplora_server.access.quotas import Demand, Left, Share
from jumplora_server.api.ask import Ask
from jumplora_server.api.errors import as_server_error
from jumplora_server.core import FinishReason, TokenEvent
from jumplora_server.errors import DeadlineExceeded, InvalidInput, ServerError
from jumplora_server.loop.outbox import OnEvent
from jumplora_server.services import Services

REASON = "key_quota"  # of what no waiting helps
_TOKENIZING = Demand(prompts=(0,))


def take_quota(services: Services, ask: Ask, demand: Demand) -> list[Share]:
    """A share of the caller's quota for each sequence, those of the first prompt first.

    Raises KeyQuotaExceeded, and InvalidInput for more than the quota ever allows.
    """
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
    return services.quotas.take(ask.caller, demand)


def take_one(services: Services, caller: Caller) -> None:
    """A request that tokenizes is one of the quota, and has no rows. Raises KeyQuotaExceeded."""
    services.quotas.take(caller, _TOKENIZING)


def count_prompts(ask: Ask, shares: Sequence[Share], encoded: Sequence[Sequence[int]]) -> None:
    """Replace the upper bounds of prompts by their tokens. Raises InvalidInput where these are more
    than the quota ever allows."""
    most, tokens = ask.caller.quota.tokens_per_minute, sum(map(len, encoded))
    if most is not None and tokens > most:
        raise InvalidInput(
            f"{ask.names.prompts}: {tokens} tokens given; this key may use {most} a minute: send "
            "less at once",
            reason=REASON,
        )
    each = len(shares) // len(encoded)
    for index, ids in enumerate(encoded):
        shares[index * each].count(len(ids))


def settled(share: Share, on_event: OnEvent) -> OnEvent:
    """`on_event`, which hears of the end once the share is settled."""

    def hear(event: TokenEvent) -> None:
        finish = event.finish
        if finish is not None and finish.reason is FinishReason.ERROR:  # the server's, or shed
            share.give_back()
        elif finish is not None:
            share.settle(finish.generated_tokens)
        on_event(event)

    return hear


def give_back(shares: Sequence[Share], error: BaseException) -> None:
    """Give back what never became a sequence. The request still counts where the client was wrong,
    late or gone, for it was work to find out."""
    if isinstance(error, AdapterError):
        error = as_server_error(error)
    is_ours = isinstance(error, Exception) and not isinstance(error, DeadlineExceeded)
    if isinstance(error, ServerError) and error.status < 500:
        is_ours = False
    for share in shares:
        share.give_back(requests=is_ours)


def quota_headers(left: Left, caller: Caller) -> dict[str, str]:
    """What a key may use in a minute and at once now, by OpenAI's names."""
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
