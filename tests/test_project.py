"""What is written in two places says the same in both."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
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


def bullets(text: str) -> list[str]:
    """The points of a document's lists, each on one line."""
    found = re.findall(r"^\* .*(?:\n +\S.*)*", text, re.MULTILINE)
    return [" ".join(bullet.split()) for bullet in found]


def repeated(given: list[str]) -> list[str]:
    return [each for each, count in Counter(given).items() if count > 1]


def too_long(text: str) -> list[str]:
    """Lines over 100 columns that could be broken: no tables, code, or links without a space."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "    "))]
    return [line for line in lines if len(line) > 100 and " " in line.strip(" *")]


def test_the_changelog_is_tidy() -> None:
    text = text_of("CHANGELOG.md")
    assert len(bullets(text)) > 100
    # Of two branches that were merged one may say it in other words, behind the same first ones.
    assert repeated([bullet[:45] for bullet in bullets(text)]) == []
    assert too_long(text) == []
    assert re.findall(r"^.*\S.*\n#+ .*$", text, re.MULTILINE) == [], "no empty line before these"


def test_each_decision_stands_once() -> None:
    """By its title: two branches that are merged may bring it in other words."""
    decisions = bullets(text_of("server/DECISIONS.md"))
    titles = [title[1] for each in decisions if (title := re.search(r"\*\*(.+?)\*\*", each))]
    assert len(titles) > 100
    assert repeated(titles) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("* one\n  two\n* one two\n", (["* one two"], 0)),
        ("word " * 21, ([], 1)),
        ("| " + "word " * 21 + "\n    " + "word " * 21 + "\n" + "x" * 101, ([], 0)),
        ("```\n" + "word " * 21 + "\n```\n", ([], 0)),
    ],
)
def test_what_is_found(text: str, found: tuple[list[str], int]) -> None:
    assert (repeated(bullets(text)), len(too_long(text))) == found


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
