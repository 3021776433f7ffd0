"""The way from clone to first answer, on a small project that answers as the demo does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from jumplora_bench.first_answer import StepFailed, Way, grid, main, walk

SERVER = """
import http.server, os, sys
class Answer(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_POST(self):
        Answer.asked += 1  # the first question comes too early
        self.send_response(200 if Answer.asked > 1 else 503)
        self.send_header("content-length", "0")
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["JUMPLORA_PORT"])), Answer).serve_forever()
"""
MAKEFILE = """
.venv/.serve:
\tmkdir .venv && touch $@
serve: .venv/.serve
\tpython3 server.py
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "Makefile").write_text(MAKEFILE, encoding="utf-8")
    (folder / "server.py").write_text(SERVER, encoding="utf-8")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    who = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "A project"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


def test_every_step_takes_time_and_the_clone_is_below_the_folder(
    project: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "fresh"
    folder.mkdir()
    way = walk(project, folder)
    assert min(way.clone, way.install, way.serve) > 0
    assert way.total == pytest.approx(way.clone + way.install + way.serve)
    assert (folder / "clone" / ".venv" / ".serve").is_file()
    assert not (project / ".venv").exists()


def test_a_server_that_ends_is_an_error(project: Path, tmp_path: Path) -> None:
    (project / "server.py").write_text("raise SystemExit(3)", encoding="utf-8")
    commit(project)
    (tmp_path / "fresh").mkdir()
    with pytest.raises(StepFailed, match="make serve ended with exit status 2"):
        walk(project, tmp_path / "fresh")


def test_an_install_that_fails_says_why(project: Path, tmp_path: Path) -> None:
    (project / "Makefile").write_text(".venv/.serve:\n\techo no network; exit 1\n", "utf-8")
    commit(project)
    (tmp_path / "fresh").mkdir()
    with pytest.raises(StepFailed, match=r"make \.venv/\.serve failed"):
        walk(project, tmp_path / "fresh")


def test_the_table_has_each_round_and_the_medians() -> None:
    ways = [Way(1, 10, 5), Way(2, 30, 4), Way(3, 20, 6)]
    assert grid(ways[:1]).rows == [["round 1", "1.0", "10.0", "5.0", "16.0"]]
    assert grid(ways).rows[-1] == ["median", "2.0", "20.0", "5.0", "29.0"]
    assert len(grid(ways).rows) == 4


def test_the_report_is_written(project: Path, tmp_path: Path) -> None:
    main(["--source", str(project), "--rounds", "2", "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "first-answer.md").read_text("utf-8")
    assert "| round 2 |" in text
    assert "| median |" in text
