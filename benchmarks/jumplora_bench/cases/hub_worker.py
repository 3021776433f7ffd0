"""AdapterHub's mixed batch in an interpreter of its own, one round for each line it is sent.

The package `adapters` pins a transformers that this project does not run on, so this file imports
nothing of ours: `PYTHON hub_worker.py` with an environment that has `adapters` and torch. The first
line on stdin is the job, JSON; the answer to it `{"versions"}` once all is built. Then each line
"run" is answered by `{"seconds", "tokens"}`. The end of stdin ends it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def build(job: dict[str, Any]) -> Any:
    """The model with one LoRA a row active, each row its own (BatchSplit)."""
    import torch
    from adapters.composition import BatchSplit
    from transformers import T5ForConditionalGeneration

    import adapters

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    model: Any = T5ForConditionalGeneration.from_pretrained(job["backbone"])
    adapters.init(model)
    names = [f"task{i}" for i in range(len(job["prompts"]))]
    config = adapters.LoRAConfig(r=job["rank"], alpha=32, attn_matrices=["q", "v"])
    for name in names:
        model.add_adapter(name, config=config)
    model.set_active_adapters(BatchSplit(*names, batch_sizes=[1] * len(names)))
    model.generation_config.eos_token_id = None  # every row generates exactly `new` tokens
    return model.eval()


def main() -> None:
    """Serve rounds until stdin ends. Only answers go to the real stdout."""
    answers, sys.stdout = sys.stdout, sys.stderr
    job = json.loads(sys.stdin.readline())
    import torch
    import transformers

    import adapters

    model = build(job)
    prompts = torch.tensor(job["prompts"])
    versions = {module.__name__: module.__version__ for module in (adapters, transformers, torch)}
    print(json.dumps({"versions": versions}), file=answers, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(prompts, max_new_tokens=job["new"], do_sample=False, num_beams=1)
        seconds = time.perf_counter() - began
        answer = {"seconds": seconds, "tokens": out[:, 1:].tolist()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
