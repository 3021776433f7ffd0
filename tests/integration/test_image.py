"""The image and what it is made of: everything by digest or hash, and nothing that may do more than
it needs. Checked without a container engine."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from integration.prometheus_process import ROOT
from jumplora_server.http.limits import allowed_connections
from jumplora_server.settings import Settings

DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "deploy" / "compose.yaml"
IMAGE = ROOT / "deploy" / "image"
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
EXTRAS = frozenset({"traces"})
ENTRY = re.compile(r"^(\S+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n?)+)", re.M)


def services() -> dict[str, dict[str, Any]]:
    """What compose starts, by name."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    return found


def locked(name: str) -> dict[str, str]:
    """Package -> version of a lock, all of whose lines must be understood."""
    text = (IMAGE / name).read_text("utf-8")
    body = "".join(line for line in text.splitlines(keepends=True) if line[0] != "#")
    assert ENTRY.sub("", body).strip() == ""
    return {canonicalize_name(package): version for package, version, _ in ENTRY.findall(body)}


def constrained() -> dict[str, str]:
    """Package -> version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(package): version for package, version in pairs}


def asked(extras: frozenset[str]) -> list[Requirement]:
    """What pyproject.toml says. An installed jumplora-server may be of an older one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = project["dependencies"]
    for extra in extras:
        lines = lines + project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def needed(requirements: Iterable[Requirement]) -> set[str]:
    """The distributions that these requirements name, and all that those need as installed here."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(requirement, frozenset[str]()) for requirement in requirements]
    while waiting:
        requirement, of_extras = waiting.pop()
        environments = [{"extra": extra} for extra in of_extras or {""}]
        if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
            continue
        package, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (package, extras) not in seen:
            seen.add((package, extras))
            lines = metadata.requires(package) or ()
            waiting += [(Requirement(line), extras) for line in lines]
    return {package for package, _ in seen}


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_dockerfile_is_clean() -> None:
    done = run(Path(sys.executable).parent / "hadolint", DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_is_as_its_schema_says() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    done = run(sys.executable, "-m", "check_jsonschema", *schema, COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_image_is_named_by_its_digest() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text("utf-8"), re.M)
    images = [service["image"] for service in services().values() if "build" not in service]
    assert len(bases) == 2
    assert len(set(bases)) == 1, "both stages have one base"
    assert [image for image in [*bases, *images] if not DIGEST.search(image)] == []


@pytest.mark.parametrize("name", services())
def test_a_service_may_do_no_more_than_it_needs(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit"} <= service.keys()
    assert {"nofile", "core"} <= service["ulimits"].keys()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_a_server_has_the_files_for_all_its_connections() -> None:
    """Also with an address of its own for changes and one for metrics."""
    wanted = Settings.model_fields["max_connections"].default
    files = services()["server"]["ulimits"]["nofile"]
    assert allowed_connections(wanted, files["soft"], sides=2) == wanted
    assert files["soft"] == files["hard"]


def test_traces_get_what_the_runbook_sets() -> None:
    passed = {name for name in services()["server"]["environment"] if name.startswith("OTEL_")}
    runbook = (ROOT / "deploy" / "LOGS.md").read_text("utf-8")
    table = runbook.split("`compose.yaml` passes on the first six of these:")[1].split("\n\n")[1]
    first_six = re.findall(r"`(OTEL_\w+)`", table)[:6]
    assert passed == set(first_six)
    assert "JUMPLORA_TRACES" in services()["server"]["environment"]


def test_the_lock_has_what_the_server_needs_in_the_tested_versions() -> None:
    lock, versions = locked("requirements.lock"), constrained()
    packages = needed(asked(EXTRAS))
    if not metadata.version("torch").endswith("+cpu"):  # another build needs other packages
        packages = {package for package in packages if not package.startswith(("nvidia", "triton"))}
    # torch asks for it where Python is newer than 3.11.
    assert packages - {"setuptools"} == lock.keys() - {"setuptools"}
    differing = {p: v for p, v in lock.items() if v.removesuffix("+cpu") != versions[p]}
    assert differing == {}
    assert lock["torch"].endswith("+cpu")


def test_the_lock_of_the_tools_has_what_was_asked_for() -> None:
    tools = (IMAGE / "tools.in").read_text("utf-8").split()
    lock = locked("tools.lock")
    assert [line for line in tools if lock[line.split("==")[0]] != line.split("==")[1]] == []
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'requires = ["hatchling=={lock["hatchling"]}"]' in project


def test_pip_takes_only_what_is_locked() -> None:
    text = DOCKERFILE.read_text("utf-8").replace("\\\n", " ")
    installs = re.findall(r"pip (?:--python \S+ )?install ([^&\n]*)", text)
    assert len(installs) == 3
    for options in installs:
        assert "--no-deps" in options
        assert "--require-hashes" in options or "--no-index" in options
