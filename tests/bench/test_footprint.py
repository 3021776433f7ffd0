"""Memory as /proc tells it, and the tables of a fresh server's footprint."""

from __future__ import annotations

import mmap
import os
import random
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from jumplora_bench import footprint
from jumplora_bench.footprint import KINDS, Asked, Found, Memory, _answers, _mapped, _memory
from jumplora_bench.tokenizer import make_tokenizer

GB = 10**9


def test_memory_is_what_psutil_says() -> None:
    found = Memory.of(os.getpid())
    known = psutil.Process().memory_info()
    assert found.resident == pytest.approx(known.rss, rel=0.1)
    assert found.files + found.shared == pytest.approx(known.shared, rel=0.1)
    assert found.peak >= found.resident
    assert found.resident == pytest.approx(found.anonymous + found.files + found.shared, rel=0.01)


def test_pages_of_a_mapped_checkpoint_count_once_they_were_read(tmp_path: Path) -> None:
    suffix = ".of-this-test"
    paths = [tmp_path / f"a{suffix}", tmp_path / "other"]
    for path in paths:
        path.write_bytes(bytes(1 << 20))
    with paths[0].open("rb") as one, paths[1].open("rb") as other:
        mapped = [mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) for file in (one, other)]
    assert _mapped(os.getpid(), suffix) < 1 << 20
    for each in mapped:
        assert sum(each[:: mmap.PAGESIZE]) == 0  # touches every page
    assert _mapped(os.getpid(), suffix) == 1 << 20
    for each in mapped:
        each.close()
    assert _mapped(os.getpid(), suffix) == 0


def test_requests_of_a_kind_have_its_prompts_and_other_words_each_time() -> None:
    tokenizer, rng = make_tokenizer(32128), random.Random(0)
    for kind in KINDS:
        body = kind.body(rng)
        texts = body["inputs"] if kind.prompts > 1 else [body["inputs"]]
        assert isinstance(texts, list)
        assert len({*texts}) == len(texts) == kind.prompts
        assert {len(tokenizer.encode(text).ids) for text in texts} == {kind.source}
        parameters = body["parameters"]
        assert isinstance(parameters, dict)
        assert parameters["min_new_tokens"] == parameters["max_new_tokens"] == kind.new
        assert kind.body(rng) != body
    assert len({kind.name for kind in KINDS}) == len(KINDS)


def test_a_kinds_parameters_stand_beside_its_length() -> None:
    body = Asked("x", new=4, parameters=(("top_k", 5),)).body(random.Random(0))
    assert body["parameters"] == {"min_new_tokens": 4, "max_new_tokens": 4, "top_k": 5}


def found(resident: int, *seconds: float) -> Found:
    memory = Memory(resident, 2 * GB, GB // 2, GB // 4, 0, GB // 5)
    return Found(3.25, GB // 8, memory, replace(memory, resident=resident + GB), seconds)


def test_the_first_request_is_held_against_the_median_of_the_next() -> None:
    one = found(GB, 0.9, 0.5, 0.6, 0.7)
    assert one.next_seconds == 0.6
    assert one.ratio == pytest.approx(1.5)


def test_tables() -> None:
    measured = {
        ("int8", "auto", "usual"): found(1_350_000_000, 0.13, 0.1),
        ("int8", "auto", "short"): found(9 * GB, 0.14, 0.1),
        ("float32", "auto", "usual"): found(3_700_000_000, 0.1, 0.1),
        ("int8", "torch", "usual"): found(9 * GB, 0.1, 0.1),
    }
    memory = {row[0]: tuple(row[1:]) for row in _memory(measured, "large").rows}
    assert memory["int8, auto"] == (
        "3.2", "2.000", "1.350", "0.500", "0.250", "0.200", "0.125", "2.350", "1.35 met",
    )  # fmt: skip
    assert memory["float32, auto"][-1] == "3.6 missed"
    assert memory["int8, torch"][-1] == "", "the bar is that of the native kernels"
    assert len(memory) == 3, "one line for each dtype and kernels, of its first server"
    assert {row[-1] for row in _memory(measured, "base").rows} == {""}
    answers = [row[-2:] for row in _answers(measured).rows]
    assert answers == [["1.30", "1.3 met"], ["1.40", "1.3 missed"]] + [["1.00", "1.3 met"]] * 2
    assert _answers(measured).rows[1][1] == "short: 1 x 16 tokens in, 8 out"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param(["--requests", "1"], "--requests must be at least 2", id="no next request"),
        pytest.param(["--kinds", "usual", "odd"], "invalid choice: 'odd'", id="an unknown kind"),
        pytest.param(["--dtypes", "int4"], "invalid choice: 'int4'", id="an unknown dtype"),
    ],
)
def test_options_that_would_measure_nothing(
    given: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        footprint.main(given)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_a_fresh_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    footprint.main([
        "--shape", "tiny", "--dtypes", "float32", "--kinds", "short", "of a task", "streamed",
        "--threads", "1", "--requests", "3", "--out", str(tmp_path),
    ])  # fmt: skip
    told = capsys.readouterr().out
    assert "--kinds 'short' 'of a task' 'streamed' --threads 1 --requests 3" in told
    text = (tmp_path / "footprint.md").read_text()
    assert text.count("| float32, auto | ") == 1 + 3
