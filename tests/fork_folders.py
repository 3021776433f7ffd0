"""Folders as two forks of PEFT write them, by hand: the forks need CUDA extensions and do not run.

RoSA: github.com/IST-DASLab/peft-rosa, SFT (SpIEL): github.com/AlanAnsell/peft.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from jumplora_adapters.backbone import Backbone

FRONT = "base_model.model."


def save_rosa(
    folder: Path, backbone: Backbone, sites: list[str], *, r: int = 4, d: float = 0.1, **config: Any
) -> dict[str, Tensor]:
    """Random compressed rows and factors; site -> their sum, in float32."""
    generator = torch.Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    updates: dict[str, Tensor] = {}
    for site in sites:
        d_out, d_in = backbone.sites[site].shape
        updates[site] = torch.zeros(d_out, d_in)
        if d:
            sparse = _random_sparse(d_out, d_in, d, generator).to_sparse_csr()
            values = sparse.values().bfloat16()
            columns = sparse.col_indices().to(torch.int16)  # above 32,767 they turn negative
            tensors |= {
                f"{FRONT}{site}.rosa_spa.values": values,
                f"{FRONT}{site}.rosa_spa.row_offs": sparse.crow_indices().to(torch.int32),
                f"{FRONT}{site}.rosa_spa.col_idx": columns,
                f"{FRONT}{site}.rosa_spa.row_idx": torch.zeros(d_out, dtype=torch.int16),
                f"{FRONT}{site}.rosa_spa.tr_perm": torch.zeros(len(values), dtype=torch.int32),
            }
            rounded = torch.sparse_csr_tensor(
                sparse.crow_indices(), sparse.col_indices(), values.float(), (d_out, d_in)
            )
            updates[site] += rounded.to_dense()
        if r:
            factor_a = torch.randn(r, d_in, generator=generator).bfloat16()
            factor_b = torch.randn(d_out, r, generator=generator).bfloat16()
            tensors |= {
                f"{FRONT}{site}.rosa_A.weight": factor_a,
                f"{FRONT}{site}.rosa_B.weight": factor_b,
            }
            updates[site] += 2 * (factor_b.float() @ factor_a.float())
    settings = {
        "peft_type": "ROSA", "r": r, "d": d, "lora_alpha": 2 * r or 8, "lora_dropout": 0.1,
        "bias": "none", "impl": "auto", "schedule": "wl64", "spa_store_transpose": True,
        "rosa_dtype": "bf16", "grad_acc_mode": "mean_squared", "mask_save_path": "masks",
        "megatron_core": "megatron.core", "init_lora_weights": True, "rank_pattern": {},
        "density_pattern": {}, "alpha_pattern": {}, "target_modules": sites, **config,
    }  # fmt: skip
    write_folder(folder, tensors, settings)
    return updates


def save_sft(
    folder: Path, backbone: Backbone, sites: list[str], *, index: torch.dtype = torch.int32,
    **config: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """Random values at sorted flat indices; site -> the matrix that they are of."""
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    updates: dict[str, Tensor] = {}
    for site in sites:
        updates[site] = _random_sparse(*backbone.sites[site].shape, 0.1, generator)
        indices = updates[site].flatten().nonzero().flatten()
        tensors[f"{FRONT}{site}.sft_delta.values"] = updates[site].flatten()[indices]
        tensors[f"{FRONT}{site}.sft_delta.indices"] = indices.to(index)
    settings = {
        "peft_type": "SFT", "density": 0.1, "selection_algorithm": "rigl", "dtype": "float32",
        "reselection_steps": 20, "dropout": 0.1, "target_modules": ["q", "v"],
        "num_deltas": dict.fromkeys(sites, 102), **config,
    }  # fmt: skip
    write_folder(folder, tensors, settings)
    return updates


def write_folder(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """The two files of a PEFT folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _random_sparse(d_out: int, d_in: int, density: float, generator: torch.Generator) -> Tensor:
    kept = torch.rand(d_out, d_in, generator=generator) < density
    return torch.randn(d_out, d_in, generator=generator) * kept
