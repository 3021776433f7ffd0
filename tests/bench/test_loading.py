"""Publishing beside traffic, registered tasks and disturbed windows, on a server of a few lines."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from factories import toy_backbone
from jumplora_bench.asking import Asker
from jumplora_bench.disturbance import disturb
from jumplora_bench.loading import STAGES, UPLOADED, Loading, batch_seconds, interfere, put
from jumplora_bench.registered import RegisteredPlan, RegisteredRun, _measure
from jumplora_bench.traffic import Question
from small_http import Asked, Said, http_server

NEW = 2
QUESTIONS = [Question(0.0, f"t{n}", "x") for n in range(4)]
WIDE = toy_backbone({"encoder.block.0.layer.0.SelfAttention.q": (200, 300)})


class Loaded:
    """A server with a key, whose /metrics tells what it did; uploads take `upload_seconds`."""

    def __init__(self) -> None:
        self.url = ""
        self.key = "the-key"
        self.refuses = False
        self.upload_seconds = 0.05
        self.uploads: list[bytes] = []
        self.steps = 0
        self.scrapes = 0
        self.uploading = threading.Event()
        self._lock = threading.Lock()

    def answer(self, asked: Asked) -> Said:
        if asked.path == "/metrics":
            self.scrapes += 1
            return Said(body=self.page().encode())
        if asked.method == "PUT":
            return self._upload(asked)
        with self._lock:
            self.steps += 1
        time.sleep(0.005)  # an answer takes a moment
        if self.refuses:
            return Said.of({"error": "e", "error_type": "queue_full"}, 429)
        return Said(body=b'data:{"token": {}}\n\n' * NEW)

    def page(self) -> str:
        stages = "".join(
            f'jumplora_adapter_last_load_seconds{{task_id="{UPLOADED}",stage="{stage}"}} {n}\n'
            for n, stage in enumerate(STAGES, 1)
        )
        other = 'jumplora_adapter_last_load_seconds{task_id="other",stage="read"} 99\n'
        steps = "".join(
            f'jumplora_step_seconds_sum{{phase="{phase}"}} {self.steps * 0.5}\n'
            f'jumplora_step_seconds_count{{phase="{phase}"}} {self.steps}\n'
            for phase in ("decode", "encode")
        )
        rows = f"jumplora_batch_rows_sum {self.steps * 3}\njumplora_batch_rows_count {self.steps}\n"
        return stages + other + steps + rows

    def _upload(self, asked: Asked) -> Said:
        assert asked.path == f"/v1/adapters/{UPLOADED}"
        assert asked.headers["authorization"] == "Bearer the-key"
        assert asked.headers["x-content-sha256"] == hashlib.sha256(asked.body).hexdigest()
        self.uploading.set()
        time.sleep(self.upload_seconds)
        self.uploads.append(asked.body)
        return Said.of({}, 201)

    def scrape(self) -> str:
        return httpx.get(f"{self.url}/metrics").text

    def resident_bytes(self) -> int:
        return 123


@pytest.fixture
def server() -> Iterator[Loaded]:
    loaded = Loaded()
    with http_server(loaded.answer) as loaded.url:
        yield loaded


def test_a_put_is_timed_whole_and_by_the_servers_stages(server: Loaded, tmp_path: Path) -> None:
    file, into = tmp_path / "a", Loading()
    file.write_bytes(b"content")
    put(server, file, into)  # type: ignore[arg-type]
    assert server.uploads == [b"content"]
    assert into.stages == {stage: [float(n)] for n, stage in enumerate(STAGES, 1)}
    assert into.ready == [float(sum(range(1, len(STAGES) + 1)))]
    assert into.put[0] >= server.upload_seconds


def test_a_refused_put_ends_the_measurement(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with http_server(lambda asked: Said.of({}, 507)) as url:
        refusing = Loaded()
        refusing.url = url
        with pytest.raises(httpx.HTTPStatusError, match="507"):
            put(refusing, tmp_path / "a", Loading())  # type: ignore[arg-type]


def test_a_batch_lasts_until_its_last_answer(server: Loaded) -> None:
    found = batch_seconds(Asker(server.url, NEW), QUESTIONS, 3)
    assert len(found) == 3
    assert all(0.005 <= seconds < 5 for seconds in found)
    assert server.steps == 3 * len(QUESTIONS)


@pytest.mark.parametrize("refuses", [False, True])
def test_answers_beside_a_publish_are_told_apart(
    refuses: bool, server: Loaded, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_bytes(file.name.encode())
    server.refuses = refuses
    states: list[str] = []
    into = Loading()
    found = interfere(
        server,  # type: ignore[arg-type]
        Asker(server.url, NEW),
        QUESTIONS,
        files,
        clients=2,
        seconds=0.2,
        into=into,
        on_state=states.append,
    )
    assert server.uploads == [b"a", b"b"]
    assert len(into.put) == 2
    assert states == ["beside requests 1/2", "beside requests 2/2"]
    assert len(found.batch) == 5
    if refuses:
        assert (found.quiet, found.beside) == ([], [])
        assert found.failed == server.steps - 5 * 2  # the full batches are not counted
    else:
        assert found.failed == 0
        assert len(found.quiet) > 2
        assert found.beside
        assert all(seconds < 5 for seconds in found.beside)


def test_quiet_and_disturbed_windows_take_turns(server: Loaded, tmp_path: Path) -> None:
    states: list[str] = []
    found = disturb(
        server,  # type: ignore[arg-type]
        WIDE,
        Asker(server.url, NEW),
        QUESTIONS,
        clients=2,
        seconds=0.3,
        rounds=2,
        upload_bytes=60_000,
        scratch=tmp_path,
        on_state=states.append,
    )
    assert states == ["disturbed 1/2", "disturbed 2/2"]
    assert len(found.quiet.step) == len(found.disturbed.step) == 2
    assert found.quiet.decode == pytest.approx([0.5, 0.5])
    assert found.quiet.step == pytest.approx([1.0, 1.0]), "an encode for each decode step"
    assert found.disturbed.rows == pytest.approx([3.0, 3.0])
    assert (found.quiet.failed, found.disturbed.failed) == (0, 0)
    assert len(found.scrape_seconds) == 2 * 3, "ten a second"
    assert server.scrapes == 2 * 3 + 2 * 4, "and one before and after each window"
    assert len(found.upload_seconds) == 2
    assert min(found.upload_seconds) >= server.upload_seconds
    assert len({*server.uploads}) == 2, "a new version each time"
    assert found.upload_bytes == len(server.uploads[-1]) == pytest.approx(60_000, rel=0.1)


PLAN = RegisteredPlan(
    counts=(5,), asked=2, filler_targets=1, density=0.1, rows=2, source=4, new=NEW, seconds=0.2,
    rounds=1, settings={},
)  # fmt: skip


def test_a_warm_up_of_registered_tasks_is_not_kept(server: Loaded) -> None:
    run = RegisteredRun(5)
    _measure(PLAN, run, server, QUESTIONS, is_kept=False)  # type: ignore[arg-type]
    assert run == RegisteredRun(5)
    assert server.steps > 0
    _measure(PLAN, run, server, QUESTIONS, is_kept=True)  # type: ignore[arg-type]
    assert len(run.tokens_per_second) == len(run.scrape_seconds) == 1
    assert run.tokens_per_second[0] > 0
    assert run.scrape_bytes == len(server.page())
    assert (run.resident_bytes, run.failed) == (123, 0)


def test_failed_requests_of_registered_tasks_are_counted(server: Loaded) -> None:
    server.refuses = True
    run = RegisteredRun(5)
    _measure(PLAN, run, server, QUESTIONS, is_kept=True)  # type: ignore[arg-type]
    assert run.failed == server.steps > 0
    assert run.tokens_per_second == [0.0]
