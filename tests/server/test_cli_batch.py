"""`jumplora batch` on a server with the fake engine, and offline with the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner, Result

from decoding import oracle
from factories import random_adapter, tiny_t5
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.delta import Delta
from jumplora_adapters.format import write_adapter
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.store import Store
from jumplora_server import app
from jumplora_server.cli.main import command_line
from jumplora_server.settings import load_settings
from ports import deaf_address
from serving import Site, listening, make_site, serving_app, slow_down, wait_for

OPTIONS = ("no", "yes")
PROMPT = PromptSpec(template="Text: {text}\nAnswer:", options=OPTIONS)


pytestmark = pytest.mark.usefixtures("plain_shell")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    site = make_site(tmp_path_factory.mktemp("site"), max_inputs=4)
    with listening(site) as address:
        for task in ("alpha", "beta"):
            site.publish(task, generation={"max_new_tokens": 99})
        yield site, address


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def batch(*arguments: object, code: int = 0, stdin: str | None = None) -> Result:
    words = ["batch", *map(str, arguments)]
    result = CliRunner().invoke(command_line(), words, input=stdin)
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_rows_of_several_tasks_on_a_server(served: tuple[Site, str], tmp_path: Path) -> None:
    site, address = served
    said = {
        task: str(site.parts.services.residency.status(task).version) for task in ("alpha", "beta")
    }
    rows = [{"id": n, "task_id": ("alpha", "beta")[n % 2], "text": f"row {n}"} for n in range(11)]
    file, out = write(tmp_path / "rows.jsonl", *rows), tmp_path / "new" / "out.jsonl"
    shown = batch(file, "--out", out, "--server", address)
    assert shown.stdout == ""
    assert "11/11" in shown.stderr
    assert f"11 rows answered in {out}" in shown.stderr
    for row, found in zip(rows, results(out), strict=True):
        version = said[str(row["task_id"])]
        assert found["id"] == row["id"]
        assert found["version"] == version
        assert found["answer"] == f"{version[:8]}:do {{text}}|{row['text']}>"
    again = batch(file, "--out", out, "--server", address, "--quiet")
    assert f"11 rows answered in {out}, 11 of them by an earlier run" in again.stderr
    assert "━" not in again.stderr


def test_failed_rows_end_in_exit_code_1(served: tuple[Site, str], tmp_path: Path) -> None:
    _, address = served
    file = write(
        tmp_path / "rows.jsonl",
        {"text": "a"},
        {"task_id": "gamma", "text": "b"},
        {"text": ""},
        {"txt": "c"},
        {"text": "d", "parameters": {"max_new_tokens": 0}},
    )
    out = tmp_path / "out.jsonl"
    failed = batch(file, "--out", out, "--task", "alpha", "--server", address, code=1)
    assert "warning: line 2 failed (unknown_task)" in failed.stderr
    assert 'did you mean "text"?' in failed.stderr
    assert "; 4 rows failed; the same command asks them again" in failed.stderr
    codes = [found.get("error", {}).get("code") for found in results(out)]
    assert codes == [None, "unknown_task", "validation", "invalid_row", "validation"]


def test_streams_go_through_it(served: tuple[Site, str]) -> None:
    _, address = served
    lines = '{"text": "a"}\n{"text": "b"}\n'
    done = batch("-", "--out", "-", "--task", "alpha", "--server", address, stdin=lines)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["answer"][-2:] for each in found] == ["a>", "b>"]
    assert "2 rows answered" in done.stderr


def test_ctrl_c_leaves_a_file_that_is_continued(served: tuple[Site, str], tmp_path: Path) -> None:
    site, address = served
    count = 60
    rows = [{"task_id": "alpha", "text": f"row {n}"} for n in range(count)]
    file, out = write(tmp_path / "rows.jsonl", *rows), tmp_path / "out.jsonl"
    part = tmp_path / "out.jsonl.part"
    command = ["batch", str(file), "--out", str(out), "--server", address, "--quiet"]
    with (
        slow_down(site),
        subprocess.Popen(
            [sys.executable, "-m", "jumplora_server", *command],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as running,
    ):
        try:
            wait_for(lambda: part.exists() and part.stat().st_size > 0, 60)
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130
    assert f"the same command continues {out}" in said
    assert "Traceback" not in said
    before = results(out)
    assert 0 < len(before) < count
    batch(*command[1:])
    after = results(out)
    assert after[: len(before)] == before
    assert [each["line"] for each in after] == [*range(1, count + 1)]


def test_a_row_is_answered_while_stdin_is_silent(served: tuple[Site, str]) -> None:
    """And Ctrl-C ends it, though something still waits for stdin."""
    _, address = served
    command = ["batch", "-", "--out", "-", "--task", "alpha", "--server", address, "--quiet"]
    with subprocess.Popen(
        [sys.executable, "-m", "jumplora_server", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as running:
        watch = threading.Timer(60, running.kill)
        watch.start()
        try:
            assert running.stdin is not None
            assert running.stdout is not None
            assert running.stderr is not None
            for line in (1, 2):
                running.stdin.write(b'{"text": "a"}\n')
                running.stdin.flush()
                assert json.loads(running.stdout.readline())["line"] == line
            running.send_signal(signal.SIGINT)
            assert running.wait(timeout=30) == 130
            assert running.stderr.read().strip() == b"warning: stopped after 2 rows"
        finally:
            watch.cancel()
            running.kill()


def test_no_server_and_wrong_flags(served: tuple[Site, str], tmp_path: Path) -> None:
    _, address = served
    file, out = write(tmp_path / "rows.jsonl", {"text": "a"}), tmp_path / "out.jsonl"
    with deaf_address() as nothing:
        told = batch(file, "--out", out, "--task", "a", "--server", nothing, code=1).stderr
    assert "start a server with `jumplora serve`, or give the address of one by --server" in told
    assert results(out) == []
    both = ("--server", address, "--store", tmp_path)
    assert "not both" in batch(file, "--out", out, *both, code=2).stderr
    half = batch(file, "--out", out, "--backbone", tmp_path, code=2).stderr
    assert "needs --store (or JUMPLORA_STORE)" in half
    assert "the rows themselves" in batch(file, "--out", file, code=2).stderr
    missing = batch(tmp_path / "none", "--out", out, "--server", address, code=1).stderr
    assert "none: No such file or directory" in missing
    no_store = batch(file, "--out", out, "--backbone", "b", "--store", tmp_path / "x", code=1)
    assert "no store at" in no_store.stderr


def test_variables_that_name_both_are_said(
    served: tuple[Site, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = served
    monkeypatch.setenv("JUMPLORA_SERVER", address)
    monkeypatch.setenv("JUMPLORA_BACKBONE", "nothing")
    monkeypatch.setenv("JUMPLORA_STORE", str(tmp_path))
    file = write(tmp_path / "rows.jsonl", {"task_id": "alpha", "text": "a"})
    told = batch(file, "--out", tmp_path / "out.jsonl", "--quiet").stderr
    assert f"the server {address} answers" in told
    # A flag wins, here for a backbone that is not there.
    wrong = batch(file, "--out", tmp_path / "o.jsonl", "--store", tmp_path, code=1).stderr
    assert "the engine cannot start: 'nothing' is not a folder here" in wrong


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path, dict[str, dict[str, Delta]]]:
    """A backbone, a store with two tasks, and their deltas."""
    folder = tmp_path_factory.mktemp("offline")
    backbone = read_backbone(tiny_t5(folder / "backbone"))
    store = Store(folder / "store")
    store.prepare()
    deltas: dict[str, dict[str, Delta]] = {}
    for seed, task in enumerate(("one", "two")):
        manifest, made = random_adapter(backbone, task=task, seed=seed, density=0.3)
        path = folder / f"{task}.safetensors"
        write_adapter(path, manifest.model_copy(update={"prompt": PROMPT}), made)
        store.publish(path, backbone)
        deltas[task] = dict(made)
    return backbone.path, store.root, deltas


@contextmanager
def real_server(backbone: Path, store: Path) -> Iterator[str]:
    settings = load_settings(backbone=str(backbone), store=str(store), threads=1)
    parts = app.assemble(settings)
    served = app.build(settings, parts)
    with serving_app(served, settings, app.traffic(parts.services)) as server:
        yield f"http://127.0.0.1:{server.port}"


def test_offline_answers_are_a_servers_and_transformers(
    published: tuple[Path, Path, dict[str, dict[str, Delta]]], tmp_path: Path
) -> None:
    backbone, store, deltas = published
    texts = ["a b c", "who is it", "x", "a longer text than the others"]
    rows: list[dict[str, object]] = [
        {"task_id": task, "text": text, "parameters": {"max_new_tokens": 6}}
        for text in texts
        for task in deltas
    ]
    rows += [
        {"task_id": "one", "text": "a", "choices": True},
        {"task_id": "one", "inputs": "a", "parameters": {"seed": 7, "temperature": 1.0}},
        {"task_id": "three", "text": "a"},
        {"task_id": "one", "text": "a", "parameters": {"num_beams": 99}},
    ]
    file = write(tmp_path / "rows.jsonl", *rows)
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    engine = ("--backbone", backbone, "--store", store, "--threads", 1, "--max-rows", 3)
    batch(file, "--out", here, *engine, code=1)
    with real_server(backbone, store) as address:
        batch(file, "--out", there, "--server", address, code=1)
    found = results(here)
    assert found == results(there)
    tokenizer = Tokenizer.from_file(str(backbone / "tokenizer.json"))
    for row, result in zip(rows[: 2 * len(texts)], found, strict=False):
        prompt = tokenizer.encode(f"Text: {row['text']}\nAnswer:").ids
        tokens = oracle(backbone, prompt, [deltas[str(row["task_id"])]], max_new_tokens=6)
        assert result["answer"] == tokenizer.decode(tokens).strip()
    chosen, sampled, unknown, wide = found[2 * len(texts) :]
    assert chosen["options"][0]["text"] == chosen["answer"]
    assert chosen["probability"] == chosen["options"][0]["probability"]
    assert sampled["seed"] == 7
    assert unknown["error"]["code"] == "unknown_task"
    assert "num_beams" in wide["error"]["message"]


def test_a_setting_of_an_engine_may_be_wrong(
    published: tuple[Path, Path, dict[str, dict[str, Delta]]], tmp_path: Path
) -> None:
    backbone, store, _ = published
    file = write(tmp_path / "rows.jsonl", {"task_id": "one", "text": "a"})
    engine = ("--backbone", backbone, "--store", store, "--dtype", "float8")
    told = batch(file, "--out", tmp_path / "out.jsonl", *engine, code=1).stderr
    assert "JUMPLORA_DTYPE: 'float8' is not allowed" in told
