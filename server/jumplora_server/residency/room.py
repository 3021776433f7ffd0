"""How room is made under a byte budget. Of the table of versions only guesses are changed here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from jumplora_server.errors import OutOfMemoryBudget
from jumplora_server.residency.entries import State, Version

Versions = Mapping[str, Version]


def closure(versions: Versions, digests: Iterable[str]) -> tuple[str, ...]:
    """The given versions and all that they need, needed ones first; unknown ones left out."""
    found: dict[str, None] = {}
    for digest in digests:
        path = [digest]  # from a version down to an ancestor; a loop, as chains may be long
        while path:
            version = versions.get(path[-1])
            needs = () if version is None else version.needs
            missing = [a for a in needs if a not in found and a in versions and a not in path]
            if missing:
                path.append(missing[0])
            else:
                last = path.pop()
                if version is not None:
                    found[last] = None
    return tuple(found)


def resident_bytes(versions: Versions, digests: Iterable[str] | None = None) -> int:
    """Bytes of the given versions (None: of all) that count against the budget."""
    return sum(versions[d].resident_bytes for d in (versions if digests is None else digests))


def victims(
    versions: Versions,
    need: int,
    keep: Collection[str],
    is_ripe: Callable[[Version], bool],
    order: Callable[[Version], int],
) -> list[Version] | None:
    """The READY versions whose eviction frees `need` bytes, lowest `order` first.

    Descendants come before what they need; nothing in `keep` or that it needs is taken. None
    when that does not suffice. A draining version leaves with the last one that needs it.
    """
    kept = closure(versions, keep)
    holds = {digest: version.holds for digest, version in versions.items()}
    left = [
        version
        for digest, version in versions.items()
        if version.state is State.READY and digest not in kept and is_ripe(version)
    ]
    chosen: list[Version] = []
    while need > 0:
        free = [version for version in left if not holds[version.digest]]
        if not free:
            return None
        victim = min(free, key=order)
        left.remove(victim)
        chosen.append(victim)
        gone = [victim]
        while gone:
            last = gone.pop()
            need -= last.nbytes
            for digest in last.needs:
                holds[digest] -= 1
                needed = versions[digest]
                is_used = holds[digest] or needed.leases or needed.rows or digest in kept
                if needed.state is State.DRAINING and not is_used:
                    gone.append(needed)
    return chosen


def lacking(versions: Versions, missing: Collection[str], keep: Iterable[str], budget: int) -> int:
    """Bytes that have to go before `missing` may be loaded beside `keep`.

    Nothing that fits without trunks is refused because of them: those that are needed or have to
    stay may go over the budget.
    """
    stays = closure(versions, keep)
    need = sum(versions[d].nbytes for d in missing)
    least = need + resident_bytes(versions, stays)
    trunks = least - _own_bytes(versions, missing, stays)
    excess = max(0, min(trunks, least - budget))
    return need + resident_bytes(versions) - budget - excess


def check_possible(
    versions: Versions, missing: Collection[str], keep: Iterable[str], budget: int
) -> None:
    """Raise OutOfMemoryBudget where no eviction and no waiting makes room; trunks do not count."""
    need = _own_bytes(versions, missing, ())
    kept = _own_bytes(versions, (), closure(versions, keep))
    if need + kept > budget:
        more = f" and {need} more are needed" if need else ""  # 0: a guess that was lowered
        raise OutOfMemoryBudget(
            f"{kept} bytes have to stay{more}; JUMPLORA_ADAPTER_BUDGET_BYTES is {budget}",
            reason="memory_budget",
        )


def _own_bytes(versions: Versions, missing: Iterable[str], stays: Iterable[str]) -> int:
    """Bytes of the versions to be loaded and of those that stay, without trunks."""
    new = (versions[d].nbytes for d in missing if not versions[d].is_trunk)
    old = (versions[d].resident_bytes for d in stays if not versions[d].is_trunk)
    return sum(new) + sum(old)


def lower_guesses(
    versions: Versions, loading: Collection[str], keep: Iterable[str], budget: int
) -> None:
    """Let what was never packed ask for no more than `keep` leaves.

    Files also carry what is not resident (factors, headers): a guess must not refuse what may well
    fit once it is measured. Trunks need not fit.
    """
    possible = budget - resident_bytes(versions, {*closure(versions, keep)}.difference(loading))
    trunks = sum(versions[d].nbytes for d in loading if versions[d].is_trunk)
    excess = sum(versions[d].nbytes for d in loading) - max(trunks, possible)
    for version in (versions[d] for d in loading):
        if excess > 0 and version.size == "guessed":
            cut = min(excess, version.nbytes)
            version.nbytes -= cut
            excess -= cut
