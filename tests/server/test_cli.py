"""The command line: help without torch, settings, publishing and asking."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from jumplora_adapters.manifest import ChoicesSpec, PromptSpec
from jumplora_server.app import STARTUP_ERRORS
from jumplora_server.cli.main import command_line
from jumplora_server.cli.serve import NOT_FLAGS
from jumplora_server.setting_groups import PANELS
from jumplora_server.settings import MIN_KEY_CHARS, Settings
from jumplora_server.version import VERSION
from ports import deaf_address
from serving import ADMIN_KEY, Site, listening, make_site

COMMANDS = (
    "serve",
    "generate",
    "batch",
    "status",
    "load",
    "pin",
    "evaluate",
    "publish",
    "train",
    "inspect",
    "verify",
    "list",
    "overlap",
)


pytestmark = pytest.mark.usefixtures("plain_shell")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    site = make_site(tmp_path_factory.mktemp("site"))
    with listening(site) as address:
        site.publish("alpha")
        yield site, address


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(command_line(), list(arguments), input=stdin)


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from jumplora_server.cli.main import command_line\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(command_line(), ['serve', '--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'transformers', 'uvicorn', 'fastapi') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_all_commands_are_there() -> None:
    text = run("--help").output
    assert all(command in text for command in COMMANDS)


def test_every_command_and_option_has_its_help() -> None:
    def silent(command: Any, names: str) -> Iterator[str]:
        if not command.help:
            yield names
        for parameter in command.params:
            # typer writes the help of those that it adds.
            if not getattr(parameter, "help", None) and not parameter.hidden:
                yield f"{names} {parameter.name}"
        for name, below in getattr(command, "commands", {}).items():
            yield from silent(below, f"{names} {name}".strip())

    app = typer.main.get_command(command_line())
    commands = {n: c for n, c in app.commands.items() if n != "bench"}  # type: ignore[attr-defined]
    assert [each for name, command in commands.items() for each in silent(command, name)] == []


def test_a_mistyped_command_is_guessed() -> None:
    told = run("lsit")
    assert told.exit_code == 2
    assert "Did you mean 'list'?" in told.output


def test_commands_are_in_groups() -> None:
    text = run("--help").output
    starts = [
        text.index(f"─ {name} ─") for name in ("Serve and ask", "Adapters", "Train", "Measure")
    ]
    assert starts == sorted(starts)


def test_version() -> None:
    assert run("--version").output == f"jumplora {VERSION}\n"


def test_every_setting_is_a_flag_but_keys() -> None:
    text = run("serve", "--help").output
    for name in Settings.model_fields:
        flag = "--" + name.replace("_", "-")
        assert (flag in text) == (name not in NOT_FLAGS), name
    assert "JUMPLORA_ADMIN_KEYS" in text


def test_help_says_how_keys_are_given() -> None:
    text = " ".join(run("serve", "--help").output.split())
    for words in (
        "separated by commas",
        f"at least {MIN_KEY_CHARS} characters",
        "sha256:",
        "JUMPLORA_ADMIN_KEYS: keys that may change adapters over HTTP",
        "JUMPLORA_API_KEYS: keys that may generate and read",
    ):
        assert words in text


def test_help_cuts_no_name_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "…" not in run("serve", "--help").output


def test_help_shows_defaults_and_leaves_names_as_they_are() -> None:
    text = " ".join(run("serve", "--help").output.replace("│", "").split())
    for words in (
        "Port to listen on (0: any free one) (default: 8000)",
        "Hugging Face",
        '"512MiB"',
        "--default-task STR",
        "--load-folder PATH",
    ):
        assert words in text
    assert "default: None" not in text
    assert "CPU threads" in text


def test_settings_are_shown_in_panels_with_their_variables() -> None:
    text = run("serve", "--help").output
    starts = [text.index(f"─ {title} ─") for title in PANELS.values()]
    assert starts == sorted(starts)
    for name in Settings.model_fields:
        assert name in NOT_FLAGS or f"JUMPLORA_{name.upper()}" in text, name


def test_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    result = run("serve", "--store", str(tmp_path), "--port", "99999", "--dtype", "float8")
    assert result.exit_code == 2
    assert "JUMPLORA_BACKBONE is missing" in result.output
    assert "JUMPLORA_PORT: '99999'" in result.output
    assert "JUMPLORA_DTYPE: 'float8'" in result.output


def test_an_unknown_key_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUMPLORA_STOER", "x")
    result = run("serve", "--backbone", "b", "--store", "s")
    assert result.exit_code == 2
    assert "did you mean JUMPLORA_STORE" in result.output


def test_a_backbone_that_is_none_is_told_in_a_line(tmp_path: Path) -> None:
    folders = ("--backbone", str(tmp_path), "--store", str(tmp_path / "store"))
    result = run("serve", *folders, "--port", "0")
    assert result.exit_code == 3
    assert "config.json" in result.output
    assert "Traceback" not in result.output


def test_a_store_that_is_a_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(STARTUP_ERRORS, match="is a file, not a folder"):
        make_site(tmp_path, store=file)


def test_publish_to_a_server(served: tuple[Site, str]) -> None:
    site, address = served
    file = str(site.adapter("beta"))
    result = run("publish", file, "--server", address, "--key", ADMIN_KEY)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("beta: created ")
    again = run("publish", file, "--server", address, "--key", ADMIN_KEY, "--json")
    told = json.loads(again.output)
    assert (told["task_id"], told["outcome"]) == ("beta", "unchanged")
    assert site.parts.services.residency.status("beta").version == told["version"]


def test_publish_of_a_new_task_alone(served: tuple[Site, str], tmp_path: Path) -> None:
    site, address = served
    file = str(site.adapter("fresh"))
    where = ("--server", address, "--key", ADMIN_KEY)
    assert run("publish", file, *where, "--new").output.startswith("fresh: created ")
    again = run("publish", file, *where, "--new")
    assert again.exit_code == 1
    assert "error (task_exists)" in again.output
    assert run("publish", file, *where, "--new", "--if-match", "ab" * 32).exit_code == 2
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    told = run("publish", str(pipe), *where)
    assert (told.exit_code, "it is a pipe" in told.output) == (1, True)


def test_publish_refused(served: tuple[Site, str], tmp_path: Path) -> None:
    site, address = served
    file = str(site.adapter("beta"))
    wrong_key = run("publish", file, "--server", address, "--key", "wrong-key")
    assert (wrong_key.exit_code, "error (unauthorized)" in wrong_key.output) == (1, True)
    other = run("publish", file, "--server", address, "--key", ADMIN_KEY, "--task", "gamma")
    assert (other.exit_code, "error (manifest)" in other.output) == (1, True)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nonsense")
    no_adapter = run("publish", str(bad), "--server", address)
    assert (no_adapter.exit_code, f"{bad} is not a JumpLoRA adapter" in no_adapter.output) == (
        1,
        True,
    )


def test_each_wrong_setting_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUMPLORA_BACKBONE", "JUMPLORA_STORE"):
        monkeypatch.delenv(name, raising=False)
    told = run("serve", "--host", "a\nb\u202e", "--spare-rows", "-1")
    assert told.exit_code == 2
    lines = told.output.strip().split("\n")
    assert [line.partition(" ")[0].rstrip(":") for line in lines] == [
        "JUMPLORA_BACKBONE", "JUMPLORA_SPARE_ROWS", "JUMPLORA_STORE",
    ]  # fmt: skip


def test_publish_needs_a_place(served: tuple[Site, str]) -> None:
    file = str(served[0].adapter("beta"))
    assert "--server URL or --store" in run("publish", file).output
    assert "--store needs --backbone" in run("publish", file, "--store", "x").output
    assert "not both" in run("publish", file, "--store", "x", "--server", "http://x").output
    no_address = run("publish", file, "--server", "localhost:8000")
    assert (no_address.exit_code, "give http://..." in no_address.output) == (1, True)
    with deaf_address() as address:
        nowhere = run("publish", file, "--server", address)
    assert (nowhere.exit_code, "gave no answer" in nowhere.output) == (1, True)


def test_generate(served: tuple[Site, str]) -> None:
    address = served[1]
    result = run("generate", "alpha", "one", "two", "--server", address, "--raw")
    assert result.exit_code == 0, result.output
    assert [line.partition(":")[2] for line in result.output.splitlines()] == ["one", "two"]


def test_a_terminal_is_shown_no_text_that_acts_on_it(served: tuple[Site, str]) -> None:
    command = [sys.executable, "-m", "jumplora_server", "generate", "alpha", "--raw"]
    command += ["a\x1b[31mb", "--server", served[1]]
    ends = os.openpty()
    os.set_blocking(ends[0], False)
    try:
        paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, stdout=ends[1], env=paths, timeout=60, check=False)
        shown = os.read(ends[0], 4096).decode()
    finally:
        for end in ends:
            os.close(end)
    assert (done.returncode, shown.strip().endswith("a\\u001b[31mb")) == (0, True), shown
    piped = run("generate", "alpha", "--raw", "a\x1b[31mb", "--server", served[1])
    assert piped.output.endswith("a\x1b[31mb\n"), "as it is"


def test_a_task_without_a_template_is_asked_with_raw(served: tuple[Site, str]) -> None:
    site, address = served
    site.publish("whole", prompt=None)
    refused = run("generate", "whole", "one", "--server", address)
    assert (refused.exit_code, "with --raw each text is" in refused.output) == (1, True)
    assert run("generate", "whole", "one", "--server", address, "--raw").exit_code == 0


def test_generate_from_stdin_with_details(served: tuple[Site, str]) -> None:
    options = ["--server", served[1], "--json", "--max-new-tokens", "12"]
    for dash in ([], ["-"]):
        result = run("generate", "alpha", *dash, *options, stdin="one\n\ntwo\n")
        answers = json.loads(result.output)
        assert len(answers) == 2
        assert [each["details"]["generated_tokens"] for each in answers] == [12, 12]


def test_generate_with_choices(served: tuple[Site, str]) -> None:
    site, address = served
    site.publish("labels", prompt=PromptSpec(template="{text}", options=("World", "Sports")))
    asked = ["generate", "labels", "x", "--server", address]
    own = run(*asked, "--choices")
    assert own.exit_code == 0, own.output
    lines = [line.split() for line in own.output.splitlines() if line.strip(" ─")]
    assert [words[0] for words in lines] == ["answer", "mass", "option", "World", "Sports"]
    assert (lines[0][1], lines[3][1], lines[3][2]) == ("World", "0.9526", "-18.00")
    given = run(*asked, "--choice", "two words", "--choice", "yes")
    assert "answer  yes" in given.output
    assert "two words" in given.output
    as_json = json.loads(run(*asked, "--choice", "yes", "--choice", "no", "--json").output)
    assert [each["text"] for each in as_json[0]["details"]["choices"]] == ["no", "yes"]
    single = run(*asked, "--choice", "World,Sports")
    assert single.exit_code == 0
    assert 'one option was given, "World,Sports"; for several, give --choice' in single.stderr
    assert not given.stderr
    for floor in ("--min-probability", "--min-mass"):
        assert "none: too unlikely" in run(*asked, "--choices", floor, "1").output
        assert "answer  World" in run(*asked, "--choices", floor, "0").output
        alone = run(*asked, floor, "0.5")
        assert (alone.exit_code, f"{floor} needs --choices" in alone.output) == (2, True)
    both = run(*asked, "--choices", "--choice", "yes")
    assert (both.exit_code, "not both" in both.output) == (2, True)


def test_generate_where_no_option_is_likely(served: tuple[Site, str]) -> None:
    site, address = served
    spec = ChoicesSpec(min_mass=0.9)
    prompt = PromptSpec(template="{text}", options=("World", "Sports"))
    site.publish("unsure", prompt=prompt, choices=spec)
    result = run("generate", "unsure", "x", "--choices", "--server", address)
    assert "answer  none: too unlikely" in result.output
    assert "World" in result.output


def test_generate_for_an_unknown_task(served: tuple[Site, str]) -> None:
    result = run("generate", "alhpa", "one", "--server", served[1])
    assert result.exit_code == 1
    assert "error (unknown_task)" in result.output
    assert "alpha" in result.output
