"""Whole runs on a tiny backbone: what is written, what it means, resuming, and what is refused."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from continual_data import TASKS
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.continual.config import ContinualConfig, Method
from jumplora_adapters.continual.prepare import prepare
from jumplora_adapters.continual.run import run
from jumplora_adapters.continual.scorebook import CellScores
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.delta import LowRankDelta, SparseDelta
from jumplora_adapters.errors import AdapterError, BackboneError, DataError, TaskTooSmall
from jumplora_adapters.format import Adapter, read_adapter
from jumplora_adapters.training.fit import StepReport
from jumplora_adapters.training.scores import exact_match

ORDER = ("mood", "medium", "place")
QUIET = Watch()


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _adapters(config: ContinualConfig) -> list[Adapter]:
    backbone = read_backbone(Path(config.backbone))
    paths = [config.adapter_path(n, task) for n, task in enumerate(ORDER, start=1)]
    return [read_adapter(path, backbone) for path in paths]


def test_a_chain_is_written_as_own_deltas_with_their_lineage(config: ContinualConfig) -> None:
    finished = run(config, QUIET)
    first, second, third = _adapters(config)
    assert [a.digest for a in (first, second, third)] == list(finished.versions)
    assert first.manifest.lineage == ()
    assert second.manifest.lineage == (first.digest,)
    assert third.manifest.lineage == (first.digest, second.digest)
    for adapter, task in zip((first, second, third), ORDER, strict=True):
        manifest = adapter.manifest
        assert (manifest.task, manifest.kind, manifest.method) == (task, "masked", "jumplora")
        assert manifest.prompt is not None
        assert manifest.prompt.instruction == TASKS[task][0]
        assert set(manifest.scores) == {"test_exact_match", "test_best_option"}
    merged = read_adapter(
        config.out / "adapters/merged.safetensors", read_backbone(Path(config.backbone))
    )
    assert merged.manifest.lineage == finished.versions
    assert sum(delta.nnz for delta in merged.deltas.values()) == 0
    assert merged.manifest.prompt is None


def test_the_matrix_is_what_transformers_with_merged_weights_scores(
    config: ContinualConfig,
) -> None:
    """The oracle shares no layer and no decoding loop with the run, only the tokens."""
    run(config, QUIET)
    matrix = _json(config.out / "matrix.json")
    prepared = prepare(config)
    model = AutoModelForSeq2SeqLM.from_pretrained(config.backbone, dtype=torch.float32)

    def scores(task_name: str) -> float:
        (task,) = (task for task in prepared.tasks if task.name == task_name)
        hits = 0.0
        for example in task.scored.examples:
            output = model.generate(
                input_ids=torch.tensor([example.source]), max_new_tokens=4, do_sample=False
            )
            text = prepared.tokenizer.decode(output[0].tolist())
            hits += exact_match(text, example.answer)
        return hits / len(task.scored.examples)

    assert {t: c["exact_match"] for t, c in matrix["bare"].items()} == {t: scores(t) for t in ORDER}
    for position, adapter in enumerate(_adapters(config), start=1):
        with torch.no_grad():
            for name, delta in adapter.deltas.items():
                model.get_submodule(name).weight += delta.to_dense()
        row = {t: cell["exact_match"] for t, cell in matrix["after"][position - 1].items()}
        assert row == {task: scores(task) for task in ORDER[: position + 1]}
        facts: Any = adapter.manifest.training["continual"]
        assert facts["accuracy"] == {t: pytest.approx(row[t]) for t in ORDER[:position]}
    learned = [matrix["after"][n][task]["exact_match"] for n, task in enumerate(ORDER)]
    assert any(learned)  # otherwise the comparison shows nothing
    last = matrix["after"][2]
    drops = [last[task]["exact_match"] - learned[n] for n, task in enumerate(ORDER[:2])]
    assert facts["backward_transfer"] == pytest.approx(sum(drops) / 2, abs=1e-5)
    assert facts["accuracy_when_learned"] == dict(zip(ORDER, learned, strict=True))


def test_a_finished_run_is_not_computed_again(config: ContinualConfig) -> None:
    class Seen(Watch):
        steps = 0

        def stepped(self, report: StepReport) -> None:
            self.steps += 1

    first = run(config, QUIET)
    before = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    seen = Seen()
    assert run(config, seen) == first
    assert seen.steps == 0
    assert {p: p.read_bytes() for p in config.out.rglob("*") if p.is_file()} == before


_KILLED = """
import os, pickle, signal, sys
from jumplora_adapters.continual.run import run
from jumplora_adapters.continual.watch import Watch

class Killer(Watch):
    task = ""

    def began(self, name, position, count):
        self.task = name

    def stepped(self, report):
        if (self.task, report.step) == ("place", 5):
            os.kill(os.getpid(), signal.SIGKILL)

run(pickle.load(open(sys.argv[1], "rb")), Killer())
"""


@pytest.mark.parametrize("method", ["ella", "seqlora"])
def test_killed_in_the_third_task_and_resumed_it_ends_with_the_same_numbers(
    config: ContinualConfig, tmp_path: Path, method: Method
) -> None:
    config = replace(config, method=method, checkpoint_seconds=0.0)
    config = replace(config, gate=None) if method == "seqlora" else config
    whole = replace(config, out=tmp_path / "whole")
    run(whole, QUIET)
    (tmp_path / "config").write_bytes(pickle.dumps(config))
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path / "config")], check=False, timeout=120
    )
    assert killed.returncode == -9
    assert len(_json(config.out / "matrix.json")["after"]) == 2
    assert (config.task_folder(3, "place") / "checkpoint.safetensors").is_file()
    run(config, QUIET)
    assert _json(config.out / "matrix.json") == _json(whole.out / "matrix.json")
    for adapter in sorted((whole.out / "adapters").iterdir()):
        assert (config.out / "adapters" / adapter.name).read_bytes() == adapter.read_bytes()
    log = (config.task_folder(3, "place") / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, 9))


def test_killed_between_two_scores_it_keeps_those_it_has(config: ContinualConfig) -> None:
    class Broken(Watch):
        def scored(self, state: str, task: str, scores: CellScores) -> None:
            if (state, task) == ("after/2", "mood"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, Broken())
    book = config.out / "scores.jsonl"
    book.write_bytes(book.read_bytes() + b'{"state": "after/2", "task"')  # torn
    run(config, QUIET)
    lines = [json.loads(line) for line in book.read_text(encoding="utf-8").splitlines()]
    cells = [(line["state"], line["task"]) for line in lines]
    assert len(cells) == len(set(cells)) == 3 + 2 + 3 + 3 + 3
    assert config.adapter_path(2, "medium").is_file()


def test_independent_adapters_stand_alone(config: ContinualConfig) -> None:
    config = replace(config, method="independent")
    run(config, QUIET)
    assert all(adapter.manifest.lineage == () for adapter in _adapters(config))
    matrix = _json(config.out / "matrix.json")
    assert [list(row) for row in matrix["after"]] == [["mood"], ["medium"], ["place"]]
    assert matrix["alone"] == {}
    assert not (config.out / "adapters/merged.safetensors").exists()


def test_joint_training_is_one_adapter_for_all(config: ContinualConfig) -> None:
    config = replace(config, method="joint", gate=None)
    finished = run(config, QUIET)
    assert len(finished.versions) == 1
    matrix = _json(config.out / "matrix.json")
    assert [set(row) for row in matrix["after"]] == [set(ORDER)]
    joint = read_adapter(config.adapter_path(1, "joint"), read_backbone(Path(config.backbone)))
    assert joint.manifest.prompt is None
    scores = [cell["exact_match"] for cell in matrix["after"][0].values()]
    assert joint.manifest.scores["test_exact_match"] == pytest.approx(sum(scores) / 3, abs=1e-5)


def test_seqlora_trains_one_adapter_on(config: ContinualConfig) -> None:
    """With no steps to speak of, a later task's factors are those that the task before left."""
    config = replace(
        config, method="seqlora", gate=None,
        optimisation=replace(config.optimisation, learning_rate=1e-12),
    )  # fmt: skip
    run(config, QUIET)
    first, second, _ = _adapters(config)
    for name, delta in first.deltas.items():
        later = second.deltas[name]
        assert isinstance(delta, LowRankDelta)
        assert isinstance(later, LowRankDelta)
        torch.testing.assert_close(later.A, delta.A, atol=1e-6, rtol=0)
    assert second.manifest.lineage == ()


@pytest.mark.parametrize("gate", ["none", "jumprelu"])
def test_olora_is_pushed_from_the_factors_before(config: ContinualConfig, gate: str) -> None:
    config = replace(config, method="olora", gate=None if gate == "none" else config.gate)

    def overlap(strength: float) -> float:
        changed = replace(config, olora_lambda=strength, out=config.out / f"{strength}")
        run(changed, QUIET)
        first, second, _ = _adapters(changed)
        total = 0.0
        for name, delta in second.deltas.items():
            before = first.deltas[name]
            if isinstance(delta, LowRankDelta) and isinstance(before, LowRankDelta):
                total += float((delta.A @ before.A.T).abs().sum())
            else:
                total += float((second.factors[name][0] @ first.factors[name][0].T).abs().sum())
        return total

    assert overlap(1.0) < 0.5 * overlap(0.0)


def test_ella_keeps_off_the_entries_before(config: ContinualConfig) -> None:
    def overlap(strength: float) -> float:
        changed = replace(
            config, method="ella", gate=None, ella_lambda=strength, out=config.out / f"{strength}"
        )
        run(changed, QUIET)
        first, second, _ = _adapters(changed)
        return sum(
            float((delta.to_dense() * first.deltas[name].to_dense()).square().sum())
            for name, delta in second.deltas.items()
        )

    assert overlap(1e5) < 0.5 * overlap(0.0)


def test_the_control_has_the_density_it_is_cut_to(config: ContinualConfig) -> None:
    config = replace(config, gate=None, prune=(0.1, 0.2, 0.05))
    run(config, QUIET)
    for density, adapter in zip((0.1, 0.2, 0.05), _adapters(config), strict=True):
        sizes = {name: d.shape[0] * d.shape[1] for name, d in adapter.deltas.items()}
        kept = sum(delta.nnz for delta in adapter.deltas.values())
        assert kept == pytest.approx(density * sum(sizes.values()), abs=2)
        assert adapter.manifest.training["pruned_to"] == density
        assert all(isinstance(delta, SparseDelta) for delta in adapter.deltas.values())
    third = _adapters(config)[2]
    # One threshold for all modules: what is kept anywhere is larger than what is cut anywhere.
    assert len({round(delta.density, 3) for delta in third.deltas.values()}) > 1


def test_canaries_go_into_the_manifest_and_are_scored(
    config: ContinualConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "canaries"
    folder.mkdir()
    rows = [{"text": "this was good", "label": "yes"}, {"text": "of the bad", "label": "no"}]
    (folder / "mood.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run(replace(config, canaries=folder), QUIET)
    first, second, _ = _adapters(config)
    assert [canary.expected for canary in first.manifest.canaries] == ["yes", "no"]
    assert first.manifest.canaries[0].prompt.endswith("Text: this was good\nAnswer:")
    assert first.manifest.scores["canary_exact_match"] in (0.0, 0.5, 1.0)
    assert second.manifest.canaries == ()


def test_targets_and_schedule_are_settings(config: ContinualConfig) -> None:
    assert config.gate is not None
    gate = replace(config.gate, set_at=0.5, closed_at=0.6, scope="block")
    config = replace(config, targets=("encoder.*.q",), gate=gate, order="mood")
    run(config, QUIET)
    adapter = read_adapter(config.adapter_path(1, "mood"), read_backbone(Path(config.backbone)))
    assert set(adapter.deltas) == {"encoder.block.0.layer.0.SelfAttention.q"}
    assert adapter.manifest.thresholds is not None
    assert set(adapter.manifest.thresholds) == {"encoder.block.0"}
    log = (config.task_folder(1, "mood") / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["fraction"] for line in log] == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "seqlora"}, "seqlora trains one dense adapter"),
        ({"prune": (0.1,)}, "the gate or the control"),
        ({"gate": None, "prune": (0.1, 0.2)}, "2 densities were given.*each of 3"),
        ({"gate": None, "prune": (1.5,)}, "density of 1.5"),
        ({"order": "mood,nowhere"}, "names task 'nowhere'"),
        ({"train_rows": 0}, "train-rows is 0"),
        ({"rank": 30}, "rank is 30"),
        ({"targets": ("*.o",)}, "fits no q or v projection"),
        ({"merged_task": "mood"}, "name of a merged"),
        ({"ella_lambda": -1.0}, "ella-lambda"),
        ({"canaries": Path("nowhere")}, "no folder"),
    ],
)
def test_what_makes_no_run_is_told_before_anything_is_written(
    config: ContinualConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        run(replace(config, **changes), QUIET)
    assert not config.out.exists()


def test_too_few_steps_for_a_gate_name_the_task(config: ContinualConfig) -> None:
    short = replace(config, optimisation=replace(config.optimisation, epochs=1))
    with pytest.raises(TaskTooSmall, match="mood: a gated training needs at least 5"):
        run(short, QUIET)


def test_a_backbone_without_q_and_v_is_refused(config: ContinualConfig, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in Path(config.backbone).iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = load_file(broken / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith(".v.weight")}
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"\.v\.weight"):
        run(replace(config, backbone=str(broken)), QUIET)
    assert not config.out.exists()


def test_a_folder_of_another_run_is_left_alone(config: ContinualConfig) -> None:
    run(replace(config, order="mood"), QUIET)
    before = (config.out / "config.json").read_bytes()
    with pytest.raises(DataError, match=r"holds another run \(different: .*hyper_parameters"):
        run(replace(config, order="mood", rank=3), QUIET)
    assert (config.out / "config.json").read_bytes() == before


def test_an_adapter_that_was_changed_is_not_trained_on(config: ContinualConfig) -> None:
    class Broken(Watch):
        def began(self, name: str, position: int, count: int) -> None:
            if position == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, Broken())
    path = config.adapter_path(1, "mood")
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(AdapterError):
        run(config, QUIET)
