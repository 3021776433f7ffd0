"""`jumplora keys`, and the start of a server whose keys file has faults."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jumplora_server.access.keyring import Keyring
from jumplora_server.access.keys_file import MAX_KEYS, entry_text, parse_keys
from jumplora_server.batch.offline import offline_settings
from jumplora_server.cli.keys import PREFIX, append_entry
from jumplora_server.cli.main import command_line
from serving import ADMIN_KEY

pytestmark = pytest.mark.usefixtures("plain_shell")
NEW = ("keys", "new", "--id", "team-a", "--scope", "infer")


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(command_line(), [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def test_a_new_key_and_its_entry() -> None:
    told = run(
        *NEW, "--scope", "read", "--task", "team-a-*", "--task", "shared", "--expires",
        "2027-01-31", "--requests-per-minute", 60, "--tokens-per-minute", 9000, "--rows", 2,
    )  # fmt: skip
    secret, entry = told.stdout.split("\n", 1)
    assert re.fullmatch(r"jl_[A-Za-z0-9_-]{43}", secret)
    (key,) = parse_keys(entry.encode())
    assert Keyring([key], is_open=False).find(secret) is key
    assert key.id == "team-a"
    assert key.scopes == frozenset({"infer", "read"})
    assert key.tasks is not None
    assert key.tasks.patterns == ("shared", "team-a-*")
    assert (key.quota.requests_per_minute, key.quota.tokens_per_minute, key.quota.rows) == (
        60, 9000, 2,
    )  # fmt: skip
    assert secret not in entry
    assert "shown only now" in told.stderr
    assert run(*NEW).stdout.split("\n", 1)[0] != secret


def test_a_key_for_a_number_of_days() -> None:
    (key,) = parse_keys(run(*NEW, "--expires", "90d").stdout.split("\n", 1)[1].encode())
    assert key.expires is not None
    left = key.expires - datetime.now(UTC)
    assert timedelta(days=90) <= left <= timedelta(days=91)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--id", "team a"), 'id: "team a" is not allowed'),
        (("--scope", "write"), 'scopes: "write" is not allowed; allowed: infer, read'),
        (("--task", "a/b"), 'tasks: "a/b" is not allowed'),
        (("--rows", "0"), "rows: 0 is not allowed"),
        (("--expires", "soon"), "give a date (2027-01-31"),
        (("--expires", "3"), "give a date (2027-01-31"),
        (("--expires", "2027-01-31\nrows=1"), "give a date (2027-01-31"),
        (("--expires", "2027-01-31T12:00:00"), "expires: give a date"),
        (("--expires", "2020-01-31"), "--expires '2020-01-31' is over: give a later day or time"),
    ],
)
def test_what_no_key_may_have(arguments: tuple[str, ...], words: str) -> None:
    told = run(*NEW, *arguments, code=1)
    assert words in told.stderr
    assert PREFIX not in told.stdout


def test_keys_are_appended_and_nothing_else_is_touched(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    first = run(*NEW, "--append", file).stdout.strip()
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("# by hand\n" + file.read_text().rstrip("\n"))
    file.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(file.name)
    inode = file.stat().st_ino
    made = json.loads(
        run("keys", "new", "--id", "b", "--scope", "admin", "--append", link, "--json").stdout
    )
    assert link.is_symlink()
    assert (file.stat().st_ino, file.stat().st_mode & 0o777) == (inode, 0o640)
    assert file.read_text().startswith("# by hand\n[[keys]]\n")
    keyring = Keyring(parse_keys(file.read_bytes()), is_open=False)
    assert [key.id for key in keyring.keys] == ["team-a", "b"]
    assert str(getattr(keyring.find(first), "id", None)) == "team-a"
    assert str(getattr(keyring.find(made["key"]), "id", None)) == "b"

    before = file.read_bytes()
    told = run(*NEW, "--append", file, code=1)
    assert f"{file}: key team-a: id: another key has this id" in told.stderr
    assert (file.read_bytes(), told.stdout) == (before, "")


def test_a_file_with_faults_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("[[keys]]\nrows = 0\n")
    told = run(*NEW, "--append", file, code=1)
    assert told.stderr.count(f"{file}: key 1: ") == 4
    assert file.read_text() == "[[keys]]\nrows = 0\n"
    missing = run(*NEW, "--append", tmp_path / "no" / "keys.toml", code=1).stderr
    assert "No such file or directory" in missing


def test_two_who_append_at_a_time_both_do(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    with ThreadPoolExecutor(4) as pool:
        entries = [entry_text(f"k{n}", [f"{n:064x}"], ["infer"]) for n in range(24)]
        for done in [pool.submit(append_entry, file, entry) for entry in entries]:
            done.result(timeout=20)
    assert sorted(key.id for key in parse_keys(file.read_bytes())) == sorted(
        f"k{n}" for n in range(24)
    )


def test_check_lists_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    entries = [
        entry_text("a", ["0" * 64, "1" * 64], ["read", "infer"], ["a-*"], "2020-01-31"),
        entry_text("b", ["2" * 64], ["admin"], quotas={"rows": 1200}),
    ]
    file.write_text("\n".join(entries))
    told = run("keys", "check", file)
    lines = {line.split()[0]: line.split() for line in told.stdout.splitlines() if line.strip()}
    assert " ".join(lines["a"]) == "a infer, read a-* 2020-02-01 00:00 UTC (expired) 2"
    assert " ".join(lines["b"]) == "b admin all never 1,200"
    assert "1 key expired: a" in told.stderr
    found: list[dict[str, Any]] = json.loads(run("keys", "check", file, "--json").stdout)["keys"]
    assert [(key["id"], key["expired"], key["tasks"]) for key in found] == [
        ("a", True, ["a-*"]),
        ("b", False, None),
    ]
    file.chmod(0o666)
    assert f"chmod o-w {file}" in run("keys", "check", file).stderr


def test_check_tells_all_faults(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    assert "No such file" in run("keys", "check", file, code=1).stderr
    file.write_text("[[keys]]\nrows = 0\n")
    assert run("keys", "check", file, code=1).stderr.count(f"{file}: key 1: ") == 4
    file.write_text("[[keys]]\n" * (MAX_KEYS + 1))
    assert "at most 1000" in run("keys", "check", file, code=1).stderr


def test_a_batch_without_a_server_reads_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUMPLORA_KEYS_FILE", "/not/there")
    assert offline_settings(backbone="b", store="s").keys_file is None


@pytest.mark.parametrize("content", [None, "", "[[keys]]\nrows = 0\nscopes = []\n"])
def test_a_server_does_not_start_with_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "keys.toml"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("JUMPLORA_ADMIN_KEYS", ADMIN_KEY)
    told = run(
        "serve", "--backbone", "none", "--store", tmp_path, "--keys-file", file, code=2
    ).stderr.splitlines()
    assert all(line.startswith(f"JUMPLORA_KEYS_FILE {file}: ") for line in told)
    assert len(told) == (4 if content else 1)
    assert os.environ["JUMPLORA_ADMIN_KEYS"] not in "".join(told)
