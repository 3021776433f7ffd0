"""Two servers in turn: what the options take, the order of turns, and a whole tiny run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jumplora_bench import price
from jumplora_bench.flooding import prepared
from jumplora_bench.server_process import BenchServer
from small_http import Asked, Said, http_server


class Stoppable:
    """A server in this process that notes when the other one stops it."""

    def __init__(self, name: str, url: str, log: list[str]) -> None:
        self.url = url
        self._name = name
        self._log = log

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self._log.append(f"{self._name} stopped")
        yield
        self._log.append(f"{self._name} goes on")


def test_each_is_measured_while_the_other_is_stopped_and_none_is_always_first() -> None:
    log: list[str] = []

    def answer(asked: Asked) -> Said:
        if log[-1].endswith("stopped"):
            log.append("asked")
        return Said.of({})

    with http_server(answer) as url:
        servers: dict[str, BenchServer] = {
            name: Stoppable(name, url, log)  # type: ignore[misc]
            for name in ("old", "new")
        }
        options = argparse.Namespace(source=4, new=2, windows=2, seconds=0.05)
        rates = price._measure(servers, ["a", "b"], options)
    turns = [line.removesuffix(" stopped") for line in log if line.endswith("stopped")]
    # Who is stopped: the new one is measured first in the warm-up and in each second window.
    assert turns == ["old", "new"] * 2 + ["new", "old"] * 2 + ["old", "new"] * 2
    assert log[:3] == ["old stopped", "asked", "old goes on"]
    assert {key: len(values) for key, values in rates.items()} == {
        (name, mix): 2 for name in ("old", "new") for mix in ("16 tasks", "one task alone")
    }
    assert all(rate > 0 for values in rates.values() for rate in values)


def test_a_refused_request_ends_the_measurement() -> None:
    with (
        http_server(lambda asked: Said.of({}, 429)) as url,
        pytest.raises(SystemExit, match=r"not everything was answered: \{429: "),
    ):
        price._rate(url, (prepared("a", "x"),), 0.05)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param([], "--old", id="no other interpreter"),
        pytest.param(
            ["--old", "x", "--windows", "0"], "--windows must be at least 1", id="windows"
        ),
        pytest.param(["--old", "x", "--shape", "huge"], "invalid choice: 'huge'", id="shape"),
    ],
)
def test_options(given: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        price.main(given)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_a_commit_beside_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    price.main([
        "--old", sys.executable, "--shape", "tiny", "--dtype", "float32", "--threads", "1",
        "--source", "8", "--new", "2", "--seconds", "0.5", "--windows", "1", "--out", str(tmp_path),
    ])  # fmt: skip
    assert "Old is commit" in capsys.readouterr().out
    record = json.loads((tmp_path / "price.json").read_text())
    rates = {key: values for key, values in record.items() if key.endswith("requests_per_second")}
    assert len(rates) == 4
    assert all(len(values) == 1 and values[0] > 0 for values in rates.values())
