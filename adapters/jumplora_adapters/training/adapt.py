"""A backbone with adapted layers in place: attaching, thresholds, and the deltas they amount to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    GenerationConfig,
)
from transformers.utils import logging as transformers_logging

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.delta import Delta, LowRankDelta, SparseDelta
from jumplora_adapters.errors import FormatError, GateCollapsed
from jumplora_adapters.format import Adapter
from jumplora_adapters.network import HEAD
from jumplora_adapters.training.config import TrainConfig
from jumplora_adapters.training.gate import Gate
from jumplora_adapters.training.layer import AdaptedLinear
from jumplora_adapters.training.targets import group_of, targets_of
from jumplora_adapters.training.threshold import threshold_for


@dataclass(frozen=True, slots=True)
class AdaptedBackbone:
    """A transformers model whose targets are AdaptedLinear; everything else is frozen.

    `gates` maps a group ("global", or a block's name) to its threshold; empty for plain LoRA.
    `model` is typed Any: transformers' own annotations do not describe its forward. Its
    `generation_config` says where decoding starts and ends, and what pads. `exact` holds
    the float32 values of frozen parameters that are trained over in a narrower type.
    """

    model: Any
    layers: Mapping[str, AdaptedLinear]
    gates: Mapping[str, Gate]
    device: torch.device
    exact: Sequence[tuple[nn.Parameter, Tensor]] = ()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Everything that is trained, in a fixed order."""
        for name, layer in self.layers.items():
            yield f"{name}.A", layer.A
            yield f"{name}.B", layer.B
        for group, gate in self.gates.items():
            yield f"{group}.log_tau", gate.log_tau

    def state(self) -> dict[str, Tensor]:
        """Copies on the CPU, by the names of `named_parameters`."""
        return {
            name: parameter.detach().cpu().clone() for name, parameter in self.named_parameters()
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self.named_parameters():
            parameter.copy_(state[name])

    def set_fraction(self, fraction: float) -> None:
        for gate in self.gates.values():
            gate.fraction = fraction

    def set_thresholds(self) -> None:
        """tau of each group so that as many entries pass as its A and B have (up to ties).

        Raises GateCollapsed where that many would be all of them: the rank is too high.
        """
        for gate in self.gates.values():
            layers = [layer for layer in self.layers.values() if layer.gate is gate]
            gate.set_tau(threshold_for(layers))

    def density(self) -> float:
        """Share of all entries that pass the gate now (1 without a gate)."""
        passing = total = 0
        for layer in self.layers.values():
            total += layer.base.numel()
            if layer.gate is None:
                passing += layer.base.numel()
            else:
                passing += int((layer.product().abs() > layer.gate.log_tau.exp()).sum())
        return passing / total

    def thresholds(self) -> dict[str, float]:
        return {group: gate.tau for group, gate in self.gates.items()}

    def deltas(self, dtype: torch.dtype) -> dict[str, Delta]:
        """What is saved: always hard-gated, whatever the fraction, and rounded to `dtype`.

        Raises GateCollapsed if a value is not finite in that type.
        """
        try:
            return {name: _delta(layer, dtype) for name, layer in self.layers.items()}
        except FormatError as error:
            raise GateCollapsed(f"the update cannot be saved: {error}") from error

    @contextmanager
    def serving(self, deltas: Mapping[str, Delta]) -> Iterator[None]:
        """Inside, the model computes base + delta in float32, as a server will with the file.

        A module without a delta computes its base alone.
        """
        was_training = self.model.training
        self.model.eval()
        narrow = [parameter.data for parameter, _ in self.exact]
        try:
            for parameter, value in self.exact:
                parameter.data = value
            for name, layer in self.layers.items():
                delta = deltas.get(name)
                layer.served = layer.base
                if delta is not None:
                    layer.served = layer.base + delta.to_dense().to(self.device)
            yield
        finally:
            for (parameter, _), value in zip(self.exact, narrow, strict=True):
                parameter.data = value
            for layer in self.layers.values():
                layer.served = None
            self.model.train(was_training)


def load_adapted(
    backbone: Backbone, ancestors: Sequence[Adapter], config: TrainConfig, device: torch.device
) -> AdaptedBackbone:
    """Loads the backbone, adds the ancestors' deltas in their order and attaches fresh layers.

    Targets, ancestors and factors stay float32 whatever the precision of the rest.
    """
    model = _load(backbone, config)
    model.requires_grad_(False)
    if any(HEAD in adapter.deltas for adapter in ancestors):
        # A delta of a tied head is none of the embedding: serving keeps them apart as well.
        head = model.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for adapter in ancestors:
        for name, delta in adapter.deltas.items():
            model.get_submodule(name).weight += delta.to_dense()
    model.to(device=device)
    seed = torch.Generator().manual_seed(config.seed)
    gates: dict[str, Gate] = {}
    layers: dict[str, AdaptedLinear] = {}
    for name in targets_of(backbone, config.targets):
        gate = None
        if config.method == "jumplora":
            group = group_of(backbone.sites[name], config.gate.scope)
            gate = gates.setdefault(group, _gate(config, device))
        # A tied head keeps the embedding's numbers for its base: neither is ever changed in place.
        layers[name] = AdaptedLinear(
            model.get_submodule(name).weight, rank=config.rank, scale=config.alpha / config.rank,
            gate=gate, seed=seed, dropout=config.optimisation.lora_dropout,
        )  # fmt: skip
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layers[name])
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    exact = [] if config.precision == "float32" else [(p, p.data) for p in frozen]
    for parameter, value in exact:
        parameter.data = value.to(getattr(torch, config.precision))
    return AdaptedBackbone(model, layers, gates, device, exact)


def _load(backbone: Backbone, config: TrainConfig) -> Any:
    # On a CPU the fused attention's backward pass is slower in bfloat16 than the plain one.
    attention = "sdpa" if config.precision == "float32" else "eager"
    transformers_logging.disable_progress_bar()
    # The network and the weights that a server computes with, not what the library would find in
    # the folder.
    fields = backbone.architecture.as_json()
    scales = fields.pop("scales_decoder_outputs")
    configuration = AutoConfig.for_model(
        **fields, scale_decoder_outputs=scales, dropout_rate=config.optimisation.dropout
    )
    model = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(configuration)].from_pretrained(
        None,
        config=configuration,
        state_dict=dict(backbone.checkpoint.tensors()),
        dtype=torch.float32,
        attn_implementation=attention,
    )
    # umT5's forward scales its decoder's output where this is true, as its config always has it.
    model.config.tie_word_embeddings = scales
    # Of the folder's own settings, those that a server obeys, and nothing else: generate() fills
    # whatever a call leaves open from here.
    model.generation_config = GenerationConfig(
        decoder_start_token_id=backbone.generation.start_token_id,
        eos_token_id=[*backbone.generation.end_token_ids] or None,
        pad_token_id=0,  # whatever it is, it is masked
    )
    return model


def _gate(config: TrainConfig, device: torch.device) -> Gate:
    return Gate(bandwidth=config.gate.bandwidth, estimator=config.gate.estimator, device=device)


def _delta(layer: AdaptedLinear, dtype: torch.dtype) -> Delta:
    A, B = layer.A.detach().cpu(), layer.B.detach().cpu()
    if layer.gate is None:
        return LowRankDelta(A.to(dtype), (layer.scale * B).to(dtype))
    return SparseDelta.from_factors(A, B, tau=layer.gate.tau, scale=layer.scale, dtype=dtype)
