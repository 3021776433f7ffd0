"""Foreign checkpoints as other programs write them, small and seeded, and what they amount to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from jumplora_adapters.backbone import Backbone

WAS_RUN = Path("/tmp/jumplora-was-run")
Official = dict[str, dict[str, Tensor]]


def official_state(
    backbone: Backbone,
    *,
    seed: int = 0,
    rank: int = 4,
    density: float = 0.1,
    taus: Mapping[str, float] | None = None,
    names: Iterable[str] | None = None,
) -> Official:
    """Factors as training leaves them, one threshold at the (1 - density) quantile of |B A|.

    `taus` replaces that threshold module by module. `names` are the modules, by default q and v.
    """
    generator = torch.Generator().manual_seed(seed)
    state: Official = {
        name: {
            "A": torch.randn(rank, d_in, generator=generator),
            "B": torch.randn(d_out, rank, generator=generator) * 0.1,
        }
        for name in (backbone.targets if names is None else names)
        for d_out, d_in in [backbone.sites[name].shape]
    }
    products = torch.cat([(pair["B"] @ pair["A"]).abs().flatten() for pair in state.values()])
    shared = torch.quantile(products[:65536], 1 - density)
    for name, pair in state.items():
        tau = shared if taus is None else torch.tensor(taus[name])
        pair["log_threshold"] = tau.log()
    return state


def merged_delta(entry: Mapping[str, Tensor], scale: float) -> Tensor:
    """What merging adds to the weight: gate the unscaled product, then scale. [d_out, d_in]."""
    product = entry["B"] @ entry["A"]
    if "log_threshold" not in entry:
        return product * scale
    return scale * product * (product.abs() > entry["log_threshold"].exp()).float()


def save_official(path: Path, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint as the official code does."""
    torch.save(dict(state), path)
    return path


def save_peft(
    folder: Path, backbone: Backbone, *, seed: int = 0, rank: int = 4, **config: Any
) -> dict[str, tuple[Tensor, Tensor]]:
    """Write a PEFT folder by hand and return its factors by target."""
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: (
            torch.randn(rank, d_in, generator=generator),
            torch.randn(d_out, rank, generator=generator) * 0.1,
        )
        for name, (d_out, d_in) in backbone.targets.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, (factor_a, factor_b) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = factor_a
        tensors[f"base_model.model.{name}.lora_B.weight"] = factor_b
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    written = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "bias": "none",
        "target_modules": ["q", "v"],
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return factors


class RunsCode:
    """Unpickled without care, this would run a command that leaves `WAS_RUN`."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {WAS_RUN}",)
