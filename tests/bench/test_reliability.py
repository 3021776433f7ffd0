"""Each part of the reliability benchmark, tiny, on a real server; and that its checks can fail."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from jumplora_bench.reliability.chaos import ChaosPlan, measure_chaos
from jumplora_bench.reliability.entries import EntriesPlan, measure_entries
from jumplora_bench.reliability.findings import Findings
from jumplora_bench.reliability.tasks import TasksPlan, measure_tasks
from jumplora_bench.reliability.traffic import Expected
from jumplora_bench.reliability.uploads import UploadsPlan, measure_uploads
from jumplora_bench.reliability.versions import Version
from jumplora_bench.report import Report

ROOT = Path(__file__).parents[2]
BACKBONE = ROOT / "adapters/demo/backbone"
PYTHON = Path(sys.executable)
slow = pytest.mark.slow


def quiet(*_: object) -> None:
    """Progress that nobody looks at."""


def faults(report: Report) -> object:
    return report.data["faults"]


def test_uploads(tmp_path: Path) -> None:
    report = measure_uploads(UploadsPlan(BACKBONE, PYTHON, 36, 1), "test", quiet, quiet)
    assert faults(report) == []
    assert report.data["statuses"].keys() <= {"200", "201", "413", "415", "422"}  # type: ignore[attr-defined]
    report.write(tmp_path)
    assert "| 422 |" in (tmp_path / "reliability-uploads.md").read_text()


@slow
def test_entries() -> None:
    report = measure_entries(EntriesPlan(BACKBONE, PYTHON, 4), "test", quiet, quiet)
    assert faults(report) == []
    assert report.data["checks"]["healed"] == 4 * 2 * 2  # type: ignore[index]


@slow
def test_chaos() -> None:
    report = measure_chaos(ChaosPlan(BACKBONE, PYTHON, 5, 2, 0), "test", quiet, quiet)
    assert faults(report) == []
    assert report.data["swaps"]["server"] == 1  # type: ignore[index]


def test_tasks(tmp_path: Path) -> None:
    plan = TasksPlan(BACKBONE, (PYTHON,), 10, 0.02, 3, 1, 0, tmp_path / "store")
    (starts,) = measure_tasks(plan, "test", quiet).data["starts"].values()  # type: ignore[attr-defined]
    assert len(starts[0]["answers"]) == 3
    assert 0 < starts[0]["listening"] <= starts[0]["all_ready"]


def version(digest: str, text: str) -> Version:
    return Version("task", digest, Path(), (text,))


def test_an_answer_of_a_version_that_was_replaced_is_wrong() -> None:
    expected, old, new = Expected(), version("old", "a"), version("new", "b")
    expected.begin(old)
    expected.begin(new)
    sent = time.monotonic()
    assert expected.fault("task", 0, sent, "old", "a") is None
    assert expected.fault("task", 0, sent, "new", "b") is None
    expected.settle(new)
    assert expected.fault("task", 0, sent, "old", "a") is None, "it was sent before"
    assert "allowed" in str(expected.fault("task", 0, time.monotonic() + 1, "old", "a"))


def test_the_text_of_another_version_is_wrong() -> None:
    expected = Expected()
    expected.begin(version("old", "a"))
    assert "right is 'a'" in str(expected.fault("task", 0, time.monotonic(), "old", "b"))


def test_many_faults_of_one_kind_are_counted_and_a_few_kept() -> None:
    findings = Findings()
    for turn in range(500):
        findings.fault(f"status: 500 for the {turn}th time", "a FIFO")
    findings.fault("status: 502", "another")
    data = findings.data()
    assert data["fault_counts"] == {"a FIFO: status": 500, "another: status": 1}
    assert len(data["faults"]) == 21  # type: ignore[arg-type]


def test_faults_are_listed_by_case() -> None:
    findings = Findings()
    findings.case = "a FIFO"
    assert findings.check("healed", True, "")
    assert not findings.check("healed", False, "not within 5 s")
    assert not findings.check("PUT", False, "500")
    checks, cases = findings.grids()
    assert checks.rows == [("healed", "2", "1"), ("PUT", "1", "1")]
    assert cases.rows == [("a FIFO", "healed, PUT", "2", "not within 5 s")]
