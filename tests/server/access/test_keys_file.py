"""What a keys file may hold, and what is said of one that may not be read."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jumplora_server.access.caller import Quota, Scope, TaskPatterns
from jumplora_server.access.keys import Key, environment_keys, hash_of
from jumplora_server.access.keys_file import (
    MAX_BYTES,
    MAX_FAULTS,
    MAX_KEYS,
    KeysFault,
    entry_text,
    parse_keys,
)

A, B = hash_of("key-a"), hash_of("key-b")
GOOD = f'id = "a"\nhash = "sha256:{A}"\nscopes = ["infer"]\n'
SECRET = "a-plain-key-that-nothing-may-show"


def faults_of(text: str, others: tuple[Key, ...] = ()) -> tuple[str, ...]:
    with pytest.raises(KeysFault) as caught:
        parse_keys(text.encode(), others)
    return caught.value.lines


def test_all_fields() -> None:
    text = f"""
        # of team A
        [[keys]]
        id = "team-a"
        hash = ["sha256:{A.upper()}", "SHA256:{B}"]
        scopes = ["read", "infer"]
        tasks = ["team-a-*", "shared-?"]
        expires = 2027-01-31T12:00:00+02:00
        requests_per_minute = 600
        tokens_per_minute = 100_000
        rows = 4

        [[keys]]
        id = "prometheus"
        hash = "sha256:{hash_of("other")}"
        scopes = ["metrics"]
    """
    first, second = parse_keys(text.encode())
    assert first == Key(
        "team-a",
        (A, B),
        frozenset({"infer", "read"}),
        TaskPatterns(("shared-?", "team-a-*")),
        datetime(2027, 1, 31, 10, tzinfo=UTC),
        Quota(600, 100_000, 4),
    )
    assert second == Key("prometheus", (hash_of("other"),), frozenset({"metrics"}))
    assert first.caller.quota.rows == 4
    assert first.caller.may_see("team-a-x")
    assert not first.caller.may_see("team-b-x")


def test_a_date_is_the_last_day_in_utc() -> None:
    (key,) = parse_keys(f"[[keys]]\n{GOOD}expires = 2027-01-31".encode())
    assert key.expires == datetime(2027, 2, 1, tzinfo=UTC)
    assert not key.is_expired(datetime(2027, 1, 31, 23, 59, 59, tzinfo=UTC).timestamp())
    assert key.is_expired(datetime(2027, 2, 1, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has no keys: write [[keys]]"),
        ("# nothing", "it has no keys"),
        ("keys = []", "it has no keys"),
        ("keys = 3", "keys: write [[keys]]"),
        ("[keys]\n" + GOOD, "keys: write [[keys]]"),
        ("[[key]]\n" + GOOD, '"key" is not allowed here: write [[keys]]'),
        ("version = 1\n[[keys]]\n" + GOOD, '"version" is not allowed here'),
        ("[[keys]]\nid = a", "it is not TOML: "),
        ("[[keys]]\nid = 'a'\nid = 'b'", "it is not TOML: "),
        ("a = " + "[" * 5000, "nested too deeply"),
        ("rows = " + "9" * 5000, "it is not TOML: "),
        ("#" * (MAX_BYTES + 1), f"over {MAX_BYTES} bytes"),
        ("[[keys]]\n" * (MAX_KEYS + 1), f"at most {MAX_KEYS} are allowed"),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_the_file_as_a_whole(text: str, words: str) -> None:
    (line,) = faults_of(text)
    assert words in line


def test_a_file_that_is_not_utf8() -> None:
    with pytest.raises(KeysFault, match="byte 5 is not UTF-8"):
        parse_keys(b"# key\xff")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": None}, "key 1: id is missing; each key has id, hash, scopes"),
        ({"id": ""}, 'key 1: id: "" is not allowed: 1 to 64 letters'),
        ({"id": "-a"}, 'key 1: id: "-a" is not allowed'),
        ({"id": "a" * 65}, "is not allowed: 1 to 64 letters"),
        ({"id": "a\n"}, "is not allowed: 1 to 64 letters"),
        ({"id": 3}, "key 1: id: 3 is not allowed"),
        ({"hash": None}, "key 1 (a): hash is missing"),
        ({"hash": SECRET}, 'key 1 (a): hash: give "sha256:" and 64'),
        ({"hash": "sha256:" + SECRET}, "never the key itself"),
        ({"hash": A}, 'give "sha256:" and 64'),
        ({"hash": []}, "or a list of 1 to 8"),
        ({"hash": [f"sha256:{A}", SECRET]}, "never the key itself"),
        ({"hash": [f"sha256:{hash_of(str(n))}" for n in range(9)]}, "a list of 1 to 8"),
        ({"hash": [f"sha256:{A}"] * 2}, "key a: hash: key a has this one, too"),
        ({"key": SECRET}, '"key" is not allowed: a key itself never stands here'),
        ({"scopes": None}, "key 1 (a): scopes is missing"),
        ({"scopes": []}, "give a list of one or more of infer, read, metrics, admin"),
        ({"scopes": "infer"}, "give a list of one or more of infer, read, metrics, admin"),
        ({"scopes": ["infer", "write"]}, 'scopes: "write" is not allowed; allowed: infer, read'),
        ({"scopes": ["infer", "infer"]}, "twice"),
        ({"scopes": [["infer"]]}, "is not allowed; allowed: infer"),
        ({"scope": ["infer"]}, '"scope" is not a field of a key; did you mean scopes?'),
        ({"colour": "red"}, "is not a field of a key; allowed: id, hash, scopes, tasks, expires"),
        ({"tasks": []}, "without tasks the key is for all of them"),
        ({"tasks": "a"}, "give a list of 1 to 256 task ids"),
        ({"tasks": ["a/b"]}, 'tasks: "a/b" is not allowed: a task id, in which *'),
        ({"tasks": ["[ab]"]}, "is not allowed: a task id, in which *"),
        ({"tasks": [""]}, "is not allowed: a task id, in which *"),
        ({"tasks": [3]}, "tasks: 3 is not allowed"),
        ({"expires": "2027-01-31"}, "without quotes"),
        ({"expires": datetime(2027, 1, 31)}, "a time with its zone"),
        ({"expires": date(9999, 12, 31)}, "a year from 1 to 9998"),
        ({"expires": 3}, "give a date"),
        ({"rows": 0}, "rows: 0 is not allowed: a whole number from 1 to"),
        ({"rows": True}, "rows: true is not allowed"),
        ({"rows": 1.5}, "rows: 1.5 is not allowed"),
        ({"rows": 10**13}, "is not allowed: a whole number"),
        ({"requests_per_minute": "60"}, 'requests_per_minute: "60" is not allowed'),
        ({"tokens_per_minute": -1}, "tokens_per_minute: -1 is not allowed"),
    ],
    ids=repr,
)
def test_a_field(change: dict[str, Any], words: str) -> None:
    fields = {"id": "a", "hash": f"sha256:{A}", "scopes": ["infer"], **change}
    shown = {name: toml(value) for name, value in fields.items() if value is not None}
    lines = faults_of("[[keys]]\n" + "\n".join(f"{name} = {text}" for name, text in shown.items()))
    assert len(lines) == 1
    assert words in lines[0]
    assert SECRET not in lines[0]


def toml(value: object) -> str:
    return value.isoformat() if isinstance(value, date) else json.dumps(value)


def test_every_fault_has_a_line_and_there_are_not_too_many() -> None:
    text = f'[[keys]]\nid = "x"\nrows = 0\nscopes = []\n[[keys]]\n{GOOD}[[keys]]\ncolour = 1\n'
    assert [line.split(": ")[0] for line in faults_of(text)] == [
        *["key 1 (x)"] * 3,
        *["key 3"] * 4,
    ]
    many = faults_of("[[keys]]\n" * 100)
    assert len(many) == MAX_FAULTS + 1
    assert many[-1] == f"and {300 - MAX_FAULTS} faults more"


def test_ids_and_hashes_stand_at_one_place() -> None:
    double = f"[[keys]]\n{GOOD}[[keys]]\n{GOOD}"
    assert faults_of(double) == (
        "key a: id: another key has this id, too; ids are unique",
        "key a: hash: key a has this one, too; keep one",
    )
    others = (*environment_keys([A], [B]),)
    (line,) = faults_of(f"[[keys]]\n{GOOD}", others)
    assert line.startswith("key a: hash: JUMPLORA_API_KEYS or JUMPLORA_ADMIN_KEYS has this one")
    same_id = GOOD.replace('"a"', f'"{B[:12]}"')
    assert any("has this id" in line for line in faults_of(f"[[keys]]\n{same_id}", others))


ENTRIES = st.fixed_dictionaries(
    {
        "id": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
        "secret": st.text(min_size=1, max_size=20),
        "scopes": st.lists(st.sampled_from(get_args(Scope)), min_size=1, unique=True),
        "tasks": st.lists(
            st.from_regex(r"[A-Za-z0-9*?][A-Za-z0-9._*?-]{0,63}", fullmatch=True), max_size=3
        ),
        "expires": st.none() | st.dates(max_value=date(9999, 12, 30)),
        "rows": st.none() | st.integers(1, 10**12),
    }
)


@settings(deadline=None)
@given(
    st.lists(ENTRIES, min_size=1, max_size=4, unique_by=(lambda e: e["id"], lambda e: e["secret"]))
)
def test_what_is_written_is_read(entries: list[dict[str, Any]]) -> None:
    hashes = [hash_of(entry["secret"]) for entry in entries]
    if len(set(hashes)) < len(hashes):  # texts that no header can hold are one to the server
        return
    text = "\n".join(
        entry_text(
            entry["id"],
            [digest],
            entry["scopes"],
            entry["tasks"],
            entry["expires"] and entry["expires"].isoformat(),
            {"rows": entry["rows"]},
        )
        for entry, digest in zip(entries, hashes, strict=True)
    )
    for key, entry, digest in zip(parse_keys(text.encode()), entries, hashes, strict=True):
        assert (key.id, key.hashes) == (entry["id"], (digest,))
        assert key.scopes == frozenset(entry["scopes"])
        assert key.tasks == (TaskPatterns.of(entry["tasks"]) if entry["tasks"] else None)
        assert key.quota == Quota(rows=entry["rows"])
        assert (key.expires is None) == (entry["expires"] is None)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(["id", "hash", "scopes", "tasks", "expires", "rows", "key"]) | st.text()


def odd_file(tables: list[dict[str, Any]]) -> bytes:
    lines = [
        line
        for fields in tables
        for line in (
            "[[keys]]",
            *(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in fields.items()),
        )
    ]
    return "\n".join(lines).encode("utf-8", errors="replace")


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.text("[]{}=\"'\n.,-:T0129keysidhash ", max_size=80).map(str.encode)
    | st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=3).map(odd_file)
)
def test_odd_files_are_read_or_refused_and_raise_nothing_else(content: bytes) -> None:
    faults: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    try:
        keys = parse_keys(content)
    except KeysFault as fault:
        faults = fault.lines
    assert bool(faults) != bool(keys)
    assert all("\n" not in line for line in faults)


def test_the_example_of_the_runbook_is_one() -> None:
    example = Path(__file__).parents[3] / "deploy" / "keys.example.toml"
    keys = parse_keys(example.read_bytes())
    assert {scope for key in keys for scope in key.scopes} == {*get_args(Scope)}
    assert any(key.tasks for key in keys)
    assert any(key.expires for key in keys)
    assert any(key.quota != Quota() for key in keys)
    assert any(len(key.hashes) > 1 for key in keys)
