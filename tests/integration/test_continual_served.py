"""A continual run of four tasks, published into a running server: what answers, and what it shows.

What the server must say is computed by transformers on weights that are merged here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from continual_data import ORDER, short_run, write_benchmark
from decoding import oracle_of_weights
from integration.prometheus_process import eventually
from integration.server_process import ADMIN_KEY, RunningServer, running_server
from integration.test_official_checkpoint import jumplora, served_tokens
from jumplora_adapters.canaries import read_canaries
from jumplora_adapters.continual.run import run
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.delta import SparseDelta
from jumplora_adapters.format import read_adapter, write_adapter
from jumplora_adapters.prompt import render
from jumplora_server.client import Client, RequestFailed

TEXTS = ("this was good of the", "the red film", "a river of the world")
Updates = list[dict[str, torch.Tensor]]


pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Published:
    """A run and the server that it was published into."""

    server: RunningServer
    folder: Path
    updates: Updates

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def file(self, position: int) -> Path:
        return self.folder / f"adapters/{position}-{ORDER[position - 1]}.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("continual")
    with running_server(folder, [], canary_floor=0.6) as server:
        config = short_run(server.backbone.path, write_benchmark(folder / "data"), folder / "run")
        run(config, Watch())
        results = jumplora(
            "continual", "publish", str(config.out), "--server", server.url, "--key", ADMIN_KEY
        )
        assert [result["task_id"] for result in results] == [*ORDER, "merged"]
        updates = []
        for position, task in enumerate(ORDER, start=1):
            adapter = read_adapter(config.adapter_path(position, task), server.backbone)
            updates.append({name: delta.to_dense() for name, delta in adapter.deltas.items()})
        yield Published(server, config.out, updates)


def _oracle(published: Published, prompt: str, updates: Updates) -> list[int]:
    """Tokens of the merged weights, at most as many as are asked for."""
    return oracle_of_weights(published.server.backbone.path, prompt, updates)


def test_each_task_answers_as_its_prefix_of_the_run(published: Published) -> None:
    for position, task in enumerate(ORDER, start=1):
        prefixes = [_oracle(published, text, published.updates[:position]) for text in TEXTS]
        assert [served_tokens(published.server, task, text) for text in TEXTS] == prefixes, task
        alone = [_oracle(published, t, [published.updates[position - 1]]) for t in TEXTS]
        assert position == 1 or prefixes != alone, "the lineage makes no difference"


def test_a_text_goes_through_the_tasks_own_prompt(published: Published) -> None:
    manifest = read_adapter(published.file(2), published.server.backbone).manifest
    assert manifest.prompt is not None
    with Client(published.server.url) as client:
        by_text = client.generate("medium", text="the red film")
        by_prompt = client.generate("medium", inputs=render(manifest.prompt, "the red film"))
    assert by_text.generated_text == by_prompt.generated_text


def test_the_merged_model_is_a_fifth_task_of_whole_prompts(published: Published) -> None:
    merged = [_oracle(published, text, published.updates) for text in TEXTS]
    assert [served_tokens(published.server, "merged", text) for text in TEXTS] == merged
    with Client(published.server.url) as client, pytest.raises(RequestFailed, match="inputs"):
        client.generate("merged", text="it has no template")


Metric = dict[tuple[str, ...], float]


def _metric(published: Published, name: str, *labels: str) -> Metric:
    page = httpx.get(f"{published.server.url}/metrics", timeout=10).text
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def test_ancestors_are_held_once(published: Published) -> None:
    """Memory is the sum of the own updates and of trunks, which are counted apart."""
    memory = _metric(published, "jumplora_adapter_memory_bytes", "task_id", "tier")
    own = {task: memory[task, "host"] for task in ORDER}
    (used,) = _metric(published, "jumplora_adapter_budget_used_bytes").values()
    assert all(size > 0 for size in own.values())
    (trunks,) = _metric(published, "jumplora_trunk_memory_bytes").values()
    assert trunks > 0
    assert used == sum(own.values()) + memory["merged", "host"] + trunks
    assert memory["merged", "host"] < 0.1 * min(own.values())


def test_metrics_show_the_run(published: Published) -> None:
    after = published.json("matrix.json")["after"]
    learned = [after[n][task]["exact_match"] for n, task in enumerate(ORDER)]
    accuracy = _metric(published, "jumplora_adapter_accuracy", "task_id")
    assert [accuracy[task,] for task in ORDER] == pytest.approx(learned)
    last = [after[3][task]["exact_match"] for task in ORDER]
    assert accuracy["merged",] == pytest.approx(sum(last) / 4)
    transfer = _metric(published, "jumplora_adapter_backward_transfer", "task_id")
    drops = [last[n] - learned[n] for n in range(3)]
    assert transfer["colour",] == transfer["merged",] == pytest.approx(sum(drops) / 3, abs=1e-5)
    assert ("mood",) not in transfer  # nothing came before it
    pairs = {
        frozenset((pair["first"], pair["second"])): pair
        for pair in published.json("overlap.json")["pairs"]
    }
    assert len(pairs) == 6

    def all_pairs() -> None:  # they are compared one by one, after the loads
        for name in ("jaccard", "chance"):
            shown = _metric(
                published, f"jumplora_adapter_overlap_{name}", "task_id", "other_task_id"
            )
            assert {frozenset(key): value for key, value in shown.items()} == {
                key: pytest.approx(pair[name]) for key, pair in pairs.items()
            }

    eventually(all_pairs, 30)


def test_a_version_that_fails_its_canaries_is_refused_and_the_old_one_serves(
    published: Published, tmp_path: Path
) -> None:
    server = published.server
    sound = read_adapter(published.file(4), server.backbone)
    with Client(server.url) as client:
        before = [client.generate("colour", text=text) for text in TEXTS]
    rows = tmp_path / "canaries.jsonl"
    rows.write_text(
        "\n".join(
            json.dumps({"input": render(sound.manifest.prompt, text), "target": answer})  # type: ignore[arg-type]
            for text, answer in zip(TEXTS, (a.generated_text or "-" for a in before), strict=True)
        ),
        encoding="utf-8",
    )
    manifest = sound.manifest.model_copy(update={"canaries": read_canaries(rows, None)})
    broken = {
        name: SparseDelta(delta.shape, delta.mask, -4 * delta.values)
        for name, delta in sound.deltas.items()
        if isinstance(delta, SparseDelta)
    }
    path = tmp_path / "broken.safetensors"
    write_adapter(path, manifest, broken)
    with (
        Client(server.url, key=ADMIN_KEY) as client,
        pytest.raises(RequestFailed, match="canaries") as refused,
    ):
        client.publish("colour", path)
    assert (refused.value.status, refused.value.reason) == (422, "canary")
    with Client(server.url) as client:
        again = [client.generate("colour", text=text) for text in TEXTS]
    assert [a.generated_text for a in again] == [b.generated_text for b in before]
    assert {a.details.adapter_version for a in again} == {sound.digest}
    failures = _metric(published, "jumplora_adapter_load_failures_total", "task_id", "code")
    assert failures["colour", "canary"] >= 1
