"""A checkpoint in the official layout: converted, published over HTTP, answered as merged.

The factors and log-thresholds are made here as the method describes; what the served model must
say is computed by transformers on weights that are merged by the closed form, not by our code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from decoding import oracle_of_weights
from integration.prometheus_process import ROOT
from integration.server_process import ADMIN_KEY, RunningServer, running_server
from jumplora_server.client import Client

ALPHA, RANK = 32.0, 4
PROMPTS = ("the film is good", "a dog ran and the cat sat on the mat", "great")


def write_checkpoint(path: Path, targets: dict[str, tuple[int, int]], seed: int) -> None:
    """The pickled dict {module: {A, B, log_threshold}} of the official code."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for module, (d_out, d_in) in targets.items():
        a = torch.randn(RANK, d_in, generator=generator) * 0.2
        b = torch.randn(d_out, RANK, generator=generator) * 0.2
        tau = (b @ a).abs().flatten().quantile(0.9)  # one entry in ten is kept
        state[module] = {"A": a, "B": b, "log_threshold": tau.log()}
    torch.save(state, path)


def gated_updates(path: Path) -> dict[str, torch.Tensor]:
    """s * Z * 1[|Z| > tau] of every module, Z = B A, s = alpha / r."""
    updates = {}
    for module, entry in torch.load(path, weights_only=True).items():
        z = entry["B"] @ entry["A"]
        updates[module] = ALPHA / RANK * z * (z.abs() > entry["log_threshold"].exp())
    return updates


def jumplora(*arguments: str) -> Any:
    """Run the command line as a user would; return its JSON."""
    path = os.pathsep.join(str(ROOT / part) for part in ("server", "adapters"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JUMPLORA_")}
    done = subprocess.run(
        [sys.executable, "-m", "jumplora_server", *arguments, "--json"],
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def served_tokens(server: RunningServer, task: str, prompt: str) -> list[int]:
    with Client(server.url) as client:
        answer = client.generate(
            task, inputs=prompt, parameters={"max_new_tokens": 12, "details": True}
        )
    assert answer.details.tokens is not None
    return [token.id for token in answer.details.tokens]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running_server(tmp_path_factory.mktemp("official"), ["other"]) as running:
        yield running


def test_one_checkpoint_answers_as_the_merged_model(server: RunningServer, tmp_path: Path) -> None:
    checkpoint = tmp_path / "jumplora_weights.pt"
    write_checkpoint(checkpoint, dict(server.backbone.targets), seed=1)
    file = tmp_path / "official.safetensors"
    jumplora(
        "convert", "official", str(checkpoint), "--backbone", str(server.backbone.path),
        "--task", "official", "--alpha", str(ALPHA), "--out", str(file),
    )  # fmt: skip
    jumplora("publish", str(file), "--server", server.url, "--key", ADMIN_KEY)
    updates = gated_updates(checkpoint)
    for prompt in PROMPTS:
        merged = oracle_of_weights(server.backbone.path, prompt, [updates])
        assert served_tokens(server, "official", prompt) == merged
        assert merged != oracle_of_weights(server.backbone.path, prompt, []), "no contrast"


def test_a_chain_of_three_answers_each_with_its_own_prefix(
    server: RunningServer, tmp_path: Path
) -> None:
    checkpoints = [tmp_path / f"{i}.pt" for i in range(3)]
    for i, checkpoint in enumerate(checkpoints):
        write_checkpoint(checkpoint, dict(server.backbone.targets), seed=10 + i)
    tasks = ["first", "second", "third"]
    jumplora(
        "convert", "official", *map(str, checkpoints), "--chain",
        "--backbone", str(server.backbone.path), "--alpha", str(ALPHA),
        *(word for task in tasks for word in ("--task", task)), "--out", str(tmp_path / "chain"),
    )  # fmt: skip
    for task in tasks:
        (file,) = (tmp_path / "chain").glob(f"*{task}*.safetensors")
        jumplora("publish", str(file), "--server", server.url, "--key", ADMIN_KEY)
    updates = [gated_updates(checkpoint) for checkpoint in checkpoints]
    for i, task in enumerate(tasks):
        prefixes = [
            oracle_of_weights(server.backbone.path, prompt, updates[: i + 1]) for prompt in PROMPTS
        ]
        assert [served_tokens(server, task, prompt) for prompt in PROMPTS] == prefixes, task
        alone = [oracle_of_weights(server.backbone.path, p, [updates[i]]) for p in PROMPTS]
        assert i == 0 or prefixes != alone, "the lineage makes no difference"
