"""The whole server: what it tells of itself, and as a process that is started and stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from factories import tiny_t5, write_random_adapter
from fakes import FakeEngine
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.errors import BackboneError, StoreError
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.store import Store
from jumplora_server import app, logs
from jumplora_server.app import SWITCH_SECONDS
from jumplora_server.cli.main import command_line
from jumplora_server.client import Client
from jumplora_server.engine.tokenizer import MAX_EXTRA_TOKENS
from jumplora_server.parts import StartupError
from jumplora_server.settings import load_settings
from serving import character_tokenizer, connected, make_site, wait_for
from small_server import BACKBONE

PROMPT = PromptSpec(template="Text: {text}\nAnswer:")


def references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for inner in value.values():
                yield from references(inner)
        case list():
            for inner in value:
                yield from references(inner)


def test_always_folding_needs_an_engine_that_folds(tmp_path: Path) -> None:
    settings = load_settings(backbone="toy", store=tmp_path / "store", fold="always")
    engine = FakeEngine(can_fold=False)
    with pytest.raises(StartupError, match=r"JUMPLORA_FOLD is always.*JUMPLORA_FOLD=auto"):
        app.connect(settings, BACKBONE, engine, character_tokenizer())


def test_the_description_is_complete(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with connected(site) as http:
        document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    named = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert named <= set(schemas)
    assert schemas["GenerateRequest"]["examples"]
    assert schemas["GenerateRequest"]["additionalProperties"] is False
    assert set(document["paths"]) == {
        "/",
        "/generate",
        "/generate_stream",
        "/v1/tasks/{task_id}/generate",
        "/v1/tasks/{task_id}/generate_stream",
        "/v1/overview",
        "/v1/adapters",
        "/v1/adapters/{task_id}",
        "/v1/adapters/{task_id}/alias",
        "/v1/adapters/{task_id}/promote",
        "/v1/adapters/{task_id}/stage",
        "/v1/adapters/{task_id}/unstage",
        "/v1/adapters/{task_id}/rollback",
        "/v1/adapters/{task_id}/load",
        "/v1/adapters/{task_id}/pin",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/version",
        "/tokenize",
        "/detokenize",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{model_name}",
        "/v2/models/{model_name}/ready",
        "/v2/models/{model_name}/infer",
        "/v2/models/{model_name}/versions/{model_version}",
        "/v2/models/{model_name}/versions/{model_version}/ready",
        "/v2/models/{model_name}/versions/{model_version}/infer",
        "/livez",
        "/readyz",
        "/health",
        "/ping",
        "/metrics",
        "/info",
    }
    stream = document["paths"]["/generate_stream"]["post"]["responses"]
    assert set(stream["200"]["content"]) == {"text/event-stream"}
    assert set(stream["404"]["content"]) == {"application/json"}


def test_docs_can_be_switched_off(tmp_path: Path) -> None:
    with connected(make_site(tmp_path, docs="off")) as http:
        for path in ("/docs", "/docs/start.js", "/openapi.json"):
            assert http.get(path).status_code == 404


def test_the_switch_interval_is_set_and_restored(tmp_path: Path) -> None:
    before = sys.getswitchinterval()
    with connected(make_site(tmp_path)):
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    assert sys.getswitchinterval() == before


def test_running_sequences_end_at_a_stop(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    body = {"task_id": "alpha", "inputs": "x"}
    with ThreadPoolExecutor(1) as pool, connected(site) as http:
        site.publish("alpha")
        with site.engine.steps_held() as gate:
            waiting = pool.submit(http.post, "/generate", json=body)
            gate.wait_for_someone()
            stopping = threading.Thread(target=site.parts.services.loop.stop)
            stopping.start()
            # Not before the step has ended, and never never.
        answer = waiting.result()
        stopping.join()
        assert site.outcomes("alpha") == {"shed": 1}
    assert answer.status_code == 503
    assert answer.json()["error_type"] == "draining"


# As a process


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_t5(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def store(tmp_path: Path, backbone: Path) -> Path:
    read = read_backbone(backbone)
    for task in ("one", "two"):
        file = write_random_adapter(tmp_path, read, task=task, scale=2.0, prompt=PROMPT)
        places = ["--store", str(tmp_path / "store"), "--backbone", str(backbone)]
        result = CliRunner().invoke(command_line(), ["publish", str(file), *places])
        assert result.output.startswith(f"{task}: created")
    return tmp_path / "store"


class Process:
    """A server as a process of its own; `lines` is what it logged."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running = running
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._running.stderr is not None
        self.lines.extend(self._running.stderr)

    def address(self) -> str:
        def find() -> re.Match[str] | None:
            assert self._running.poll() is None, self.lines
            return re.search(r"running on (http://\S+)", "".join(self.lines))

        wait_for(lambda: find() is not None, seconds=90)
        found = find()
        assert found is not None
        return found[1]

    def send(self, number: signal.Signals) -> None:
        self._running.send_signal(number)

    def exit_code(self, seconds: float = 30) -> int:
        code = self._running.wait(timeout=seconds)
        self._reader.join()
        return code


@contextmanager
def process(backbone: Path, store: Path, **settings: object) -> Iterator[Process]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JUMPLORA_")}
    given = {"metrics_max_age": 0, **settings}
    environment |= {f"JUMPLORA_{k.upper()}": str(v) for k, v in given.items()}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "jumplora_server", "serve", "--port", "0"]
    command += ["--backbone", str(backbone), "--store", str(store)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        try:
            yield Process(running)
        finally:
            running.kill()


def long_request(address: str, tokens: int) -> Callable[[], httpx.Response]:
    parameters = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    body = {"task_id": "one", "text": "good film", "parameters": parameters}
    return lambda: httpx.post(f"{address}/generate", json=body, timeout=60)


def status(address: str, path: str) -> int:
    try:
        return httpx.get(address + path, timeout=10).status_code
    except httpx.TransportError:
        return 0


def test_sigterm_drains_and_exits_with_zero(backbone: Path, store: Path) -> None:
    settings = {"max_target_tokens": 1500, "drain_grace": 1.5, "log_format": "json"}
    # As beside a Kubernetes Service `jumplora`.
    settings |= {"service_host": "10.0.0.1", "port": "tcp://10.0.0.1:80"}
    with process(backbone, store, **settings) as server, ThreadPoolExecutor(2) as pool:
        address = server.address()
        with Client(address) as client:
            wait_for(client.is_ready, seconds=30)
            ones = client.generate_all("one", text=["good film", "bad film"])
            two = client.generate("two", text="good film")
            assert ones[0].details.adapter_version != two.details.adapter_version
        running = pool.submit(long_request(address, 1200))
        wait_for(lambda: 'running_lora_adapters="one"' in httpx.get(f"{address}/metrics").text)
        server.send(signal.SIGTERM)
        wait_for(lambda: status(address, "/readyz") == 503)
        wait_for(lambda: any('"draining: ' in line for line in server.lines))
        assert not [line for line in server.lines if '"stopping: ' in line]
        assert long_request(address, 1)().status_code == 200  # still taken, for a moment
        server.send(signal.SIGTERM)  # a second one changes nothing
        answer = running.result()
        assert answer.status_code == 200
        assert answer.json()["details"]["generated_tokens"] == 1200
        assert server.exit_code() == 0
        assert status(address, "/livez") == 0
    told = [json.loads(line)["message"] for line in server.lines]
    assert [message for message in told if message.startswith(("draining", "stopping"))] == [
        "draining: not ready now, requests are taken for 1.5 s more",
        "stopping: no new requests, those that run have 25 s to end",
    ]
    (ignored,) = [message for message in told if "JUMPLORA_SERVICE_HOST" in message]
    assert "JUMPLORA_PORT, JUMPLORA_SERVICE_HOST; the port is 0" in ignored
    assert not [line for line in server.lines if "Traceback" in line]
    assert not [line for line in server.lines if "good film" in line]


def test_what_does_not_end_in_time_is_cut_off(backbone: Path, store: Path) -> None:
    settings = {"max_target_tokens": 8192, "drain_grace": 0, "shutdown_timeout": 0.3}
    with process(backbone, store, **settings) as server, ThreadPoolExecutor(1) as pool:
        address = server.address()
        wait_for(lambda: status(address, "/readyz") == 200, seconds=30)
        running = pool.submit(long_request(address, 8192))
        wait_for(lambda: 'running_lora_adapters="one"' in httpx.get(f"{address}/metrics").text)
        server.send(signal.SIGTERM)
        assert server.exit_code() == 0
        answer = running.result()
    assert (answer.status_code, answer.json()["error_type"]) == (503, "draining")
    assert not [line for line in server.lines if "Traceback" in line]


def test_a_taken_port_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "assemble", lambda settings: pytest.fail("loaded"))
    # The runner's stderr is closed afterwards, and the log would go on writing to it.
    monkeypatch.setattr(logs, "configure", lambda *settings: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ["--backbone", str(tmp_path), "--store", str(tmp_path / "s"), "--port", str(port)]
        result = CliRunner().invoke(command_line(), ["serve", *flags])
    assert result.exit_code == 3
    assert f"port {port}" in result.stderr
    assert "JUMPLORA_PORT" in result.stderr


def test_a_store_that_is_not_there_is_made_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(tmp_path / "new")
    assert site.parts.services.store.root.is_dir()
    assert "an empty one is made" in caplog.text


def test_a_store_that_cannot_be_swept_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(store: Store, **options: object) -> None:
        raise StoreError("the store cannot be written: read-only file system")

    monkeypatch.setattr(Store, "sweep", refuse)
    with connected(make_site(tmp_path)) as http:
        wait_for(lambda: http.get("/readyz").status_code == 200)
    assert "read-only" in caplog.text


def test_what_is_served_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="jumplora_server")
    site = make_site(tmp_path)
    with connected(site):
        version, other = site.publish("logged"), site.publish("logged")
    assert "backbone toy" in caplog.text
    assert f"task logged now answers with version {other[:12]}" in caplog.text
    assert f"task logged: version {version[:12]} is loaded" in caplog.text
    assert "JUMPLORA_" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"default_task": "tickets"}, ["JUMPLORA_DEFAULT_TASK is tickets", "is published yet"]),
        ({"default_task": "base"}, ["JUMPLORA_DEFAULT_TASK is base", "JUMPLORA_ALLOW_BASE=no"]),
        ({"default_task": "base", "allow_base": "yes"}, []),
        ({"default_task": "there"}, []),
        ({"default_task": "there@00000000"}, ["no version that begins with 00000000"]),
        ({"load_folder": "/nowhere/at/all"}, ["LOAD_FOLDER /nowhere/at/all is not a folder"]),
        ({"load_folder": "/"}, []),
        ({"load_folder": "/", "admin_keys": ""}, ["no effect without JUMPLORA_ADMIN_KEYS"]),
    ],
    ids=str,
)
def test_settings_without_effect_are_told(
    settings: dict[str, Any], said: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(tmp_path, **settings)
    Store(tmp_path / "store").publish(site.adapter("there"), site.backbone)
    with connected(site):
        pass
    told = [line for line in caplog.messages if line.startswith("JUMPLORA_")]
    assert len(told) == bool(said)
    assert all(words in told[0] for words in said)


@pytest.mark.parametrize("extra", [1, MAX_EXTRA_TOKENS, MAX_EXTRA_TOKENS + 1])
def test_a_tokenizer_may_be_a_little_larger_than_the_backbone(
    extra: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_t5(tmp_path / "backbone")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"<new {n}>" for n in range(extra)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = load_settings(backbone=str(folder), store=str(tmp_path / "store"))
    if extra > MAX_EXTRA_TOKENS:
        with pytest.raises(BackboneError, match=r"has 769 tokens, .* at most 256 more"):
            app.assemble(settings)
        return
    app.assemble(settings)
    warnings = [line for line in caplog.messages if "tokens more than" in line]
    assert len(warnings) == 1
    assert f"has {extra} tokens more than the backbone's embedding has rows (512)" in warnings[0]
