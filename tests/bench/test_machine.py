"""Where a measurement was made: read from /proc and git, and "unknown" without them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jumplora_bench.machine import commit, load_average, machine, processor_flags, versions


def git(folder: Path, *arguments: str) -> None:
    names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a"}
    subprocess.run(
        ["git", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        env=os.environ | names | {"GIT_COMMITTER_EMAIL": "a@b"},
    )


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@needs_git
def test_a_commit_is_seven_digits_and_says_when_files_differ(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    git(tmp_path, "tag", "--annotate", "--message", "x", "v9")
    clean = commit(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{7}", clean), "a tag is not told"
    (tmp_path / "file").write_text("b")
    assert commit(tmp_path) == f"{clean}-dirty"


@needs_git
def test_outside_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) == "unknown"


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == "unknown"


def test_the_machine_has_its_cores_and_memory() -> None:
    told = machine()
    memory = int(re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())[1])  # type: ignore[index]
    assert f", {os.cpu_count()} cores, " in told
    gigabytes = int(re.search(r"(\d+) GB$", told)[1])  # type: ignore[index]
    assert gigabytes == pytest.approx(memory * 1024 / 1e9, abs=1)


def test_processor_flags_are_the_processors() -> None:
    found = processor_flags()
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    known = set(text.split())
    if found != "none of those looked for":
        assert set(found.split()) <= known
    assert ("avx2" in found.split()) == ("avx2" in known)


def test_versions_name_what_is_compared() -> None:
    told = versions().split(", ")
    assert told[0].startswith("Python 3.")
    assert [name.split()[0] for name in told[1:]] == [
        "torch",
        "transformers",
        "peft",
        "ctranslate2",
    ]


def test_the_load_is_that_of_the_last_minute() -> None:
    assert float(load_average()) == pytest.approx(os.getloadavg()[0], abs=2)
