"""The keys file: TOML with a `[[keys]]` table for each key, read strictly and written by a command.

Every fault is a line that says where it is and what is allowed. No line shows what stands where a
hash belongs: it may be a key.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import Any, get_args

from jumplora_adapters.printable import shown_value
from jumplora_server.access.caller import Quota, Scope, TaskPatterns
from jumplora_server.access.gate import in_order
from jumplora_server.access.keys import Key

MAX_BYTES = 1024 * 1024
MAX_KEYS = 1000  # each may get series of metrics
MAX_HASHES, MAX_PATTERNS = 8, 256  # of one key
MAX_FAULTS = 50
MAX_COUNT = 10**12
ENVIRONMENT = "JUMPLORA_API_KEYS or JUMPLORA_ADMIN_KEYS"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_PATTERN = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9._*?-]{0,63}", re.ASCII)
_HASH = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE | re.ASCII)
_SCOPES: tuple[Scope, ...] = get_args(Scope)
_REQUIRED = ("id", "hash", "scopes")
_QUOTAS = ("requests_per_minute", "tokens_per_minute", "rows")


class KeysFault(ValueError):
    """The keys cannot be used. `lines` has one for each thing that is wrong."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        more = len(lines) - MAX_FAULTS
        self.lines = (*lines[:MAX_FAULTS], *([f"and {more} faults more"] if more > 0 else []))


def parse_keys(content: bytes, others: Sequence[Key] = ()) -> tuple[Key, ...]:
    """The keys of a file, in its order. `others` are those of the environment, none of which may
    stand in the file, too. Raises KeysFault."""
    entries, lines = _entries(content)
    keys = []
    for number, entry in enumerate(entries, 1):
        found = entry.get("id")
        is_named = isinstance(found, str) and _ID.fullmatch(found) is not None
        where = f"key {number} ({found}): " if is_named else f"key {number}: "
        values, faults = _values(entry)
        lines += [where + fault for fault in faults]
        if not faults:
            keys.append(_key(values))
    lines += _doubles(keys, others)
    if lines:
        raise KeysFault(lines)
    return tuple(keys)


def _entries(content: bytes) -> tuple[list[dict[str, Any]], list[str]]:
    """The tables of keys, and what is wrong with the file as a whole."""
    if len(content) > MAX_BYTES:
        return [], [f"the file has over {MAX_BYTES} bytes, which is the most"]
    try:
        document = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        return [], [f"byte {error.start} is not UTF-8, which a TOML file is in"]
    except RecursionError:
        return [], ["its values are nested too deeply for TOML that lists keys"]
    except ValueError as error:
        return [], [f"it is not TOML: {error}"]
    lines = [
        f"{shown_value(name)} is not allowed here: write [[keys]] above the fields of each key"
        for name in document
        if name != "keys"
    ]
    entries = document.get("keys", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return [], [*lines, "keys: write [[keys]] above the fields of each key"]
    if not entries and not lines:  # also what a file is that is being written
        return [], ["it has no keys: write [[keys]] above the fields of each key"]
    if len(entries) > MAX_KEYS:
        return [], [*lines, f"it has {len(entries)} keys; at most {MAX_KEYS} are allowed"]
    return entries, lines


def _values(entry: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields of one key, and what is wrong with them."""
    values, faults = {}, []
    for name, given in entry.items():
        read = _FIELDS.get(name)
        if read is None:
            faults.append(_unknown(name))
            continue
        try:
            values[name] = read(given)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    missing = [name for name in _REQUIRED if name not in entry]
    faults += [f"{name} is missing; each key has {', '.join(_REQUIRED)}" for name in missing]
    return values, faults


def _unknown(name: str) -> str:
    if name in ("key", "secret", "token", "password"):
        return (
            f'"{name}" is not allowed: a key itself never stands here, only hash = "sha256:..."; '
            "`jumplora keys new` makes both"
        )
    closest = next(iter(difflib.get_close_matches(name, _FIELDS, n=1)), None)
    hint = f"did you mean {closest}?" if closest else f"allowed: {', '.join(_FIELDS)}"
    return f"{shown_value(name)} is not a field of a key; {hint}"


def _key(values: Mapping[str, Any]) -> Key:
    return Key(
        id=values["id"],
        hashes=values["hash"],
        scopes=values["scopes"],
        tasks=values.get("tasks"),
        expires=values.get("expires"),
        quota=Quota(**{name: values.get(name) for name in _QUOTAS}),
    )


def _doubles(keys: Sequence[Key], others: Sequence[Key]) -> list[str]:
    """What stands at two places."""
    lines = []
    ids = {key.id: ENVIRONMENT for key in others}
    owners = {digest: ENVIRONMENT for key in others for digest in key.hashes}
    for key in keys:
        if key.id in ids:
            lines.append(f"key {key.id}: id: {ids[key.id]} has this id, too; ids are unique")
        ids[key.id] = "another key"
        for digest in key.hashes:
            if digest in owners:
                lines.append(f"key {key.id}: hash: {owners[digest]} has this one, too; keep one")
            owners[digest] = f"key {key.id}"
    return lines


def _id(given: object) -> str:
    if isinstance(given, str) and _ID.fullmatch(given):
        return given
    raise ValueError(
        f"{shown_value(given)} is not allowed: 1 to 64 letters, digits, '.', '_' or '-', starting "
        "with a letter or digit"
    )


def _hashes(given: object) -> tuple[str, ...]:
    each = given if isinstance(given, list) else [given]
    found = [_HASH.fullmatch(one) if isinstance(one, str) else None for one in each]
    digests = tuple(match[1].lower() for match in found if match is not None)
    if not 1 <= len(each) <= MAX_HASHES or len(digests) < len(each):
        raise ValueError(
            'give "sha256:" and 64 hexadecimal digits, which `printf %s "$KEY" | sha256sum` '
            f"prints, or a list of 1 to {MAX_HASHES} of these; never the key itself"
        )
    return digests


def _scopes(given: object) -> frozenset[Scope]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"give a list of one or more of {', '.join(_SCOPES)}")
    for one in given:
        if one not in _SCOPES:
            raise ValueError(f"{shown_value(one)} is not allowed; allowed: {', '.join(_SCOPES)}")
    if len(set(given)) < len(given):
        raise ValueError("one of them stands there twice")
    return frozenset(given)


def _tasks(given: object) -> TaskPatterns:
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_PATTERNS:
        raise ValueError(
            f"give a list of 1 to {MAX_PATTERNS} task ids or patterns; without tasks the key is "
            "for all of them"
        )
    for one in given:
        if not isinstance(one, str) or _PATTERN.fullmatch(one) is None:
            raise ValueError(
                f"{shown_value(one)} is not allowed: a task id, in which * may stand for any "
                "characters and ? for one"
            )
    return TaskPatterns.of(given)


def _moment(given: object) -> datetime:
    """The first moment at which the key is refused: behind a date's last, in UTC."""
    try:
        if isinstance(given, datetime):
            if given.tzinfo is not None:
                return given.astimezone(UTC)
        elif isinstance(given, date):
            return datetime(given.year, given.month, given.day, tzinfo=UTC) + timedelta(days=1)
    except OverflowError:
        raise ValueError("a year from 1 to 9998 is allowed") from None
    raise ValueError(
        "give a date (2027-01-31, up to the end of it in UTC) or a time with its zone "
        "(2027-01-31T12:00:00Z), without quotes"
    )


def _count(given: object) -> int:
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= MAX_COUNT:
        return given
    raise ValueError(f"{shown_value(given)} is not allowed: a whole number from 1 to {MAX_COUNT}")


_FIELDS: Mapping[str, Callable[[object], Any]] = MappingProxyType(
    {
        "id": _id,
        "hash": _hashes,
        "scopes": _scopes,
        "tasks": _tasks,
        "expires": _moment,
        **dict.fromkeys(_QUOTAS, _count),
    }
)


def entry_text(
    key_id: str,
    hashes: Sequence[str],
    scopes: Iterable[str],
    tasks: Sequence[str] = (),
    expires: str | None = None,
    quotas: Mapping[str, int | None] = MappingProxyType({}),
) -> str:
    """The table of one key, as `parse_keys` reads it; what is wrong in it is said there.

    `expires` is written as it is; the caller has to know that it is a date or a time.
    """
    listed = [f"sha256:{digest}" for digest in hashes]
    fields: dict[str, str] = {
        "id": json.dumps(key_id),
        "hash": json.dumps(listed if len(listed) > 1 else listed[0]),
        "scopes": json.dumps([*scopes]),
    }
    if tasks:
        fields["tasks"] = json.dumps([*tasks])
    if expires is not None:
        fields["expires"] = expires
    fields |= {name: str(n) for name, n in quotas.items() if n is not None}
    return "\n".join(["[[keys]]", *(f"{name} = {value}" for name, value in fields.items()), ""])


def scopes_text(key: Key) -> str:
    """The scopes of a key on one line."""
    return ", ".join(in_order(key.scopes))
