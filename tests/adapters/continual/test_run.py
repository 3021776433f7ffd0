"""Whole runs on a tiny backbone: what is written, what it means, resuming, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
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
from factories import Style, tiny_t5
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.continual import memory
from jumplora_adapters.continual.config import ContinualConfig
from jumplora_adapters.continual.methods import Method
from jumplora_adapters.continual.prepare import prepare
from jumplora_adapters.continual.run import run
from jumplora_adapters.continual.scorebook import CellScores
from jumplora_adapters.continual.watch import Watch
from jumplora_adapters.delta import LowRankDelta, SparseDelta
from jumplora_adapters.errors import AdapterError, BackboneError, DataError, TaskTooSmall
from jumplora_adapters.format import Adapter, read_adapter, write_adapter
from jumplora_adapters.training.config import GateConfig
from jumplora_adapters.training.fit import StepReport
from jumplora_adapters.training.scores import exact_match

ORDER = ("mood", "medium", "place")
QUIET = Watch()


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _adapters(config: ContinualConfig) -> list[Adapter]:
    backbone = read_backbone(Path(config.backbone))
    paths = [config.adapter_path(n, task) for n, task in enumerate(config.order.split(","), 1)]
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


class Oracle:
    """Transformers with merged weights: no layer and no decoding loop of a run, only its tokens."""

    def __init__(self, config: ContinualConfig) -> None:
        self._prepared = prepare(config)
        self.model = AutoModelForSeq2SeqLM.from_pretrained(config.backbone, dtype=torch.float32)
        head = self.model.get_output_embeddings()  # a tied head's delta is none of the embedding
        head.weight = torch.nn.Parameter(head.weight.detach().clone())

    def merge(self, adapter: Adapter, sign: int = 1) -> None:
        with torch.no_grad():
            for name, delta in adapter.deltas.items():
                self.model.get_submodule(name).weight += sign * delta.to_dense()

    def text(self, source: tuple[int, ...]) -> str:
        output = self.model.generate(
            input_ids=torch.tensor([source]), max_new_tokens=4, do_sample=False
        )
        return str(self._prepared.tokenizer.decoder.decode(output[0].tolist()))

    def scores(self, name: str) -> dict[str, float]:
        (task,) = (task for task in self._prepared.tasks if task.name == name)
        free = best = 0.0
        for example in task.scored.examples:
            free += exact_match(self.text(example.source), example.answer)
            chances = [self._log_probability(example.source, option) for option in task.options]
            best += task.prompt.options[chances.index(max(chances))] == example.answer
        count = len(task.scored.examples)
        return {"exact_match": free / count, "best_option": best / count}

    def _log_probability(self, source: tuple[int, ...], option: tuple[int, ...]) -> float:
        with torch.inference_mode():
            logits = self.model(
                input_ids=torch.tensor([source]),
                decoder_input_ids=torch.tensor([[0, *option[:-1]]]),
            ).logits[0]
        return sum(float(logits.log_softmax(-1)[n, token]) for n, token in enumerate(option))


@pytest.mark.parametrize(
    ("style", "changes"),
    [
        pytest.param("v1.1", {}, id="q and v"),
        pytest.param(
            "v1.0",
            {"targets": ("all-linear", "lm_head"), "gate": GateConfig("block")},
            id="all layers, tied head",
        ),
    ],
)
def test_the_matrix_is_what_transformers_with_merged_weights_scores(
    config: ContinualConfig, style: Style, changes: dict[str, Any], tmp_path: Path
) -> None:
    if style != "v1.1":
        folder = tiny_t5(tmp_path / "backbone", style=style, layers=1, seed=3)
        config = replace(config, backbone=str(folder), **changes)
    run(config, QUIET)
    matrix = _json(config.out / "matrix.json")
    oracle = Oracle(config)
    assert matrix["bare"] == {task: oracle.scores(task) for task in ORDER}
    for task, adapter in zip(ORDER, _adapters(config), strict=True):
        oracle.merge(adapter)
        assert matrix["alone"][task] == oracle.scores(task)
        oracle.merge(adapter, sign=-1)
    oracle = Oracle(config)  # adding and taking away leaves a rounding behind
    for position, adapter in enumerate(_adapters(config), start=1):
        oracle.merge(adapter)
        cells = matrix["after"][position - 1]
        assert cells == {task: oracle.scores(task) for task in ORDER[: position + 1]}
        row = {task: cell["exact_match"] for task, cell in cells.items()}
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


@pytest.mark.parametrize("targets", [("*.q", "*.v"), ("all-linear", "lm_head")], ids=str)
def test_seqlora_trains_one_adapter_on(config: ContinualConfig, targets: tuple[str, ...]) -> None:
    """A later task begins with the factors that the task before left: one small step is near."""
    config = replace(config, targets=targets)
    optimisation = replace(config.optimisation, max_steps=1, learning_rate=0.05)
    config = replace(config, method="seqlora", gate=None, optimisation=optimisation)
    run(config, QUIET)
    first, second, _ = _adapters(config)
    for name, delta in first.deltas.items():
        later = second.deltas[name]
        assert isinstance(delta, LowRankDelta)
        assert isinstance(later, LowRankDelta)
        # AdamW's first step moves each number by the rate at most; B is stored times alpha / r.
        assert float((later.A - delta.A).abs().max()) <= 0.05 * 1.001
        assert float((later.B - delta.B).abs().max()) <= 0.05 * 16 * 1.001
    moved = [float(d.B.abs().max()) for d in first.deltas.values() if isinstance(d, LowRankDelta)]
    assert max(moved) > 0.5 * 0.05 * 16  # so that starting at 0 again would show
    assert second.manifest.lineage == ()


@pytest.mark.parametrize(
    ("gate", "targets"),
    [("none", "q,v"), ("jumprelu", "q,v"), ("jumprelu", "k,wo,lm_head")],
)
def test_olora_is_pushed_from_the_factors_before(
    config: ContinualConfig, gate: str, targets: str
) -> None:
    config = replace(
        config, method="olora", gate=None if gate == "none" else config.gate,
        targets=tuple(targets.split(",")), order="mood,medium",
    )  # fmt: skip

    def overlap(strength: float) -> float:
        changed = replace(config, olora_lambda=strength, out=config.out / f"{strength}")
        run(changed, QUIET)
        first, second = _adapters(changed)
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
    held = sum(delta.nbytes for adapter in _adapters(config) for delta in adapter.deltas.values())
    prepared = prepare(config)
    reckoned = memory._sizes(prepared, prepared.stages[2]).adapter_bytes
    assert reckoned == pytest.approx(held, rel=0.01)
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
    oracle = Oracle(config)
    oracle.merge(first)
    tokenizer = prepare(config).tokenizer.raw
    hits = [
        exact_match(oracle.text(tuple(tokenizer.encode(canary.prompt).ids)), canary.expected)
        for canary in first.manifest.canaries
    ]
    assert first.manifest.scores["canary_exact_match"] == sum(hits) / 2
    assert sum(hits) > 0  # otherwise nothing is shown
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
        ({"targets": ("wi",)}, "'wi' fits no linear layer .*; allowed are q, k, v, o, wi_0"),
        ({"targets": ()}, "no targets were given; allowed are q"),
        ({"targets": ("lm_head",), "rank": 31}, "rank is 31: the factors of lm_head"),
        ({"merged_task": "mood"}, "name of a merged"),
        ({"ella_lambda": -1.0}, "ella-lambda"),
        ({"canaries": Path("nowhere")}, "not a folder"),
        ({"alpha": float("inf")}, "alpha is inf"),
        ({"seed": 2**62}, "seed is 4611686018427387904, allowed is 0 to"),
        ({"gate": GateConfig(closed_at=1.0)}, "0 < set < closed < 1"),
    ],
)
def test_what_makes_no_run_is_told_before_anything_is_written(
    config: ContinualConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        run(replace(config, **changes), QUIET)
    assert not config.out.exists()


def test_a_run_that_does_not_fit_is_refused_before_anything_is_written(
    config: ContinualConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1_000_000)
    with pytest.raises(DataError, match=r"the run needs about .*there is 0\.00 GB"):
        run(config, QUIET)
    assert not config.out.exists()


def test_a_canary_file_of_no_task_is_refused(config: ContinualConfig, tmp_path: Path) -> None:
    (tmp_path / "canaries").mkdir()
    (tmp_path / "canaries/moood.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"moood\.jsonl belongs to no task of the order.*mood\.jsonl"
    ):
        run(replace(config, canaries=tmp_path / "canaries"), QUIET)


def test_an_empty_folder_of_canaries_is_refused(config: ContinualConfig, tmp_path: Path) -> None:
    (tmp_path / "canaries").mkdir()
    with pytest.raises(DataError, match=r"canaries is empty: .*mood\.jsonl"):
        run(replace(config, canaries=tmp_path / "canaries"), QUIET)


def test_whole_prompts_that_are_cut_are_told(config: ContinualConfig) -> None:
    class Told(Watch):
        text = ""

        def warned(self, text: str) -> None:
            self.text += text

    row = json.dumps({"input": "film " * 100 + "Answer:", "target": "yes"})
    path = config.data / "mood/test.jsonl"
    path.write_text(f"{row}\n" * 3, encoding="utf-8")
    told = Told()
    run(replace(config, order="mood"), told)
    assert f"{path}: 3 whole prompts were too long" in told.text


def test_joint_training_has_as_many_steps_as_the_tasks_together(config: ContinualConfig) -> None:
    limited = replace(config, optimisation=replace(config.optimisation, max_steps=7))
    assert [stage.steps for stage in prepare(limited).stages] == [7, 7, 7]
    assert [stage.steps for stage in prepare(replace(limited, method="joint")).stages] == [21]


def test_going_on_elsewhere_is_told(config: ContinualConfig) -> None:
    class Told(Watch):
        text = ""

        def warned(self, text: str) -> None:
            self.text += text

    run(replace(config, order="mood"), QUIET)
    path = config.out / "environment.json"
    path.write_text(json.dumps({**_json(path), "threads": 64}), encoding="utf-8")
    told = Told()
    run(replace(config, order="mood"), told)
    assert "threads 64, now 1" in told.text


def test_a_task_learned_anew_is_scored_anew(config: ContinualConfig) -> None:
    run(config, QUIET)
    matrix = _json(config.out / "matrix.json")
    shutil.rmtree(config.task_folder(2, "medium"))
    book = config.out / "scores.jsonl"
    lines = book.read_text(encoding="utf-8").splitlines(keepends=True)
    wrong = '"exact_match": 0.123, "was"'
    spoiled = [
        line.replace('"exact_match"', wrong) if '"after/2"' in line else line for line in lines
    ]
    book.write_text("".join(spoiled), encoding="utf-8")
    run(config, QUIET)  # the same again, so the third task still fits
    assert _json(config.out / "matrix.json") == matrix


def test_a_task_is_not_taken_for_the_heir_of_another(config: ContinualConfig) -> None:
    run(config, QUIET)
    _, second, _ = _adapters(config)
    name, delta = next(iter(second.deltas.items()))
    assert isinstance(delta, SparseDelta)
    deltas = {**second.deltas, name: SparseDelta(delta.shape, delta.mask, 2 * delta.values)}
    digest = write_adapter(config.adapter_path(2, "medium"), second.manifest, deltas)
    path = config.task_folder(2, "medium") / "result.json"
    path.write_text(json.dumps({**_json(path), "version": digest}), encoding="utf-8")
    with pytest.raises(DataError, match="place was learned on other adapters"):
        run(config, QUIET)


def test_a_damaged_score_is_told(config: ContinualConfig) -> None:
    run(replace(config, order="mood"), QUIET)
    (config.out / "scores.jsonl").write_text('{"state": 1}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"scores\.jsonl has a line that is not a score"):
        run(replace(config, order="mood"), QUIET)


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
    with pytest.raises(DataError, match=r"holds another run \(rank 2, now 3\): give the settings"):
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
