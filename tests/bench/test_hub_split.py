"""The out-of-process worker: its protocol with a small real process, and errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from jumplora_bench.cases.case import Lap, Work
from jumplora_bench.cases.hub_split import HubCase
from jumplora_bench.extra import PeerMissing

# Stands where an interpreter is given, and speaks as hub_worker.py does.
SPEAKER = f"""#!{sys.executable}
import json, sys
job = json.loads(sys.stdin.readline())
print(json.dumps({{"versions": {{"adapters": "1"}}}}), flush=True)
for line in sys.stdin:
    assert line == "run\\n"
    print(json.dumps({{"seconds": 0.5, "tokens": job["prompts"]}}), flush=True)
"""


def work(tmp_path: Path) -> Work:
    return Work(tmp_path, ((5, 1), (6, 1)), new=2, threads=1, device="cpu")


def test_one_answer_a_round(tmp_path: Path) -> None:
    speaker = tmp_path / "python"
    speaker.write_text(SPEAKER)
    speaker.chmod(0o755)
    with HubCase(speaker, work(tmp_path), tmp_path / "log") as case:
        assert case.versions == {"adapters": "1"}
        assert [case.run(), case.run()] == [Lap(0.5, ((5, 1), (6, 1)))] * 2


def test_an_interpreter_without_the_packages_is_told_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(PeerMissing, match="No module named"):
        HubCase(Path(sys.executable), work(tmp_path), tmp_path / "log")
