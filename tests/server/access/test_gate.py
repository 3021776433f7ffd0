"""Who is let in: keys by scope, in time and out of it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import get_args

import pytest

from jumplora_server.access.caller import Caller, Scope
from jumplora_server.access.gate import Refusal, RefusedFor, admitted
from jumplora_server.access.keyring import Keyring
from jumplora_server.access.keys import Key, hash_of
from jumplora_server.access.needs import ENOUGH, Need

SCOPES: tuple[Scope, ...] = get_args(Scope)
UNTIL = datetime(2027, 2, 1, tzinfo=UTC)
IN_TIME = UNTIL.timestamp() - 1


def key_of(*scopes: Scope, expires: datetime | None = None) -> Key:
    name = "-".join(scopes)
    return Key(name, (hash_of(f"key-{name}"),), frozenset(scopes), expires=expires)


ALL = Keyring([*map(key_of, SCOPES)], is_open=False)


def refusal(
    need: Need, header: str | None, keyring: Keyring = ALL, now: float = IN_TIME
) -> Refusal:
    found = admitted(keyring, need, header, now)
    assert isinstance(found, Refusal)
    return found


# need: whether a key of infer, read, metrics, admin alone is enough
OPENS: dict[Need, str] = {
    "any": "yyyy",
    "look": "yy-y",
    "infer": "y---",
    "read": "-y-y",
    "metrics": "--yy",
    "admin": "---y",
    "closed": "----",
}


@pytest.mark.parametrize("need", OPENS)
def test_which_scope_is_enough(need: Need) -> None:
    for scope, mark in zip(SCOPES, OPENS[need], strict=True):
        found = admitted(ALL, need, f"Bearer key-{scope}", IN_TIME)
        if mark == "y":
            assert found == Caller(scope, frozenset([scope]))
        else:
            assert isinstance(found, Refusal)
            assert (found.reason, found.error.status) == ("scope", 403)
            assert found.caller.key_id == scope
            assert f"this key has the scope {scope};" in found.error.message
    assert set(OPENS) == set(ENOUGH)


def test_a_refusal_says_which_scopes_there_are_and_which_are_needed() -> None:
    keyring = Keyring([key_of("admin"), key_of("metrics", "infer")], is_open=False)
    told = refusal("read", "Bearer key-metrics-infer", keyring).error.message
    assert told == (
        "this key has the scopes infer, metrics; reading adapters and the overview takes read or "
        "admin"
    )


@pytest.mark.parametrize(
    ("header", "reason", "words"),
    [
        (None, "missing", "a key is required: Authorization: Bearer <key>"),
        ("", "missing", "the header must read"),
        ("Bearer", "missing", "the header must read"),
        ("Bearer  ", "missing", "the header must read"),
        ("Basic key-infer", "missing", "the header must read"),
        ("key-infer", "missing", "the header must read"),
        ("Bearer key-inferx", "unknown", "not known"),
        ("Bearer KEY-INFER", "unknown", "not known"),
        ("Bearer \xff", "unknown", "not known"),
        (f"Bearer {hashlib.sha256(b'key-infer').hexdigest()}", "unknown", "not known"),
        (f"Bearer sha256:{hashlib.sha256(b'key-infer').hexdigest()}", "unknown", "not known"),
    ],
)
def test_what_no_key_is(header: str | None, reason: RefusedFor, words: str) -> None:
    found = refusal("infer", header)
    assert (found.reason, found.error.status) == (reason, 401)
    assert found.caller == Caller()
    assert words in found.error.message


@pytest.mark.parametrize("need", ["infer", "admin", "any"])
def test_an_expired_key_is_none_and_only_its_owner_reads_so(need: Need) -> None:
    keyring = Keyring([key_of("infer", "admin", expires=UNTIL)], is_open=False)
    right = "Bearer key-infer-admin"
    assert isinstance(admitted(keyring, need, right, IN_TIME), Caller)
    for now in (UNTIL.timestamp(), UNTIL.timestamp() + 1e9):
        found = refusal(need, right, keyring, now)
        assert (found.reason, found.error.status) == ("expired", 401)
        assert found.caller.key_id == "infer-admin"
        assert found.error.message == (
            "the key infer-admin expired at 2027-02-01 00:00:00 UTC: ask the server's operator for "
            "another one"
        )
        unknown = refusal(need, "Bearer other", keyring, now).error.message
        assert unknown == "the key is not known: ask the server's operator for one"


def test_any_of_a_keys_hashes_is_it() -> None:
    key = Key("a", (hash_of("old"), hash_of("new")), frozenset({"infer"}))
    keyring = Keyring([key], is_open=False)
    assert keyring.find("old") is keyring.find("new") is key
    assert keyring.find("older") is None


def test_without_a_key_for_changes_they_are_off() -> None:
    keyring = Keyring([key_of("read")], is_open=False)
    for header in (None, "Bearer key-read"):
        found = refusal("admin", header, keyring)
        assert (found.reason, found.error.status) == ("scope", 403)
        assert "JUMPLORA_KEYS_FILE" in found.error.message


def test_what_is_closed_is_so_on_an_open_server_too() -> None:
    keyring = Keyring([], is_open=True)
    assert admitted(keyring, "any", None, IN_TIME) == Caller()
    assert refusal("closed", None, keyring).error.status == 401
