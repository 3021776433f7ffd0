"""A store that an older version wrote (tests/golden) is served with the answers of that version."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from decoding import make_sequence, oracle, run
from factories import random_adapter
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.format import read_adapter, write_adapter
from jumplora_adapters.manifest import Kind
from jumplora_adapters.store import Store
from jumplora_server.app import assemble, build, traffic
from jumplora_server.core import Kernels, Sampling
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import runnable_sets
from jumplora_server.engine.tokenizer import Tokenizer
from jumplora_server.settings import Settings
from serving import serving_app, wait_for

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
ANSWERS: Any = json.loads((GOLDEN / "answers.json").read_text(encoding="utf-8"))["answers"]
NEW_TOKENS = 8


@pytest.fixture(scope="module", params=["torch", *runnable_sets()])
def engine(request: pytest.FixtureRequest) -> Engine:
    """The golden backbone, float32."""
    kernels: Kernels = request.param
    return Engine(
        GOLDEN / "backbone", max_rows=8, max_source_tokens=32, max_target_tokens=NEW_TOKENS,
        kernels=kernels,
    )  # fmt: skip


@pytest.mark.parametrize("task", ANSWERS)
def test_the_engine_gives_the_same_tokens(engine: Engine, task: str) -> None:
    backbone, store = read_backbone(GOLDEN / "backbone"), Store(GOLDEN / "store")
    tokenizer = Tokenizer.load(backbone.path, rows=backbone.architecture.vocab_size)
    lineage: list[str] = []
    if task != "None":
        current = store.current(task)
        lineage = [*store.manifest(current).lineage, current]
    adapters = [read_adapter(store.path_of(each), backbone) for each in lineage]
    slots = tuple(engine.install(engine.pack(adapter)) for adapter in adapters)
    found = ANSWERS[task]
    assert [list(tokenizer.encode(answer["prompt"])) for answer in found] == [
        answer["ids"] for answer in found
    ]
    sequences = [
        make_sequence(
            answer["ids"], row=row, slots=slots, sampling=Sampling(max_new_tokens=NEW_TOKENS)
        )
        for row, answer in enumerate(found)
    ]
    assert run(engine, sequences) == [answer["tokens"] for answer in found]
    assert [tokenizer.decoder.decode(answer["tokens"]) for answer in found] == [
        answer["text"] for answer in found
    ]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_lineage_of_both_versions_answers_as_transformers(
    engine: Engine, tmp_path: Path, kind: Kind
) -> None:
    backbone, store = read_backbone(GOLDEN / "backbone"), Store(GOLDEN / "store")
    manifest, deltas = random_adapter(
        backbone, seed=9, kind=kind, scale=0.3, targets=tuple(backbone.sites)
    )
    write_adapter(tmp_path / "new", manifest, deltas)
    adapters = [
        read_adapter(path, backbone)
        for path in (store.path_of(store.current("factors")), tmp_path / "new")
    ]
    slots = tuple(engine.install(engine.pack(adapter)) for adapter in adapters)
    for answer in ANSWERS["factors"]:
        ids = answer["ids"]
        expected = oracle(
            backbone.path, ids, [adapter.deltas for adapter in adapters],
            max_new_tokens=NEW_TOKENS,
        )  # fmt: skip
        sampling = Sampling(max_new_tokens=NEW_TOKENS)
        assert run(engine, [make_sequence(ids, row=0, slots=slots, sampling=sampling)]) == [
            expected
        ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A whole server on a copy of the golden store."""
    folder = tmp_path_factory.mktemp("golden") / "store"
    shutil.copytree(GOLDEN / "store", folder)
    settings = Settings(
        backbone=str(GOLDEN / "backbone"), store=folder, max_source_tokens=32,
        max_target_tokens=NEW_TOKENS, kernels="torch", allow_base="yes",
    )  # fmt: skip
    parts = assemble(settings)
    with (
        serving_app(build(settings, parts), settings, traffic(parts.services)) as listener,
        httpx.Client(base_url=f"http://127.0.0.1:{listener.port}", timeout=20) as client,
    ):
        wait_for(lambda: client.get("/readyz").status_code == 200, 20)
        yield client


@pytest.mark.parametrize("task", ANSWERS)
def test_the_server_gives_the_same_texts(server: httpx.Client, task: str) -> None:
    for answer in ANSWERS[task]:
        body = {
            "inputs": answer["prompt"],
            "task_id": "base" if task == "None" else task,
            "parameters": {"max_new_tokens": NEW_TOKENS, "details": True},
        }
        given = server.post("/generate", json=body)
        assert given.status_code == 200, given.text
        assert given.json()["generated_text"] == answer["text"]
