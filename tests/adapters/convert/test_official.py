from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5ForConditionalGeneration

from foreign_checkpoints import (
    Official,
    merged_delta,
    official_state,
    save_official,
)
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.draft import Draft
from jumplora_adapters.convert.form import Form
from jumplora_adapters.convert.official import (
    convert_chain,
    convert_official,
    group_thresholds,
    read_official,
)
from jumplora_adapters.convert.scaling import Scaling
from jumplora_adapters.delta import LowRankDelta
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.format import read_adapter
from jumplora_adapters.manifest import PromptSpec

ALPHA = Scaling(alpha=32.0)
Q = "encoder.block.0.layer.0.SelfAttention.q"


def test_delta_is_what_merging_adds_bit_for_bit(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    state = official_state(backbone, rank=4, density=0.1)
    checkpoint = save_official(tmp_path / "jumplora_weights.pt", state)
    converted = convert_official(
        checkpoint, tmp_path / "out" / "a.safetensors", draft, backbone, ALPHA, Form()
    )
    adapter = read_adapter(converted.path, backbone)
    assert adapter.digest == converted.digest
    for name, delta in adapter.deltas.items():
        assert torch.equal(delta.to_dense(), merged_delta(state[name], 32 / 4)), name
    manifest = adapter.manifest
    assert (manifest.kind, manifest.rank, manifest.alpha) == ("masked", 4, 32.0)
    assert manifest.targets == tuple(backbone.targets)
    assert manifest.lineage == ()
    assert manifest.thresholds == {"global": float(state[Q]["log_threshold"].exp())}
    assert 0.05 < converted.density < 0.2
    assert converted.nonzeros == sum(delta.nnz for delta in adapter.deltas.values())


def test_gates_of_any_linear_layer(backbone: Backbone, draft: Draft, tmp_path: Path) -> None:
    state = official_state(backbone, names=backbone.sites)
    checkpoint = save_official(tmp_path / "c.pt", state)
    converted = convert_official(
        checkpoint, tmp_path / "a.safetensors", draft, backbone, ALPHA, Form()
    )
    assert converted.manifest.targets == tuple(backbone.sites)
    assert converted.warnings == ()
    for name, delta in read_adapter(converted.path, backbone).deltas.items():
        assert torch.equal(delta.to_dense(), merged_delta(state[name], 32 / 4)), name


def test_answers_as_the_merged_model(backbone: Backbone, draft: Draft, tmp_path: Path) -> None:
    state = official_state(backbone, density=0.2)
    checkpoint = save_official(tmp_path / "c.pt", state)
    path = convert_official(
        checkpoint, tmp_path / "a.safetensors", draft, backbone, ALPHA, Form()
    ).path
    adapter = read_adapter(path, backbone)
    models = [T5ForConditionalGeneration.from_pretrained(backbone.path).eval() for _ in range(3)]
    _, merged, ours = models
    with torch.no_grad():
        for name, entry in state.items():
            merged.get_submodule(name).weight += merged_delta(entry, 32 / 4)
            ours.get_submodule(name).weight += adapter.deltas[name].to_dense()
        ids = torch.arange(3, 19).view(1, -1)
        answers = [
            model(input_ids=ids, decoder_input_ids=torch.tensor([[0, 5, 9]])).logits
            for model in models
        ]
    assert torch.equal(answers[1], answers[2])
    assert not torch.allclose(answers[0], answers[1], atol=1e-3)


def test_gate_comes_before_the_scale_and_is_strict(backbone: Backbone, tmp_path: Path) -> None:
    state = official_state(backbone, rank=1)
    d_out, d_in = backbone.targets[Q]
    state[Q] = {
        "A": torch.ones(1, d_in),
        "B": torch.full((d_out, 1), 0.5),
        "log_threshold": torch.tensor(0.5).log(),
    }
    state[Q]["B"][0] = 0.75
    checkpoint = save_official(tmp_path / "c.pt", state)
    # 0.5 is the threshold itself and goes; the scale of 100 would carry everything over it.
    converted = convert_official(
        checkpoint,
        tmp_path / "a.safetensors",
        Draft("task", "now"),
        backbone,
        Scaling(scale=100.0),
        Form(),
    )
    dense = read_adapter(converted.path, backbone).deltas[Q].to_dense()
    assert torch.equal(dense[0], torch.full((d_in,), 75.0))
    assert not dense[1:].any()


def test_half_precision_factors_are_expanded_in_float32(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    state = official_state(backbone)
    halved: Official = {
        name: {
            key: value.bfloat16() if key != "log_threshold" else value for key, value in e.items()
        }
        for name, e in state.items()
    }
    checkpoint = save_official(tmp_path / "c.pt", halved)
    converted = convert_official(
        checkpoint, tmp_path / "a.safetensors", draft, backbone, ALPHA, Form()
    )
    deltas = read_adapter(converted.path, backbone).deltas
    for name, entry in halved.items():
        widened = {key: value.float() for key, value in entry.items()}
        assert torch.equal(deltas[name].to_dense(), merged_delta(widened, 8.0)), name


def test_wrapped_names_and_missing_modules(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    state = official_state(backbone)
    checkpoint = save_official(tmp_path / "c.pt", {f"base_model.{Q}.base": state[Q]})
    converted = convert_official(
        checkpoint, tmp_path / "a.safetensors", draft, backbone, ALPHA, Form()
    )
    assert converted.manifest.targets == (Q,)
    assert converted.warnings == (
        "the checkpoint lacks 11 of the 12 q and v modules, such as"
        f" {Q.removesuffix('q')}v: they keep the backbone's weights",
    )


@pytest.mark.parametrize("keep", ["keep", "drop"])
def test_factors_accompany_the_masks_when_asked(
    keep: Any, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    state = official_state(backbone)
    checkpoint = save_official(tmp_path / "c.pt", state)
    converted = convert_official(
        checkpoint, tmp_path / "a.safetensors", draft, backbone, ALPHA, Form(factors=keep)
    )
    factors = read_adapter(converted.path, backbone).factors
    assert set(factors) == (set(state) if keep == "keep" else set())
    for name, (factor_a, factor_b) in factors.items():
        assert torch.equal(factor_a, state[name]["A"])
        assert torch.equal(factor_b, state[name]["B"])


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        pytest.param(Form(), "lowrank", id="factors by default"),
        pytest.param(Form(kind="masked"), "masked", id="expanded when asked"),
        pytest.param(Form(kind="masked", density=0.05), "masked", id="pruned"),
    ],
)
def test_without_thresholds_it_is_plain_lora(
    form: Form, kind: str, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    state = official_state(backbone)
    for entry in state.values():
        del entry["log_threshold"]
    checkpoint = save_official(tmp_path / "c.pt", state)
    converted = convert_official(
        checkpoint, tmp_path / "a.safetensors", draft, backbone, ALPHA, form
    )
    assert (converted.manifest.kind, converted.manifest.method) == (kind, "lora")
    for name, delta in read_adapter(converted.path, backbone).deltas.items():
        dense, expected = delta.to_dense(), merged_delta(state[name], 8.0)
        if form.density is None:
            torch.testing.assert_close(dense, expected, rtol=0, atol=1e-5)
            assert isinstance(delta, LowRankDelta) == (kind == "lowrank")
        else:
            kept = dense != 0
            assert int(kept.sum()) == round(0.05 * dense.numel())
            assert expected[kept].abs().min() >= expected[~kept].abs().max()


def test_16_bit_values_round_once(backbone: Backbone, draft: Draft, tmp_path: Path) -> None:
    state = official_state(backbone)
    checkpoint = save_official(tmp_path / "c.pt", state)
    converted = convert_official(
        checkpoint, tmp_path / "a.safetensors", draft, backbone, ALPHA, Form(dtype=torch.bfloat16)
    )
    for name, delta in read_adapter(converted.path, backbone).deltas.items():
        expected = merged_delta(state[name], 8.0).bfloat16()
        assert torch.equal(delta.to_dense(torch.bfloat16), expected)


def test_chain_has_own_deltas_and_the_earlier_ones_as_lineage(
    backbone: Backbone, tmp_path: Path
) -> None:
    states = [official_state(backbone, seed=seed) for seed in range(3)]
    checkpoints = [
        save_official(tmp_path / f"{index}.pt", state) for index, state in enumerate(states)
    ]
    ancestor = "ab" * 32
    drafts = [
        Draft(
            task, "now", prompt=PromptSpec(template="{text}", instruction=task), lineage=(ancestor,)
        )
        for task in ("one", "two", "three")
    ]
    converted = convert_chain(checkpoints, tmp_path / "out", drafts, backbone, ALPHA, Form())
    digests = [adapter.digest for adapter in converted]
    assert [adapter.manifest.lineage for adapter in converted] == [
        (ancestor,),
        (ancestor, digests[0]),
        (ancestor, digests[0], digests[1]),
    ]
    assert [adapter.path.name for adapter in converted] == [
        "one.safetensors",
        "two.safetensors",
        "three.safetensors",
    ]
    for adapter, state, draft in zip(converted, states, drafts, strict=True):
        read = read_adapter(adapter.path, backbone)
        assert read.manifest.prompt == draft.prompt
        for name, delta in read.deltas.items():
            assert torch.equal(delta.to_dense(), merged_delta(state[name], 8.0))


def test_chain_writes_nothing_if_one_checkpoint_is_refused(
    backbone: Backbone, tmp_path: Path
) -> None:
    good = save_official(tmp_path / "good.pt", official_state(backbone))
    bad = save_official(tmp_path / "bad.pt", {"foreign": {}})
    drafts = [Draft("one", "now"), Draft("two", "now")]
    with pytest.raises(ConvertError):
        convert_chain([good, bad], tmp_path / "out", drafts, backbone, ALPHA, Form())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        pytest.param(["one"], "2 checkpoints and 1 tasks", id="too few"),
        pytest.param(["one", "one"], "different task ids", id="twice the same"),
    ],
)
def test_chain_needs_a_task_for_each(
    tasks: list[str], message: str, backbone: Backbone, tmp_path: Path
) -> None:
    checkpoint = save_official(tmp_path / "c.pt", official_state(backbone))
    drafts = [Draft(task, "now") for task in tasks]
    with pytest.raises(ConvertError, match=message):
        convert_chain([checkpoint, checkpoint], tmp_path, drafts, backbone, ALPHA, Form())


def test_old_torch_files_are_read_as_well(backbone: Backbone, tmp_path: Path) -> None:
    state = official_state(backbone)
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    factors = read_official(tmp_path / "old.pt", backbone)
    assert torch.equal(factors[Q].A, state[Q]["A"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({}, "--alpha .* or --scale .*neither", id="neither"),
        pytest.param({"alpha": 1.0, "scale": 1.0}, "got both", id="both"),
        pytest.param({"alpha": float("nan")}, "finite", id="nan"),
        pytest.param({"scale": 0.0}, "not zero", id="zero"),
    ],
)
def test_scaling_is_asked_for(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        Scaling(**given)


def test_scaling_values() -> None:
    assert Scaling(alpha=32.0).at(8) == 4.0
    assert Scaling(alpha=32.0, rank_scaling="sqrt-r").at(16) == 8.0
    assert Scaling(scale=0.25).at(8) == 0.25


@pytest.mark.parametrize(
    "form",
    [{"density": 0.5}, {"kind": "lowrank", "density": 0.5}],
    ids=["no kind", "low rank"],
)
def test_density_needs_masks(form: dict[str, Any]) -> None:
    with pytest.raises(ConvertError, match="needs kind masked"):
        Form(**form)


@pytest.mark.parametrize(
    "form", [Form(kind="lowrank"), Form(kind="masked", density=0.1)], ids=["low rank", "density"]
)
def test_a_gate_leaves_no_choice_of_form(
    form: Form, backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    checkpoint = save_official(tmp_path / "c.pt", official_state(backbone))
    with pytest.raises(ConvertError, match="has a threshold"):
        convert_official(checkpoint, tmp_path / "a.safetensors", draft, backbone, ALPHA, form)


def test_values_that_leave_16_bits_are_refused(
    backbone: Backbone, draft: Draft, tmp_path: Path
) -> None:
    checkpoint = save_official(tmp_path / "c.pt", official_state(backbone))
    form = Form(dtype=torch.float16)
    with pytest.raises(ConvertError, match="NaN or infinite"):
        convert_official(
            checkpoint, tmp_path / "a.safetensors", draft, backbone, Scaling(scale=1e6), form
        )


def test_thresholds_are_named_by_the_widest_group() -> None:
    first, second = (
        "encoder.block.0.layer.0.SelfAttention.q",
        "encoder.block.1.layer.0.SelfAttention.q",
    )
    value = first.replace(".q", ".v")
    assert group_thresholds({first: 0.1, second: 0.1}) == {"global": 0.1}
    assert group_thresholds({first: 0.1, value: 0.1, second: 0.2}) == {
        "encoder.block.0": 0.1,
        "encoder.block.1": 0.2,
    }
    odd = {first: 0.1, value: 0.3, second: 0.2}
    assert group_thresholds(odd) == odd
