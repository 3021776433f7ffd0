"""A chain served by the real engine, folded and not: one store, the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from factories import tiny_t5, write_random_adapter
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.store import Store
from jumplora_server import app
from jumplora_server.setting_groups import Fold
from jumplora_server.settings import load_settings
from serving import wait_for

DEPTH = 5
PROMPTS = ["a b c", "who is it", "x"]


def publish_chain(folder: Path, store: Store) -> None:
    """task1 to task5, each trained on all before it."""
    backbone = read_backbone(folder)
    lineage: list[str] = []
    for depth in range(1, DEPTH + 1):
        file = write_random_adapter(
            folder.parent, backbone, task=f"task{depth}", seed=depth, lineage=lineage, density=0.3
        )
        lineage.append(store.publish(file, backbone).digest)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone and a store that holds the chain."""
    folder = tmp_path_factory.mktemp("chain")
    store = Store(folder / "store")
    store.prepare()
    publish_chain(tiny_t5(folder / "backbone"), store)
    return folder


def answers(site: Path, kernels: str, fold: Fold, order: Sequence[int]) -> dict[str, object]:
    """What each task of the chain answers, and how deep it is folded, loaded in that order."""
    folders = {"backbone": str(site / "backbone"), "store": str(site / "store")}
    settings = load_settings(**folders, kernels=kernels, fold=fold, threads=1)
    parts = app.assemble(settings)
    found: dict[str, object] = {}
    with TestClient(app.build(settings, parts)) as http:
        wait_for(lambda: parts.services.residency.settled)
        for depth in order:
            task = f"task{depth}"
            for text in PROMPTS:
                body = {"inputs": text, "parameters": {"max_new_tokens": 8, "details": True}}
                response = http.post(f"/v1/tasks/{task}/generate", json=body)
                assert response.status_code == 200, response.text
                tokens = response.json()["details"]["tokens"]
                found[f"{task} {text}"] = [(t["id"], t["logprob"]) for t in tokens]
            found[task] = http.get(f"/v1/adapters/{task}").json()["folded_depth"]
    return found


@pytest.mark.parametrize("kernels", ["torch", "auto"])
def test_a_folded_chain_answers_as_an_unfolded_one(site: Path, kernels: str) -> None:
    order = range(1, DEPTH + 1)
    unfolded = answers(site, kernels, "never", order)
    folded = answers(site, kernels, "always", order)
    assert [unfolded[f"task{depth}"] for depth in order] == [0] * DEPTH
    assert [folded[f"task{depth}"] for depth in order] == [*range(DEPTH)]
    for depth in order:
        for text in PROMPTS:
            some, others = unfolded[f"task{depth} {text}"], folded[f"task{depth} {text}"]
            assert isinstance(some, list)
            assert isinstance(others, list)
            assert [token for token, _ in some] == [token for token, _ in others]
            assert [p for _, p in some] == pytest.approx([p for _, p in others], abs=1e-4)


def test_the_order_of_loads_does_not_change_a_bit(site: Path) -> None:
    first = answers(site, "torch", "auto", [5, 4, 3, 2, 1])
    assert first == answers(site, "torch", "auto", [2, 5, 1, 3, 4])
    assert first["task5"] in (3, 4), "auto folds it: a trunk is smaller than the backbone"
