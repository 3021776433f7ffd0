"""What is written in two places says the same in both."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from jumplora_server.version import VERSION

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_versions_agree() -> None:
    assert PROJECT["project"]["version"] == VERSION
    headings = re.findall(
        r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    released = [heading for heading in headings if heading != "Unreleased"]
    assert not released or released[0] == VERSION


def test_the_lowest_python_is_the_one_that_is_checked_for() -> None:
    lowest = PROJECT["project"]["requires-python"].removeprefix(">=")
    tools = PROJECT["tool"]
    assert tools["mypy"]["python_version"] == lowest
    assert tools["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    listed = re.search(r"python: \[(.*)\]", workflow)
    assert listed is not None
    assert listed[1].split(", ")[0] == f'"{lowest}"'


def test_every_dependency_has_its_reason() -> None:
    """CONTRIBUTING.md names each package that pyproject.toml asks for."""
    reasons = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Dependencies")[2]
    asked = [*PROJECT["project"]["dependencies"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        asked += extra
    names = {re.split(r"[><=; ]", line)[0] for line in asked}
    assert sorted(name for name in names if name not in reasons) == []
