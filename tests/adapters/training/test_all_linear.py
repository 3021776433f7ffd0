"""Training of any linear layer: step for step as PEFT's LoRA, and served as it was trained.

Every case is trained on a tied head, whose input T5 v1.0 scales, and on one of its own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSeq2SeqLM

from decoding import make_sequence, oracle, run
from factories import Style, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import Delta
from jumplora_adapters.format import Adapter, read_adapter, write_adapter
from jumplora_adapters.manifest import Manifest
from jumplora_adapters.training.adapt import AdaptedBackbone, load_adapted
from jumplora_adapters.training.config import GateConfig, Method, TrainConfig
from jumplora_server.core import Kernels, Sampling, Sequence
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable

CPU = torch.device("cpu")
native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
TARGETS = {
    "all-linear": ("all-linear",),
    "head": ("lm_head",),
    "k and o": ("k", "o"),
    "feed-forward": ("*.DenseReluDense.*",),
    "all": ("all-linear", "lm_head"),
}
PROMPTS = ((5, 9, 7, 1), (8, 6, 11, 40, 1), (300, 31, 1))
TOKENS = 6


@pytest.fixture(scope="module", params=["v1.0", "v1.1"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    style: Style = request.param
    folder = tmp_path_factory.mktemp(style.replace(".", "-"))
    return read_backbone(tiny_t5(folder, style=style, seed=3, layers=1))


def _config(backbone: Backbone, targets: tuple[str, ...], method: Method) -> TrainConfig:
    return TrainConfig(
        str(backbone.path), "t", Path(), Path(), rank=2, alpha=8.0, targets=targets, method=method,
        gate=GateConfig("block"),
    )  # fmt: skip


def _peft(backbone: Backbone, adapted: AdaptedBackbone) -> tuple[Any, dict[str, nn.Module]]:
    """PEFT's model with the same factors, and its modules by our names."""
    base = AutoModelForSeq2SeqLM.from_pretrained(backbone.path, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=2, lora_alpha=8, target_modules=list(adapted.layers)))
    modules = {n: m for n, m in model.base_model.model.named_modules() if hasattr(m, "lora_A")}
    assert set(modules) == set(adapted.layers)
    with torch.no_grad():
        for name, layer in adapted.layers.items():
            modules[name].lora_A["default"].weight.copy_(layer.A)
            modules[name].lora_B["default"].weight.copy_(layer.B)
    return model, modules


def _step(model: Any, optimizer: torch.optim.Optimizer) -> Tensor:
    """The loss before the step."""
    ids = torch.tensor([[5, 9, 7, 1], [8, 6, 11, 1]])
    logits = model(input_ids=ids, decoder_input_ids=ids.roll(1, 1), use_cache=False).logits
    loss = cross_entropy(logits.flatten(0, 1), ids.flip(1).flatten())
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_steps_are_those_of_pefts_lora(backbone: Backbone, targets: str) -> None:
    adapted = load_adapted(backbone, (), _config(backbone, TARGETS[targets], "lora"), CPU)
    theirs, modules = _peft(backbone, adapted)
    ours = torch.optim.AdamW([p for _, p in adapted.named_parameters()], lr=0.01)
    other = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=0.01)
    adapted.model.train()
    losses = []
    for _ in range(3):
        losses.append(_step(adapted.model, ours))
        torch.testing.assert_close(losses[-1], _step(theirs, other))
        for name, layer in adapted.layers.items():
            for factor, parameter in (("lora_A", layer.A), ("lora_B", layer.B)):
                expected = getattr(modules[name], factor)["default"].weight
                torch.testing.assert_close(
                    parameter.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=f"{name} {factor}"
                )
    assert losses[-1] < losses[0]
    ids = torch.tensor([PROMPTS[0]])
    torch.testing.assert_close(
        adapted.model(input_ids=ids, decoder_input_ids=ids).logits,
        theirs(input_ids=ids, decoder_input_ids=ids).logits, rtol=1e-3, atol=1e-3,
    )  # fmt: skip


def _trained(backbone: Backbone, targets: tuple[str, ...], method: Method) -> AdaptedBackbone:
    """A few steps; a gate is set after half of them and closed in the rest."""
    adapted = load_adapted(backbone, (), _config(backbone, targets, method), CPU)
    optimizer = torch.optim.AdamW([p for _, p in adapted.named_parameters()], lr=0.05)
    adapted.model.train()
    for step in range(8):
        if step == 4:
            adapted.set_thresholds()
            adapted.set_fraction(1.0)
        _step(adapted.model, optimizer)
    adapted.model.eval()
    return adapted


def _written(path: Path, backbone: Backbone, adapted: AdaptedBackbone) -> Adapter:
    """The trained deltas, saved and read again."""
    deltas = adapted.deltas(torch.float32)
    is_masked = bool(adapted.gates)
    manifest = Manifest(
        kind="masked" if is_masked else "lowrank", task="t", backbone=backbone.ref(),
        targets=tuple(deltas), rank=2, alpha=8.0, method="test", created="",
        thresholds=adapted.thresholds() if is_masked else None,
    )  # fmt: skip
    write_adapter(path, manifest, deltas)
    return read_adapter(path, backbone)


def _generated(adapted: AdaptedBackbone, prompt: tuple[int, ...]) -> list[int]:
    """By transformers, of the model as it was trained: through the gate, not a saved delta."""
    output = adapted.model.generate(
        input_ids=torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False
    )
    return list(output[0, 1:].tolist())


@pytest.mark.parametrize("kernels", [pytest.param("native", marks=native), "torch"])
@pytest.mark.parametrize("method", ["lora", "jumplora"])
def test_what_was_trained_is_what_is_served(
    backbone: Backbone, tmp_path: Path, method: Method, kernels: Kernels
) -> None:
    engine = Engine(
        backbone.path, dtype="float32", max_rows=12, max_source_tokens=128, max_target_tokens=16,
        kernels=kernels,
    )  # fmt: skip
    sampling = Sampling(max_new_tokens=TOKENS)
    expected: list[list[int]] = []
    bare: list[list[int]] = []
    sequences: list[Sequence] = []
    for number, targets in enumerate(TARGETS.values()):
        adapted = _trained(backbone, targets, method)
        adapter = _written(tmp_path / f"{number}.safetensors", backbone, adapted)
        adapter = replace(adapter, digest=f"{number:x}" * 64)
        slot = engine.install(engine.pack(adapter))
        for prompt in PROMPTS[:2]:
            expected.append(_generated(adapted, prompt))
            assert expected[-1] == oracle(
                backbone.path, prompt, [adapter.deltas], max_new_tokens=TOKENS
            )
            bare.append(oracle(backbone.path, prompt, [], max_new_tokens=TOKENS))
            sequences.append(
                make_sequence(prompt, row=len(sequences), slots=(slot,), sampling=sampling)
            )
    assert run(engine, sequences) == expected
    assert sum(a != b for a, b in zip(expected, bare, strict=True)) >= 8


def _kept(deltas: dict[str, Delta]) -> int:
    return sum(delta.nnz for delta in deltas.values())


def test_every_threshold_keeps_as_many_entries_as_its_factors_have(backbone: Backbone) -> None:
    adapted = load_adapted(backbone, (), _config(backbone, TARGETS["all"], "jumplora"), CPU)
    with torch.no_grad():
        for layer in adapted.layers.values():
            layer.B.normal_(generator=torch.Generator().manual_seed(1))
    adapted.set_thresholds()
    deltas = adapted.deltas(torch.float32)
    assert set(adapted.gates) == {"encoder.block.0", "decoder.block.0", "lm_head"}
    for group, gate in adapted.gates.items():
        members = {name: layer for name, layer in adapted.layers.items() if layer.gate is gate}
        factors = sum(layer.A.numel() + layer.B.numel() for layer in members.values())
        assert _kept({name: deltas[name] for name in members}) == factors, group


@pytest.mark.parametrize("method", ["lora", "jumplora"])
def test_a_bfloat16_backbone_computes_in_bfloat16_wherever_it_is_adapted(
    backbone: Backbone, method: Method
) -> None:
    config = replace(_config(backbone, TARGETS["all"], method), precision="bfloat16")
    adapted = load_adapted(backbone, (), config, CPU)
    adapted.set_fraction(1.0)
    seen: dict[str, torch.dtype] = {}
    for name, layer in adapted.layers.items():
        layer.register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: inputs[0].dtype})
        )
    logits = adapted.model(input_ids=torch.tensor([PROMPTS[0]]),
                           decoder_input_ids=torch.tensor([PROMPTS[0]])).logits  # fmt: skip
    assert logits.dtype == torch.bfloat16
    assert seen == dict.fromkeys(adapted.layers, torch.bfloat16)
