"""`jumplora keys`: make a key for the keys file, and look a keys file through."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import (
    fail,
    note,
    print_json,
    print_table,
    reported_errors,
    warn,
)
from jumplora_adapters.printable import counted, printable
from jumplora_adapters.regular_file import open_regular
from jumplora_server.access.gate import in_order
from jumplora_server.access.keys import Key, hash_of
from jumplora_server.access.keys_file import MAX_BYTES, KeysFault, entry_text, parse_keys
from jumplora_server.access.source import read_text

PREFIX = "jl_"  # by which people, and programs that look for leaked secrets, know a key
KEY_BYTES = 32
NEW_FILE_MODE = 0o600


def group() -> typer.Typer:
    """The commands about keys."""
    app = typer.Typer(
        help="Make a key for the file of JUMPLORA_KEYS_FILE, and look such a file through.",
        no_args_is_help=True,
    )
    app.command("new")(new)
    app.command("check")(check)
    return app


def new(
    key_id: Annotated[str, typer.Option("--id", help="The key's name in logs and metrics.")],
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            help="What it may do: infer generates, read sees adapters and the overview, metrics "
            "scrapes, admin changes adapters. Repeat it for several.",
            autocompletion=lambda: ["infer", "read", "metrics", "admin"],
        ),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", help="A task id or pattern (* and ?) that it is for. Default: all tasks."
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires",
            help="The last day in UTC (2027-01-31), a time (2027-01-31T12:00:00Z), or in how many "
            "days (90d).",
        ),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option("--requests-per-minute", help="Prompts a minute.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option("--tokens-per-minute", help="Tokens of prompts and answers a minute."),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", help="Sequences that may wait or be computed at a time."),
    ] = None,
    append: Annotated[
        Path | None,
        typer.Option("--append", help="Add it to this keys file, and print the key alone."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make a random key. It is shown once: the file has its SHA-256 alone."""
    secret = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    quotas = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "rows": rows,
    }
    moment = None if expires is None else _moment(expires, datetime.now(UTC))
    entry = entry_text(key_id, [hash_of(secret)], scope, task or (), moment, quotas)
    try:
        (key,) = parse_keys(entry.encode())
    except KeysFault as fault:
        _end([line.partition(": ")[2] for line in fault.lines])
    if key.is_expired(time.time()):
        fail(f"--expires {expires!r} is over: give a later day or time")
    if append is not None:
        with reported_errors():
            append_entry(append, entry)
        note(f"{append} has the key {key_id} now; a server that reads it follows within seconds")
    if as_json:
        print_json({"id": key_id, "key": secret, "entry": entry})
        return
    note("this is the key, for its owner alone; it is shown only now")
    typer.echo(secret)
    if append is None:
        note("and this goes into the file of JUMPLORA_KEYS_FILE:")
        typer.echo("\n" + entry, nl=False)


def check(
    file: Annotated[Path, typer.Argument(help="The keys file.")],
    as_json: options.AsJson = False,
) -> None:
    """List the keys of a file, or all that is wrong with it (then the exit code is 1)."""
    with reported_errors():
        text = read_text(file)
    keys = _parsed(file, text.content)
    now = time.time()
    if text.may_be_written_by_all:
        warn(f"all users of this machine may write {file}, and so make keys: chmod o-w {file}")
    if as_json:
        print_json({"keys": [_described(key, now) for key in keys]})
        return
    print_table(
        [
            ("id", "left"),
            ("scopes", "left"),
            ("tasks", "fold"),
            ("expires", "left"),
            ("requests a minute", "right"),
            ("tokens a minute", "right"),
            ("rows", "right"),
            ("hashes", "right"),
        ],
        [_row(key, now) for key in keys],
    )
    expired = [key.id for key in keys if key.is_expired(now)]
    if expired:
        warn(f"{counted(len(expired), 'key')} expired: {', '.join(expired)}")


def _moment(given: str, now: datetime) -> str:
    """A date or time as TOML has it. Ends the command for anything else."""
    if given.endswith("d") and given[:-1].isdecimal() and len(given) <= 6:
        return (now.date() + timedelta(days=int(given[:-1]))).isoformat()
    try:
        found: dict[str, Any] = tomllib.loads(f"expires = {given}")
    except ValueError:
        found = {}
    if [*found] != ["expires"] or not isinstance(found["expires"], date):
        fail(
            f"--expires {given!r} is not allowed: give a date (2027-01-31, up to the end of it in "
            "UTC), a time with its zone (2027-01-31T12:00:00Z), or a number of days (90d)"
        )
    return given


def append_entry(file: Path, entry: str) -> None:
    """Add an entry to a file that has no faults then, or leave the file as it was.

    In place: the file keeps its owner and its mode, and a container into which it is mounted sees
    the change. Another command that appends waits for this one.
    """
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_FILE_MODE))
    with open(open_regular(file, "change", follow_links=True), "r+b") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        before = opened.read(MAX_BYTES + 1)
        line_end = b"" if before.endswith(b"\n") or not before else b"\n"
        added = line_end + (b"\n" if before else b"") + entry.encode()
        _parsed(file, before + added)
        try:
            opened.write(added)
            opened.flush()
            os.fsync(opened.fileno())
        except OSError:
            os.ftruncate(opened.fileno(), len(before))
            raise


def _parsed(file: Path, content: bytes) -> tuple[Key, ...]:
    """Ends the command with all faults."""
    try:
        return parse_keys(content)
    except KeysFault as fault:
        _end([f"{file}: {line}" for line in fault.lines])


def _end(lines: Sequence[str]) -> NoReturn:
    for line in lines:
        typer.secho(printable(line), fg="red", err=True)
    raise typer.Exit(1)


def _row(key: Key, now: float) -> tuple[str, ...]:
    quota = key.quota
    counts = (quota.requests_per_minute, quota.tokens_per_minute, quota.rows)
    return (
        key.id,
        ", ".join(in_order(key.scopes)),
        "all" if key.tasks is None else ", ".join(key.tasks.patterns),
        _expiry(key, now),
        *("" if count is None else f"{count:,}" for count in counts),
        str(len(key.hashes)) if len(key.hashes) > 1 else "",
    )


def _expiry(key: Key, now: float) -> str:
    if key.expires is None:
        return "never"
    at = key.expires.strftime("%Y-%m-%d %H:%M UTC")
    return f"{at} (expired)" if key.is_expired(now) else at


def _described(key: Key, now: float) -> dict[str, object]:
    quota = key.quota
    return {
        "id": key.id,
        "hashes": len(key.hashes),
        "scopes": in_order(key.scopes),
        "tasks": None if key.tasks is None else list(key.tasks.patterns),
        "expires": None if key.expires is None else key.expires.isoformat(),
        "expired": key.is_expired(now),
        "requests_per_minute": quota.requests_per_minute,
        "tokens_per_minute": quota.tokens_per_minute,
        "rows": quota.rows,
    }
