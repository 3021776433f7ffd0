"""Which layers a target means, judged by PEFT where both know the word, and what shares a gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from factories import Style, tiny_t5, toy_backbone
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.errors import DataError
from jumplora_adapters.network import HEAD, Site
from jumplora_adapters.training.adapt import load_adapted
from jumplora_adapters.training.config import TARGETS, Scope, TrainConfig
from jumplora_adapters.training.targets import added_roles, check_targets, group_of, targets_of

CPU = torch.device("cpu")
Q = "encoder.block.0.layer.0.SelfAttention.q"


@pytest.fixture(scope="module", params=["v1.0", "v1.1", "mt5"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    style: Style = request.param
    folder = tmp_path_factory.mktemp(style.replace(".", "-"))
    return read_backbone(tiny_t5(folder, style=style, vocab=600, decoder_layers=1))


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        pytest.param(TARGETS, lambda s: s.role in ("q", "v"), id="default"),
        pytest.param(("q", "v"), lambda s: s.role in ("q", "v"), id="roles"),
        pytest.param(("o", "wo"), lambda s: s.role in ("o", "wo"), id="o is not wo"),
        pytest.param(("lm_head",), lambda s: s.part == "head", id="head"),
        pytest.param(("all-linear",), lambda s: s.part != "head", id="all-linear"),
        pytest.param(("all-linear", "lm_head"), lambda s: True, id="all-linear and the head"),
        pytest.param(("*",), lambda s: True, id="any name"),
        pytest.param(("encoder.*",), lambda s: s.stack == "encoder", id="a stack"),
        pytest.param(("*.EncDecAttention.[kv]",), lambda s: s.part == "cross" and s.role in "kv",
                     id="pattern"),
        pytest.param(("EncDecAttention.k",), lambda s: s.part == "cross" and s.role == "k",
                     id="end of a name"),
        pytest.param((Q,), lambda s: s.name == Q, id="whole name"),
        pytest.param((HEAD, "k", Q), lambda s: s.role in (HEAD, "k") or s.name == Q,
                     id="in the network's order"),
    ],
)  # fmt: skip
def test_targets(backbone: Backbone, wanted: Sequence[str], chosen: Callable[[Site], bool]) -> None:
    expected = tuple(name for name, site in backbone.sites.items() if chosen(site))
    assert targets_of(backbone, wanted) == expected


@pytest.mark.parametrize(
    "wanted",
    [
        "all-linear", ["q", "v"], ["k", "o", "wo"], ["lm_head"], ["SelfAttention.q", "lm_head"],
        ["EncDecAttention.v", Q],
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_peft_takes_the_same_layers(backbone: Backbone, wanted: str | list[str]) -> None:
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(backbone.path))
    model = get_peft_model(model, LoraConfig(r=2, target_modules=wanted))
    theirs = {name for name, module in model.base_model.model.named_modules()
              if hasattr(module, "lora_A")}  # fmt: skip
    ours = targets_of(backbone, (wanted,) if isinstance(wanted, str) else wanted)
    assert set(ours) == theirs


@pytest.mark.parametrize("wanted", [("*.x",), ("q", "SelfAttention"), ("",), ("head",), ("uo",)])
def test_what_the_backbone_lacks_is_refused(backbone: Backbone, wanted: Sequence[str]) -> None:
    with pytest.raises(DataError, match=rf"{wanted[-1][1:]}' fits no linear layer of .* allowed"):
        targets_of(backbone, wanted)


def test_the_error_names_the_roles_that_there_are(backbone: Backbone) -> None:
    is_gated = backbone.architecture.feed_forward_proj != "relu"
    absent, present = ("wi", "wi_0, wi_1") if is_gated else ("wi_0", "wi")
    with pytest.raises(
        DataError,
        match=rf"'{absent}' fits no .*allowed are q, k, v, o, {present}, wo, lm_head, all-linear",
    ):
        targets_of(backbone, (absent,))


def test_none_is_refused(backbone: Backbone) -> None:
    with pytest.raises(DataError, match="no targets were given; allowed are q"):
        targets_of(backbone, ())


def test_only_other_roles_than_q_and_v_are_a_setting(backbone: Backbone) -> None:
    """Runs and checkpoints of before compute with q and v alone, and continue."""
    for before in (TARGETS, ("*.q",), ("*.SelfAttention.[qv]",), ("q", "v")):
        assert added_roles(backbone, before) == {}
    assert added_roles(backbone, ("*.[kqv]",)) == {"added_roles": ["k"]}
    assert added_roles(backbone, ("decoder.*.[qo]", HEAD)) == {"added_roles": ["o", HEAD]}


SITES = {
    "q": Site(Q, (4, 5), "encoder", 0, "self", "q"),
    "wo": Site("decoder.block.11.layer.2.DenseReluDense.wo", (4, 5), "decoder", 11, "feed-forward",
               "wo"),
    "head": Site(HEAD, (4, 5), "decoder", None, "head", HEAD),
}  # fmt: skip


@pytest.mark.parametrize(
    ("site", "scope", "group"),
    [
        ("q", "block", "encoder.block.0"),
        ("wo", "block", "decoder.block.11"),
        ("head", "block", "lm_head"),
        ("q", "global", "global"),
        ("head", "global", "global"),
    ],
)
def test_group_of(site: str, scope: Scope, group: str) -> None:
    assert group_of(SITES[site], scope) == group


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_chosen_layers_change_and_no_others(backbone: Backbone, data: st.DataObject) -> None:
    """By one step of gradient descent on every trained parameter, read off what each computes."""
    wanted = data.draw(st.lists(st.sampled_from(tuple(backbone.sites)), min_size=1, max_size=4))
    config = TrainConfig(
        str(backbone.path), "t", Path(), Path(), rank=2, targets=tuple(wanted), method="lora"
    )
    adapted = load_adapted(backbone, (), config, CPU)
    before = {name: tensor.clone() for name, tensor in adapted.model.state_dict().items()}
    ids = torch.tensor([[5, 6, 7, 1]])
    adapted.model(input_ids=ids, decoder_input_ids=ids).logits.square().sum().backward()
    with torch.no_grad():
        for _, parameter in adapted.named_parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad)
    changed = {name for name, tensor in adapted.model.state_dict().items()
               if not torch.equal(tensor, before[name])}  # fmt: skip
    assert changed == {f"{name}.B" for name in wanted}  # A gets no gradient while B is 0
    deltas = adapted.deltas(torch.float32)
    assert list(deltas) == [name for name in backbone.sites if name in wanted]
    assert all(delta.changes_anything for delta in deltas.values())


@pytest.mark.parametrize("method", ["lora", "jumplora"])
def test_a_tied_head_is_trained_apart_from_the_embedding(
    tmp_path: Path, config: TrainConfig, method: str
) -> None:
    backbone = read_backbone(tiny_t5(tmp_path / "tied", style="v1.0"))
    config = replace(config, targets=(HEAD,), method=method)  # type: ignore[arg-type]
    plain = load_adapted(backbone, (), replace(config, targets=TARGETS), CPU).model
    adapted = load_adapted(backbone, (), config, CPU)
    with torch.no_grad():
        adapted.layers[HEAD].B.normal_(generator=torch.Generator().manual_seed(0))
    adapted.set_thresholds()
    embedding = adapted.model.get_input_embeddings().weight
    assert torch.equal(embedding, plain.get_input_embeddings().weight)
    assert torch.equal(adapted.layers[HEAD].base, embedding)
    deltas = adapted.deltas(torch.float32)
    with adapted.serving(deltas):
        served = adapted.layers[HEAD].served
        assert served is not None
        torch.testing.assert_close(served, embedding + deltas[HEAD].to_dense())
        assert torch.equal(embedding, plain.get_input_embeddings().weight)


HUGE = {f"encoder.block.{block}.layer.0.SelfAttention.q": (16_384, 16_384) for block in range(3)}


@pytest.mark.parametrize(
    ("changes", "densest", "message"),
    [
        pytest.param({"method": "lora", "rank": 16_385}, 0, "16384 is the highest", id="rank"),
        pytest.param({"method": "lora", "rank": 2048}, 0, "at least 805306368 bytes", id="lora"),
        pytest.param({"rank": 4096}, 0, r"at least 905969664 bytes, .* 536870912: choose fewer",
                     id="gate"),
        pytest.param({"method": "lora", "values": "float16"}, 0.4, "at least 744908390 bytes",
                     id="pruned"),
    ],
)  # fmt: skip
def test_what_could_not_be_saved_is_refused_before_training(
    changes: dict[str, Any], densest: float, message: str
) -> None:
    config = TrainConfig("b", "t", Path(), Path(), targets=("q",), **changes)
    with pytest.raises(DataError, match=message):
        check_targets(config, toy_backbone(HUGE), densest=densest)
    check_targets(replace(config, rank=8), toy_backbone(HUGE))


def test_more_layers_than_an_adapter_may_have_are_refused() -> None:
    many = {f"encoder.block.{n}.layer.0.SelfAttention.q": (4, 4) for n in range(2049)}
    config = TrainConfig("b", "t", Path(), Path(), targets=("q",), method="lora")
    with pytest.raises(DataError, match="2049 layers, and an adapter has at most 2048"):
        check_targets(config, toy_backbone(many))
