"""CTranslate2 in a process of its own, one round for each line it is sent.

The first line on stdin is the job, JSON; the answer to it is `{}` once the model is loaded. Then
each line "run" is answered by `{"seconds", "tokens"}`. The end of stdin ends it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jumplora_bench.cases.case import Work
from jumplora_bench.cases.ct2_merged import MergedCase


def main() -> None:
    """Serve rounds until stdin ends. Only answers go to the real stdout."""
    answers, sys.stdout = sys.stdout, sys.stderr
    job = json.loads(sys.stdin.readline())
    prompts = tuple(tuple(prompt) for prompt in job["prompts"])
    work = Work(Path(job["backbone"]), prompts, job["new"], job["threads"], "cpu")
    case = MergedCase("restricted", Path(job["model"]), work, job["compute_type"])
    print("{}", file=answers, flush=True)
    for _ in sys.stdin:
        lap = case.run()
        answer = {"seconds": lap.seconds, "tokens": lap.tokens}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
