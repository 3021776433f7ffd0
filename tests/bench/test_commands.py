"""`jumplora bench` end to end on a tiny shape, in processes of its own as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jumplora_bench.dialects import WAYS
from jumplora_bench.extra import PeerMissing, peer
from jumplora_server.cli.main import command_line
from jumplora_server.engine.native.library import why_unavailable

SMALL = ("--rows", "2", "--source", "16", "--new", "4", "--threads", "1")


def bench(*arguments: str) -> str:
    """What the command printed; a failed one fails the test."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("JUMPLORA_")}
    done = subprocess.run(
        [sys.executable, "-m", "jumplora_server", "bench", *arguments],
        env=clean | {"JUMPLORA_STORE": "as `make` exports it"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_engine_beside_its_peers(tmp_path: Path) -> None:
    told = bench("engine", "--shape", "tiny", *SMALL, "--rounds", "1", "--out", str(tmp_path))
    assert re.search(r"fp32: 2 tasks over PEFT mixed +\d+\.\d+", told)
    assert f"--rounds 1 --threads 1 --out {tmp_path}" in told
    record = json.loads((tmp_path / "engine.json").read_text("utf-8"))
    assert {"transformers bare", "PEFT mixed", "CTranslate2 merged int8"} < record["seconds"].keys()
    assert record["threads"] == 1
    agreement = {pair["ours"]: pair["tokens"] for pair in record["agreement"]}
    assert agreement["ours bare fp32"] == 1.0
    assert agreement["ours, that one task fp32"] == 1.0
    unions = {each["name"]: each["union"] for each in record["adapters"]}
    assert unions["ours lineage of 4 fp32"] == pytest.approx(0.41, abs=0.02)
    assert unions["ours lineage of 15 int8"] == pytest.approx(0.54, abs=0.02)
    assert (tmp_path / "engine-seconds-by-case.png").is_file()


def test_only_the_cases_that_were_asked_for_run(tmp_path: Path) -> None:
    patterns = ("--case", "ours bare*", "--case", "ours*12.4%*", "--dtype", "float32")
    told = bench("engine", "--shape", "tiny", *SMALL, "--rounds", "1", *patterns)
    assert "tax of 2 tasks, density 12.4%" in told
    assert "PEFT" not in told


@pytest.mark.slow
def test_serving(tmp_path: Path) -> None:
    told = bench(
        "serving", "--shape", "tiny", *SMALL, "--dtype", "float32", "--tasks", "3", "--rounds", "1",
        "--seconds", "1", "--load", "0.5", "--upload-mb", "0.05", "--out", str(tmp_path),
    )  # fmt: skip
    assert "throughput at saturation, answers whole, tokens/s" in told
    record = json.loads((tmp_path / "serving.json").read_text("utf-8"))
    assert (
        min(record["saturation"]["served"]["whole"] + record["saturation"]["served"]["streamed"])
        > 0
    )
    assert [alone["how"] for alone in record["low_load"]] == ["whole", "streamed"]
    assert all(len(alone["served"]) == 8 for alone in record["low_load"])
    assert all(alone["failed"] == 0 for alone in record["low_load"])
    assert record["rates"][0]["failed"] == 0
    assert record["disturbance"]["disturbed"]["failed"] == 0
    assert len(record["disturbance"]["scrape_seconds"]) == 10
    assert (tmp_path / "serving-goodput-by-rate.png").is_file()


@pytest.mark.slow
def test_fairness(tmp_path: Path) -> None:
    told = bench(
        "fairness", "--shape", "tiny", "--rows", "2", "--source", "16", "--seconds", "1",
        "--windows", "1", "--scenario", "long-greedy", "--out", str(tmp_path),
    )  # fmt: skip
    assert "128 greedy tokens at 1/3" in told
    record = json.loads((tmp_path / "fairness.json").read_text("utf-8"))
    assert record["capacity_per_second"] > 0
    assert list(record["windows"]) == ["alone", "in a full batch", "128 greedy tokens at 1/3"]
    for windows in record["windows"].values():
        assert [window["answered"] + window["refused"] for window in windows] == [4]
    assert all(window["flood"]["200"] > 0 for window in record["windows"]["in a full batch"])


@pytest.mark.slow
def test_quotas(tmp_path: Path) -> None:
    told = bench(
        "quotas", "--shape", "tiny", "--rows", "2", "--source", "16", "--seconds", "2",
        "--requests", "120", "--out", str(tmp_path),
    )  # fmt: skip
    assert "10 x 120 requests per minute" in told
    record = json.loads((tmp_path / "quotas.json").read_text("utf-8"))
    alone, *beside = record["windows"].values()
    assert len(beside) == 4
    assert alone["quiet_refused"] == 0
    for window in beside[1::2]:  # ten times: 4 in 2 s, and as many ahead
        assert window["loud"]["429"] > 0
        assert 4 <= window["loud"]["200"] <= 10


@pytest.mark.slow
def test_adapters(tmp_path: Path) -> None:
    told = bench(
        "adapters", "--shape", "tiny", "--registered-shape", "tiny", *SMALL, "--dtype", "float32",
        "--seconds", "0.5", "--rounds", "1", "--loads", "1", "--asked", "2",
        "--registered", "2", "--registered", "6", "--out", str(tmp_path),
    )  # fmt: skip
    assert "disk to ready" in told
    record = json.loads((tmp_path / "adapters.json").read_text("utf-8"))
    stages = record["loading"]["idle"]["stages"]
    assert sum(values[0] for values in stages.values()) == record["loading"]["idle"]["ready"][0] > 0
    assert [run["tasks"] for run in record["registered"]] == [2, 6]
    assert all(run["failed"] == 0 for run in record["registered"])
    assert record["interference"]["failed"] == 0


@pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_profile(dtype: str, tmp_path: Path) -> None:
    small = ("--rows", "2", "--source", "16", "--new", "2", "--rounds", "1", "--dtype", dtype)
    told = bench("profile", "--shape", "tiny", *small, "--out", str(tmp_path))
    assert "Roofs, measured before" in told
    record = json.loads((tmp_path / "profile.json").read_text("utf-8"))
    for phase in ("encode", "decode"):
        seconds, floors = (record[f"native {phase}"][key] for key in ("seconds", "floors"))
        assert all(value > 0 for value in seconds.values())
        assert floors.keys() < seconds.keys()
        assert any(name.startswith("delta") for name in floors)


def test_sampling(tmp_path: Path) -> None:
    told = bench("sampling", "--shape", "tiny", *SMALL, "--rounds", "1", "--out", str(tmp_path))
    assert re.search(r"fp32 torch: half sampled +\d+\.\d+", told)
    record = json.loads((tmp_path / "sampling.json").read_text("utf-8"))
    engines = {f"{dtype} torch" for dtype in ("fp32", "int8")}
    if why_unavailable() is None:
        engines |= {f"{dtype} native" for dtype in ("fp32", "int8")}
    assert {name.partition(": ")[0] for name in record["ratios"]} == engines
    assert all(min(seconds) > 0 for seconds in record["step_seconds"].values())
    assert all(seconds > 0 for seconds in record["reference_seconds"].values())


@pytest.mark.slow
def test_dialects(tmp_path: Path) -> None:
    small = ("--source", "16", "--new", "4", "--rounds", "3", "--threads", "1")
    told = bench("dialects", *small, "--out", str(tmp_path))
    assert re.search(r"OpenAI chat, streamed +\d", told)
    record = json.loads((tmp_path / "dialects.json").read_text("utf-8"))
    assert {len(values) for values in record["seconds"].values()} == {3}
    assert record["added_seconds"].keys() == {way.name for way in WAYS if way.beside}


@pytest.mark.slow
def test_choices(tmp_path: Path) -> None:
    small = ("--shape", "tiny", "--source", "16", "--rounds", "1", "--threads", "1")
    told = bench("choices", *small, "--dtype", "float32", "--out", str(tmp_path))
    assert re.search(r"fp32: 14 labels, 24 nodes, over a greedy answer +\d+\.\d+", told)
    record = json.loads((tmp_path / "choices.json").read_text("utf-8"))
    assert min(min(values) for values in record["seconds"].values()) > 0
    assert len(record["ratios"]) == 4
    assert len(record["list_seconds"]) == 3


def test_shares_of_saturation_need_the_saturation() -> None:
    given = ["bench", "serving", "--shape", "tiny", "--part", "rates"]
    result = CliRunner().invoke(command_line(), given, env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 2
    assert "--rate" in result.output


def test_a_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PeerMissing, match=r"peft is not installed; .*'\.\[bench\]'"):
        peer("peft")


def _commands(without: str = "") -> str:
    """What the command line lists, and that it imports nothing heavy to do so."""
    code = f"""
import sys
{f"sys.modules[{without!r}] = None" if without else ""}
from jumplora_server.cli.main import command_line
names = [*(group.name for group in command_line().registered_groups)]
loaded = [m for m in sys.modules if m.startswith(("jumplora_bench.", "torch")) and sys.modules[m]]
assert set(loaded) <= {{"jumplora_bench.cli", "jumplora_bench.choices"}}, loaded
print(*names)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    return done.stdout


def test_the_command_line_has_the_benchmarks_where_they_are_installed() -> None:
    assert "bench" in _commands().split()
    assert "bench" not in _commands(without="jumplora_bench").split()
