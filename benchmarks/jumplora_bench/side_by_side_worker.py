"""One checkout's engine, a lap for each line that it is sent; `side_by_side` starts two of these.

Uses only what both checkouts have: the first line on stdin is the job as JSON, the answer to it
`{"cases", "imported"}` once all is built. Then each line is a case's name, answered by `{"seconds",
"encode_seconds", "tokens"}`. The end of stdin ends it.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any


def build(job: dict[str, Any]) -> dict[str, Any]:
    """The cases by name."""
    import torch

    from jumplora_adapters.backbone import read_backbone
    from jumplora_bench.cases.case import Work
    from jumplora_bench.fleet import Fleet
    from jumplora_bench.prompts import random_prompts
    from jumplora_bench.shapes import config_of

    torch.set_num_threads(job["threads"])
    backbone = Path(job["backbone"])
    work = Work(
        backbone=backbone,
        prompts=random_prompts(8, 128, config_of(job["shape"])["vocab_size"]),
        new=16,
        threads=job["threads"],
        device="cpu",
    )
    fleet = Fleet(work, read_backbone(backbone), job["dtypes"], _is_small)
    return {case.name: case for case in fleet.cases()}


def _is_small(name: str) -> bool:
    """Whether two engines hold this case beside each other: many adapters are left out."""
    return not any(word in name for word in (" rows ", " depths of ", " chains of ", " unfolded"))


def main() -> None:
    """Serve laps until stdin ends. Only answers go to the real stdout."""
    answers, sys.stdout = sys.stdout, sys.stderr
    cases = build(json.loads(sys.stdin.readline()))
    import jumplora_server.engine.engine as engine

    ready = {"cases": list(cases), "imported": engine.__file__}
    print(json.dumps(ready), file=answers, flush=True)
    gc.collect()
    gc.freeze()  # a collection walks no object of what was built
    for line in sys.stdin:
        gc.collect()
        lap = cases[line.rstrip("\n")].run()
        answer = {
            "seconds": lap.seconds,
            "encode_seconds": lap.encode_seconds,
            "tokens": lap.tokens,
        }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
