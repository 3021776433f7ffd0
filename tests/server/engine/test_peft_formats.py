"""What PEFT saves, served: the tokens of PEFT's own `generate`, all kinds in one mixed batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from decoding import make_sequence, oracle, run
from factories import Style, tiny_t5, write_random_adapter
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.convert.draft import Draft
from jumplora_adapters.format import Adapter, read_adapter
from jumplora_server.core import Kernels
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.native.library import why_unavailable
from peft_folders import change_tensors, convert, load_model, peft, save_adapted

native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
KERNELS = [pytest.param("native", marks=native), "torch"]
TOKENS = 12
# Two computations of one float32 logit differ in its last bits: below this, the choice is a tie.
TIE = 2e-4

FEED_FORWARD = ["wi", "wi_0", "wi_1"]
LORA: dict[str, dict[str, Any]] = {
    "q and v, rank 1": {"r": 1, "target_modules": ["q", "v"]},
    "q and v, rank 64": {"r": 64, "target_modules": ["q", "v"]},
    "all-linear": {"r": 8, "target_modules": "all-linear"},
    "all-linear, rsLoRA": {"r": 16, "target_modules": "all-linear", "use_rslora": True},
    "k and o": {"r": 4, "target_modules": ["k", "o"]},
    "wide": {"r": 4, "target_modules": FEED_FORWARD},
    "narrow": {"r": 2, "target_modules": ["wo"]},
    "head": {"r": 8, "target_modules": ["lm_head"]},
    "head and q, rsLoRA": {"r": 4, "target_modules": ["q", "lm_head"], "use_rslora": True},
    "all and the head": {
        "r": 32, "target_modules": ["q", "k", "v", "o", *FEED_FORWARD, "wo", "lm_head"],
    },
    "decoder by expression": {"r": 4, "target_modules": r"decoder\..*\.(wo|wi.*)"},
    "encoder by expression": {"r": 4, "target_modules": r"encoder\..*SelfAttention\.[qkvo]"},
    "cross-attention": {"r": 4, "target_modules": r".*EncDecAttention\.(k|v|o)"},
    "one layer": {"r": 4, "target_modules": ["q", "wo"], "layers_to_transform": [1]},
    "one layer of a list": {
        "r": 4, "target_modules": ["k", "o"], "layers_to_transform": 0, "layers_pattern": "block",
    },
    "excluded by expression": {
        "r": 4, "target_modules": "all-linear", "exclude_modules": r"encoder\..*",
    },
    "excluded by name": {
        "r": 4, "target_modules": ["q", "k", "wo"], "exclude_modules": ["EncDecAttention.q"],
    },
    "ranks": {"r": 4, "target_modules": ["q", "o"], "rank_pattern": {"o": 9, "0.*.q": 2}},
    "alphas": {"r": 4, "target_modules": ["q", "o"], "alpha_pattern": {"o": -3, r"decoder.*q": 9}},
    "ranks, alphas, rsLoRA": {
        "r": 4, "target_modules": ["wo", "lm_head"], "rank_pattern": {"lm_head": 16},
        "alpha_pattern": {"wo": 2.5}, "use_rslora": True,
    },
    "bfloat16": {"r": 8, "target_modules": ["k", "wo", "lm_head"]},
    "float16": {"r": 8, "target_modules": "all-linear"},
}  # fmt: skip
SPARSE: dict[str, Any] = {
    "SHiRA": peft.ShiraConfig(r=4, target_modules=["q", "v"]),
    "SHiRA everywhere": peft.ShiraConfig(r=2, target_modules="all-linear", random_seed=7),
    "SHiRA, head": peft.ShiraConfig(r=8, target_modules=["lm_head", "o"]),
    "Super": peft.SupertuningConfig(sparsity=0.9, target_modules=["q", "k", "wo", "lm_head"]),
    "Super, the smallest": peft.SupertuningConfig(
        sparsity=0.6, select_top=False, target_modules="all-linear"
    ),
    "Supra": peft.SupertuningConfig(sparsity=0.9, r=4, target_modules=["q", "v", "lm_head"]),
    "Supra everywhere": peft.SupertuningConfig(
        sparsity=0.95, r=2, lora_alpha=3, target_modules="all-linear"
    ),
}
FEW = ("all-linear", "head and q, rsLoRA", "SHiRA, head", "Supra")


@dataclass(frozen=True)
class Served:
    """One folder, converted, with PEFT's tokens of one prompt and how sure it was of each."""

    name: str
    adapter: Adapter
    prompt: list[int]
    tokens: list[int]
    scores: list[torch.Tensor]


def _prompt(seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [*torch.randint(3, 300, (4 + 5 * (seed % 7),), generator=generator).tolist(), 1]


def _save(backbone: Backbone, folder: Path, name: str) -> None:
    config = SPARSE[name] if name in SPARSE else peft.LoraConfig(**LORA[name])
    save_adapted(backbone, folder, config, scale=0.3)
    if name in ("bfloat16", "float16"):
        dtype = getattr(torch, name)
        change_tensors(folder, lambda state: {n: t.to(dtype) for n, t in state.items()})


@torch.inference_mode()
def _generated_by_peft(
    backbone: Backbone, folder: Path, prompt: list[int]
) -> tuple[list[int], list[torch.Tensor]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, about tied heads
        model = peft.PeftModel.from_pretrained(load_model(backbone), folder).eval()
        made = model.generate(
            input_ids=torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False, num_beams=1,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    return made.sequences[0].tolist()[1:], [logits[0] for logits in made.logits]


def _serve(backbone: Backbone, folder: Path, names: Sequence[str]) -> list[Served]:
    served = []
    for number, name in enumerate(names):
        home = folder / str(number)
        _save(backbone, home / "peft", name)
        draft = Draft(task=f"task-{number}", created="2026-01-01T00:00:00Z")
        converted = convert(backbone, home / "peft", draft)
        assert converted.warnings == (), name
        prompt = _prompt(number)
        tokens, scores = _generated_by_peft(backbone, home / "peft", prompt)
        adapter = read_adapter(converted.path, backbone)
        served.append(Served(name, adapter, prompt, tokens, scores))
    return served


def _check_mixed(backbone: Backbone, kernels: Kernels, served: list[Served], folder: Path) -> None:
    """All folders, two masked adapters and the bare backbone in one batch."""
    rows = len(served) + 4
    engine = Engine(
        backbone.path, dtype="float32", max_rows=rows, max_source_tokens=64,
        max_target_tokens=16, kernels=kernels,
    )  # fmt: skip
    sequences = [
        make_sequence(one.prompt, row=row, slots=(engine.install(engine.pack(one.adapter)),))
        for row, one in enumerate(served)
    ]
    masked = [
        read_adapter(write_random_adapter(folder, backbone, task=f"m{seed}", seed=seed), backbone)
        for seed in (1, 2)
    ]
    slots = [engine.install(engine.pack(adapter)) for adapter in masked]
    lineages: list[tuple[int, ...]] = [(), (slots[0],), tuple(slots), ()]
    mates = [
        make_sequence(_prompt(90 + i), row=len(served) + i, slots=lineage)
        for i, lineage in enumerate(lineages)
    ]
    # Neighbours of all kinds: each other row is another's.
    mixed = [s for pair in zip(sequences, mates, strict=False) for s in pair]
    run(engine, [*mixed, *sequences[len(mates) :]])
    ties = 0
    for one, sequence in zip(served, sequences, strict=True):
        ties += _is_tie(one, sequence.output)
    assert ties <= len(served) // 10, "that many ties would hide a fault"
    deltas = [dict(adapter.deltas) for adapter in masked]
    for mate, expected in zip(mates, ([], deltas[:1], deltas, []), strict=True):
        assert mate.output == oracle(backbone.path, mate.encoding.prompt, expected)


def _is_tie(one: Served, tokens: list[int]) -> bool:
    """False for PEFT's tokens, True where they part at a tie; anything else fails."""
    if tokens == one.tokens:
        return False
    place = next(i for i, (a, b) in enumerate(zip(tokens, one.tokens, strict=False)) if a != b)
    chosen, other = one.scores[place][one.tokens[place]], one.scores[place][tokens[place]]
    assert float(chosen - other) < TIE, f"{one.name}: {tokens} are not PEFT's {one.tokens}"
    return True


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Backbone, list[Served]]:
    folder = tmp_path_factory.mktemp("few")
    backbone = read_backbone(tiny_t5(folder / "t5", style="v1.0", seed=3))
    return backbone, _serve(backbone, folder, FEW)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_few_kinds_in_one_batch(
    few: tuple[Backbone, list[Served]], kernels: Kernels, tmp_path: Path
) -> None:
    backbone, served = few
    _check_mixed(backbone, kernels, served, tmp_path)
    assert len({tuple(one.tokens) for one in served}) == len(served), "no contrast"


@pytest.fixture(scope="module", params=["v1.0", "v1.1"])
def every(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Backbone, list[Served]]:
    style: Style = request.param
    folder = tmp_path_factory.mktemp("every")
    backbone = read_backbone(tiny_t5(folder / "t5", style=style, seed=3))
    return backbone, _serve(backbone, folder, (*LORA, *SPARSE))


@pytest.mark.slow
@pytest.mark.parametrize("kernels", KERNELS)
def test_every_kind_in_one_batch(
    every: tuple[Backbone, list[Served]], kernels: Kernels, tmp_path: Path
) -> None:
    backbone, served = every
    assert len(LORA) >= 20
    _check_mixed(backbone, kernels, served, tmp_path)
    assert len({tuple(one.tokens) for one in served}) > len(served) * 0.9, "no contrast"
