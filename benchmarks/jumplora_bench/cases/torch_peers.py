"""transformers' generate, bare and with PEFT's mixed LoRA batch, in this process."""

from __future__ import annotations

import time
from typing import Any

import torch

from jumplora_bench.cases.case import Lap, Work
from jumplora_bench.extra import peer

RANK = 8
BEAMS = 4
BEAMS_CASE = f"transformers {BEAMS} beams"


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


def transformers_bare(work: Work, dtype: torch.dtype) -> GenerateCase:
    """The backbone alone."""
    return GenerateCase("transformers bare", _model(work, dtype), work)


def transformers_beams(work: Work, dtype: torch.dtype) -> GenerateCase:
    """The backbone alone, with beams."""
    return GenerateCase(BEAMS_CASE, _model(work, dtype), work, num_beams=BEAMS)


def peft_mixed(work: Work, dtype: torch.dtype) -> GenerateCase:
    """One LoRA (r = 8, every q and v) a row, chosen by `adapter_names`."""
    peft = peer("peft")
    config = peft.LoraConfig(
        r=RANK, lora_alpha=32, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM"
    )
    names = [f"task{row}" for row in range(work.rows)]
    wrapped = peft.get_peft_model(_model(work, dtype), config, adapter_name=names[0])
    for name in names[1:]:
        wrapped.add_adapter(name, config)
    wrapped = wrapped.to(device=work.device, dtype=dtype).eval()
    return GenerateCase("PEFT mixed", wrapped, work, adapter_names=names)


def _model(work: Work, dtype: torch.dtype) -> Any:
    transformers = peer("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    model = transformers.T5ForConditionalGeneration.from_pretrained(work.backbone, dtype=dtype)
    model.generation_config.eos_token_id = None  # every row generates exactly `new` tokens
    return model.to(work.device).eval()
