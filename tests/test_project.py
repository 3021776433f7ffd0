"""What is written in two places says the same in both."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jumplora_server.cli.main import command_line
from jumplora_server.version import VERSION

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_the_versions_agree() -> None:
    """`/info` has VERSION too: tests/server/api/test_health.py."""
    assert PROJECT["project"]["version"] == VERSION
    headings = re.findall(r"^## \[([^\]]+)\]", text_of("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == VERSION
    printed = CliRunner().invoke(command_line(), ["--version"])
    assert printed.stdout.split() == ["jumplora", VERSION]


@pytest.mark.parametrize("path", ["Dockerfile", "deploy/compose.yaml", "deploy/README.md"])
def test_images_are_named_by_the_version(path: str) -> None:
    tags = re.findall(r"\bjumplora:(\d[\w.]*)", text_of(path))
    assert set(tags) == {VERSION}


def test_every_release_has_its_date_newest_first() -> None:
    releases = re.findall(
        r"^## \[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d{2}-\d{2})$", text_of("CHANGELOG.md"), re.MULTILINE
    )
    assert len(releases) == text_of("CHANGELOG.md").count("\n## [") - 1
    numbers = [tuple(map(int, release[:3])) for release in releases]
    assert numbers == sorted(set(numbers), reverse=True)
    dates = [release[3] for release in releases]
    assert dates == sorted(dates, reverse=True)


def test_the_lowest_python_is_the_one_that_is_checked_for() -> None:
    lowest = PROJECT["project"]["requires-python"].removeprefix(">=")
    tools = PROJECT["tool"]
    assert tools["mypy"]["python_version"] == lowest
    assert tools["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"
    workflow = text_of(".github/workflows/ci.yml")
    listed = re.search(r"python: \[(.*)\]", workflow)
    assert listed is not None
    assert listed[1].split(", ")[0] == f'"{lowest}"'


def test_every_dependency_has_its_reason() -> None:
    """CONTRIBUTING.md names each package that pyproject.toml asks for."""
    reasons = text_of("CONTRIBUTING.md").partition("## Dependencies")[2]
    asked = [*PROJECT["project"]["dependencies"]]
    extras, groups = PROJECT["project"]["optional-dependencies"], PROJECT["dependency-groups"]
    for packages in (*extras.values(), *groups.values()):
        asked += packages
    names = {re.split(r"[><=; ]", line)[0] for line in asked}
    assert sorted(name for name in names if name not in reasons) == []


def anchors(text: str) -> set[str]:
    """What GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "adapters/*.md", "adapters/demo/*.md", "benchmarks/**/*.md",
                    "deploy/*.md", "guides/*.md", "server/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)  # fmt: skip
# Links in Markdown, and pictures in HTML.
LINK = re.compile(r'\]\((?!https?:)([^)\s]+)\)|\b(?:src|srcset)="(?!https?:)([^"]+)"')


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    broken = []
    for link in (one or other for one, other in LINK.findall(text)):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (
            anchor and anchor not in anchors(target.read_text(encoding="utf-8"))
        ):
            broken.append(link)
    assert broken == []
