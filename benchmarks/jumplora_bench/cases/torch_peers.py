"""transformers' generate, bare and with PEFT's mixed LoRA batch, in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from jumplora_adapters.delta import LowRankDelta
from jumplora_adapters.format import Adapter
from jumplora_bench.cases.case import Lap, Work
from jumplora_bench.extra import peer

RANK = 8
BEAMS = 4
BARE = "transformers bare"
BEAMS_CASE = f"transformers {BEAMS} beams"
ALL_LINEAR = "PEFT mixed all-linear"


class GenerateCase:
    """`model.generate` over all prompts; `options` go to it."""

    def __init__(self, name: str, model: Any, work: Work, **options: Any) -> None:
        self.name = name
        self._model = model
        self._prompts = torch.tensor(work.prompts, device=work.device)
        self._work = work
        self._options = options

    def run(self) -> Lap:
        """One generation, greedy where the options do not say otherwise."""
        began = time.perf_counter()
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=self._prompts,
                max_new_tokens=self._work.new,
                do_sample=False,
                **{"num_beams": 1, **self._options},
            )
        if self._work.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        return Lap(seconds, tuple(tuple(row) for row in out[:, 1:].tolist()))


def transformers_bare(work: Work, model: Any) -> GenerateCase:
    """The backbone alone."""
    return GenerateCase(BARE, model, work)


def transformers_beams(work: Work, model: Any) -> GenerateCase:
    """The backbone alone, with beams."""
    return GenerateCase(BEAMS_CASE, model, work, num_beams=BEAMS)


def peft_mixed(work: Work, dtype: torch.dtype) -> GenerateCase:
    """One LoRA (r = 8, every q and v) a row, chosen by `adapter_names`."""
    names = [f"task{row}" for row in range(work.rows)]
    model = _wrapped(work, dtype, names, target_modules=["q", "v"], lora_alpha=32)
    return GenerateCase("PEFT mixed", model, work, adapter_names=names)


def peft_all_linear(work: Work, dtype: torch.dtype, adapters: Sequence[Adapter]) -> GenerateCase:
    """The same for every linear layer but the head, with the factors of these adapters."""
    names = [f"task{row}" for row in range(work.rows)]
    model = _wrapped(work, dtype, names, target_modules="all-linear", lora_alpha=RANK)
    layers = dict(model.base_model.model.named_modules())
    for name, adapter in zip(names, adapters, strict=True):
        for module, delta in adapter.deltas.items():
            assert isinstance(delta, LowRankDelta)
            layers[module].lora_A[name].weight.data.copy_(delta.A)
            layers[module].lora_B[name].weight.data.copy_(delta.B)
    return GenerateCase(ALL_LINEAR, model, work, adapter_names=names)


def _wrapped(work: Work, dtype: torch.dtype, names: Sequence[str], **options: Any) -> Any:
    """The backbone with a new LoRA of each name."""
    peft = peer("peft")
    config = peft.LoraConfig(r=RANK, task_type="SEQ_2_SEQ_LM", **options)
    model = peft.get_peft_model(load_model(work, dtype), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    return model.to(device=work.device, dtype=dtype).eval()


def load_model(work: Work, dtype: torch.dtype) -> Any:
    """transformers' model of the backbone, whose answers have all of their tokens."""
    transformers = peer("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    model = transformers.T5ForConditionalGeneration.from_pretrained(work.backbone, dtype=dtype)
    model.generation_config.eos_token_id = None  # every row generates exactly `new` tokens
    return model.to(work.device).eval()
