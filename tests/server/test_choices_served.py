"""Choices over HTTP with the real engine: the right numbers, and the same bits in any company."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from decoding import merged_model
from factories import random_adapter, tiny_t5
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.format import write_adapter
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.store import Store
from jumplora_adapters.tokenizer import token_ids
from jumplora_server import app
from jumplora_server.app import Parts
from jumplora_server.settings import load_settings
from serving import wait_for
from tries import teacher_forced

LABELS = ("World", "Sports news", "Sports", "who is it", "a b")
PROMPT = PromptSpec(template="Text: {text}\nAnswer:", options=LABELS)
TEXTS = ["a b c", "who is it", "x", "a longer text than the others, to be read beside them"]
TASKS = ("one", "two")


class Served:
    """A server's parts, a client of it, and the model that one of its tasks is."""

    def __init__(self, parts: Parts, http: TestClient, models: dict[str, Any]) -> None:
        self.parts = parts
        self.http = http
        self.models = models

    def ask(self, task: str, text: str, **parameters: Any) -> dict[str, Any]:
        body = {"task_id": task, "text": text, "parameters": parameters}
        response = self.http.post("/generate", json=body)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found


@pytest.fixture(scope="module", params=["torch", "auto"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("choices")
    backbone = read_backbone(tiny_t5(folder / "backbone"))
    store = Store(folder / "store")
    store.prepare()
    models = {}
    for seed, task in enumerate(TASKS):
        manifest, deltas = random_adapter(backbone, task=task, seed=seed, density=0.3)
        path = folder / f"{task}.safetensors"
        write_adapter(path, manifest.model_copy(update={"prompt": PROMPT}), deltas)
        store.publish(path, backbone)
        dense = {name: delta.to_dense() for name, delta in deltas.items()}
        models[task] = merged_model(backbone.path, [dense])
    folders = {"backbone": str(backbone.path), "store": str(store.root)}
    parts = app.assemble(load_settings(**folders, kernels=request.param, threads=1))
    with TestClient(app.build(parts.services.settings, parts)) as http:
        wait_for(lambda: parts.services.residency.settled)
        yield Served(parts, http, models)


def test_numbers_are_those_of_training(served: Served) -> None:
    tokenizer = served.parts.services.tokenizer
    targets = token_ids(tokenizer.raw, LABELS, tokenizer.eos_token_id)
    for task in TASKS:
        prompt = tokenizer.encode("Text: a b c\nAnswer:")
        exact = dict(zip(LABELS, teacher_forced(served.models[task], prompt, targets), strict=True))
        details = served.ask(task, "a b c", choices=True)["details"]
        found = {each["text"]: each["logprob"] for each in details["choices"]}
        assert found == pytest.approx(exact, abs=1e-4)
        assert [*found] == sorted(LABELS, key=exact.__getitem__, reverse=True)


def test_the_same_bits_in_any_company(served: Served) -> None:
    """Beside other prompts, other options, generated answers and beams, of two tasks."""
    asked = [(task, text) for task in TASKS for text in TEXTS]
    many = [f"{first} {second}" for first in "abcdefgh" for second in TEXTS]
    alone = {pair: served.ask(*pair, choices=True) for pair in asked}
    walked = served.ask("one", "x", choices=many)

    def in_company(number: int) -> bool:
        task, text = asked[number % len(asked)]
        match number % 4:
            case 0:
                return served.ask("one", "x", choices=many) == walked
            case 1:
                served.ask(task, text, num_beams=2, max_new_tokens=4)
            case 2:
                served.ask(task, text, max_new_tokens=6)
        return served.ask(task, text, choices=True) == alone[task, text]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(in_company, range(48)))
    body = {"task_id": "one", "text": TEXTS, "parameters": {"choices": True}}
    assert served.http.post("/generate", json=body).json() == [alone["one", t] for t in TEXTS]


def test_control_tokens_of_a_client_are_characters(served: Served) -> None:
    """`</s>` in an option would otherwise end it early."""
    plain = served.ask("one", "x", choices=["a</s>b", "c"])["details"]
    assert {each["text"] for each in plain["choices"]} == {"a</s>b", "c"}
    raw = served.parts.services.tokenizer.encode("a</s>b")
    assert served.parts.services.tokenizer.eos_token_id in raw[:-1]
