"""Dockerfile, compose and runbook name only settings and files that exist."""

from __future__ import annotations

import re
import shlex

import pytest
from typer.testing import CliRunner

from integration.prometheus_process import ROOT
from jumplora_server.cli.main import command_line
from jumplora_server.settings import CLIENT_KEYS, PREFIX, Settings, service_keys

PAGES = tuple(f"deploy/{path.name}" for path in sorted((ROOT / "deploy").glob("*.md")))
FILES = ("Dockerfile", "deploy/compose.yaml", "deploy/prometheus/prometheus.yml", *PAGES)


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES)
def test_keys_are_settings(path: str) -> None:
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", text_of(path)))
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_KEYS
    of_kubernetes = set(service_keys(dict.fromkeys(named, "tcp://10.0.0.1:80"))) - known
    assert named - known - of_kubernetes == set()


def test_compose_passes_on_all_that_the_runbook_sets() -> None:
    compose = text_of("deploy/compose.yaml")
    server = dict(re.findall(rf"^ {{6}}({PREFIX}[A-Z_]+):(.*)$", compose, re.M))
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    runbook = "".join(map(text_of, PAGES))
    named = settings & set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", runbook))
    by_the_image = set(re.findall(rf"({PREFIX}[A-Z_]+)=", text_of("Dockerfile")))
    folders = {"JUMPLORA_LOAD_FOLDER"}  # of the machine: the container would need a mount as well
    assert named - by_the_image - folders - server.keys() == set()
    assert {"JUMPLORA_API_KEYS", "JUMPLORA_ADMIN_KEYS", "JUMPLORA_OPEN_METRICS"} <= server.keys()
    assert set(server.values()) == {""}  # from the shell, and not there where it has none


def test_what_the_image_copies_is_not_ignored() -> None:
    ignore = text_of(".dockerignore").splitlines()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(?:--chown=\S+ )?(.+) \S+$", text_of("Dockerfile"), re.M)
    sources = {source for line in copies for source in line.split()}
    assert sources <= allowed
    assert [source for source in sorted(sources) if not (ROOT / source).exists()] == []


def test_the_image_drops_root_and_gets_signals() -> None:
    final = text_of("Dockerfile").rsplit("\nFROM ", maxsplit=1)[1]
    assert re.search(r"^USER 10001:10001$", final, re.M)
    assert re.search(r'^ENTRYPOINT \["jumplora", "serve"\]$', final, re.M)
    assert "HEALTHCHECK" in final


def test_compose_mounts_files_that_exist() -> None:
    mounts = re.findall(r"- (\./[^:]+):", text_of("deploy/compose.yaml"))
    assert mounts
    assert [mount for mount in mounts if not (ROOT / "deploy" / mount).exists()] == []


def test_the_runbook_lists_every_file_of_the_folder() -> None:
    runbook = text_of("deploy/README.md")
    for path in sorted((ROOT / "deploy" / "prometheus").iterdir()):
        assert f"`prometheus/{path.name}`" in runbook, path.name


def test_the_runbook_begins_with_a_list_of_its_pages() -> None:
    listed = re.findall(r"^\| \[(\w+\.md)\]", text_of("deploy/README.md"), re.M)
    others = [page for page in PAGES if page != "deploy/README.md"]
    assert sorted(f"deploy/{name}" for name in listed) == others
    for page in others:
        assert "(README.md)" in "".join(text_of(page).splitlines()[:4]), page


def commands() -> list[str]:
    """The runbook's lines that are typed, `jumplora ...`, without their comments."""
    text = "".join(map(text_of, PAGES))
    return re.findall(r"^    (jumplora (?!serve).+)$", text, re.M)


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_runbook_have_the_flags_that_it_gives_them(line: str) -> None:
    """They are not run: the server, the key and the folder are the reader's."""
    words = shlex.split(line, comments=True)[1:]
    command = words[:2] if words[0] == "keys" else words[:1]
    told = CliRunner().invoke(command_line(), [*command, "--help"], env={"COLUMNS": "200"})
    assert told.exit_code == 0, line
    flags = {word for word in words if word.startswith("--")}
    assert flags <= set(re.findall(r"--[a-z-]+", told.stdout))
