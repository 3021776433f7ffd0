"""Folders that PEFT saves of small models, and the updates that it would merge."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.draft import Converted, Draft
from jumplora_adapters.convert.form import Form
from jumplora_adapters.convert.peft import convert_peft
from jumplora_adapters.format import read_adapter

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


class Around(nn.Module):
    """A model that holds T5 under a name of its own."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, model)


def bare(model: nn.Module) -> nn.Module:
    return model


def in_t5(model: nn.Module) -> nn.Module:
    return Around(model, "t5")


def twice(model: nn.Module) -> nn.Module:
    return Around(Around(model, "encoder"), "module")


def save_trained(
    backbone: Backbone, folder: Path, wrap: Callable[[nn.Module], nn.Module], **config: Any
) -> dict[str, Tensor]:
    """Save a LoRA with random factors; site -> the update that PEFT would merge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, about variants of LoRA
        made = peft.LoraConfig(**config)
    return save_adapted(backbone, folder, made, wrap)


def save_adapted(
    backbone: Backbone,
    folder: Path,
    config: Any,
    wrap: Callable[[nn.Module], nn.Module] = bare,
    scale: float = 1.0,
) -> dict[str, Tensor]:
    """Save what a configuration of PEFT trains, with random numbers of that deviation."""
    model = load_model(backbone)
    generator = torch.Generator().manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, about patterns without a match among others
        adapted = peft.get_peft_model(wrap(model), config)
        for name, parameter in adapted.named_parameters():
            if any(part in name for part in ("lora_", "shira_", "supertuning_")):
                parameter.data = torch.randn(parameter.shape, generator=generator) * scale
        adapted.save_pretrained(folder)
        return updates_of(backbone, model)


def load_model(backbone: Backbone) -> nn.Module:
    """The backbone as transformers loads it."""
    model: nn.Module = transformers.AutoModelForSeq2SeqLM.from_pretrained(backbone.path)
    return model


def updates_of(backbone: Backbone, model: nn.Module) -> dict[str, Tensor]:
    """Site -> what PEFT would merge into its weight."""
    updates: dict[str, Tensor] = {}
    for site in backbone.sites:
        module: Any = model.get_submodule(site)
        if hasattr(module, "get_delta_weight"):
            update = module.get_delta_weight("default").detach()
            updates[site] = update.to_dense() if update.is_sparse else update
    return updates


def reloaded(
    backbone: Backbone, folder: Path, wrap: Callable[[nn.Module], nn.Module]
) -> dict[str, Tensor]:
    """The updates of a folder that PEFT loads again."""
    model = load_model(backbone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.PeftModel.from_pretrained(wrap(model), folder)
    return updates_of(backbone, model)


def convert(backbone: Backbone, folder: Path, draft: Draft) -> Converted:
    return convert_peft(folder, folder.parent / "a.safetensors", draft, backbone, Form())


def assert_updates(converted: Converted, backbone: Backbone, expected: dict[str, Tensor]) -> None:
    deltas = read_adapter(converted.path, backbone).deltas
    assert set(deltas) == set(expected)
    for name, delta in deltas.items():
        torch.testing.assert_close(delta.to_dense(), expected[name], rtol=1e-4, atol=1e-3)


def set_fields(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    state = {name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}
    save_file(state, path, {"format": "pt"})
