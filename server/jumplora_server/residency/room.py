"""How room is made under a byte budget: pure functions over the table of versions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from jumplora_server.residency.status import State
from jumplora_server.residency.version import Version

Versions = Mapping[str, Version]


def closure(versions: Versions, digests: Iterable[str]) -> tuple[str, ...]:
    """The given versions and all that they stand on, ancestors first; unknown ones left out."""
    found: dict[str, None] = {}
    for digest in digests:
        path = [digest]  # from a version down to an ancestor; a loop, as chains may be long
        while path:
            version = versions.get(path[-1])
            ancestors = () if version is None else version.facts.ancestors
            missing = [a for a in ancestors if a not in found and a in versions and a not in path]
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


def is_evictable(version: Version) -> bool:
    """Whether no row computes with it and no lease is held that it must wait for."""
    return not version.rows and (not version.leases or version.is_yielding)


def victims(
    versions: Versions,
    need: int,
    keep: Collection[str],
    is_ripe: Callable[[Version], bool],
    order: Callable[[Version], int],
) -> list[Version] | None:
    """The READY versions whose eviction frees `need` bytes, lowest `order` first.

    Descendants come before their ancestors; nothing in `keep` or that it stands on is taken. None
    when that does not suffice.
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
        need -= victim.nbytes
        for ancestor in victim.facts.ancestors:
            holds[ancestor] -= 1
    return chosen


def lower_guesses(versions: Collection[Version], possible: int) -> None:
    """Let what was never packed ask for no more than `possible` bytes together.

    Files also carry what is not resident (factors, headers): a guess must not refuse what may well
    fit once it is measured.
    """
    excess = -possible
    for version in versions:
        if version.size == "guessed":
            version.nbytes = version.facts.disk_bytes
        excess += version.nbytes
    for version in versions:
        if excess > 0 and version.size == "guessed":
            cut = min(excess, version.nbytes)
            version.nbytes -= cut
            excess -= cut
