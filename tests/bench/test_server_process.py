"""Starting, waiting for, stopping and ending a measured server, with a script in its place."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from fake_interpreter import fake_interpreter
from jumplora_bench.server_process import (
    BenchServer,
    ServerEnded,
    _wait_loaded,
    end,
    start,
    wait_ready,
)

Start = Callable[..., BenchServer]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Start]:
    servers: list[BenchServer] = []

    def run(begin: str = "", **settings: object) -> BenchServer:
        python = fake_interpreter(tmp_path, begin)
        folders = (tmp_path / "backbone", tmp_path / "store", tmp_path / "log")
        servers.append(start(*folders, settings, python=python))
        return servers[-1]

    yield run
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def test_the_settings_reach_the_server_and_the_users_own_do_not(
    started: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUMPLORA_MAX_ROWS", "99")
    monkeypatch.setenv("JUMPLORA_LOG_FORMAT", "json")
    server = started(max_rows=3, log_level="info")
    wait_ready(server, tmp_path / "log")
    given = httpx.get(f"{server.url}/settings").json()
    assert given["arguments"] == ["-m", "jumplora_server", "serve"]
    assert (given["max_rows"], given["log_level"]) == ("3", "info")
    assert "log_format" not in given
    assert given["backbone"] == str(tmp_path / "backbone")
    assert given["store"] == str(tmp_path / "store")
    assert server.url.endswith(f":{given['port']}")
    assert server.key == given["admin_keys"]


def test_an_address_and_a_key_are_kept_over_several_starts(started: Start) -> None:
    first = started()
    end(first)
    port = int(first.url.rpartition(":")[2])
    again = started(port=port, admin_keys=first.key)
    assert (again.url, again.key) == (first.url, first.key)


def test_the_first_loads_are_waited_for(started: Start, tmp_path: Path) -> None:
    server = started()
    wait_ready(server, tmp_path / "log")
    _wait_loaded(server, tmp_path / "log")
    (task,) = httpx.get(f"{server.url}/v1/adapters").json()["adapters"]
    assert task["state"] == "READY"


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        pytest.param("print('first'); sys.exit('no such backbone')", "no such backbone", id="why"),
        pytest.param("sys.exit(3)", "nothing", id="without a word"),
    ],
)
def test_a_server_that_ends_is_told_with_its_last_line(
    started: Start, tmp_path: Path, begin: str, said: str
) -> None:
    with pytest.raises(ServerEnded, match=f"it said: {said}$"):
        wait_ready(started(begin), tmp_path / "log")


def test_a_stopped_server_gets_no_time(started: Start, tmp_path: Path) -> None:
    server = started()
    wait_ready(server, tmp_path / "log")
    process = psutil.Process(server.process.pid)
    with server.stopped():
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{server.url}/settings", timeout=0.3)
        assert process.status() == psutil.STATUS_STOPPED
    assert httpx.get(f"{server.url}/settings", timeout=10).status_code == 200


def test_a_stopped_server_ends_all_the_same(started: Start, tmp_path: Path) -> None:
    server = started()
    wait_ready(server, tmp_path / "log")
    server.process.send_signal(signal.SIGSTOP)
    assert end(server) == -signal.SIGTERM


def test_its_memory_and_its_metrics(started: Start, tmp_path: Path) -> None:
    server = started("held = bytes(range(256)) * 200_000")  # 51 MB
    wait_ready(server, tmp_path / "log")
    assert 51_200_000 < server.resident_bytes() < 200_000_000
    assert server.scrape() == "fine"
