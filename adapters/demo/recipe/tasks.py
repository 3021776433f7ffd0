"""Writes the demo's tasks as folders of train, dev and test rows with a task.json beside them.

dbpedia and agnews come from the benchmark folder (BENCHMARK_DATA), which is research data: their
rows stay outside the project. The others are made from DEMO_TEXT.
"""

import argparse
import gzip
import json
import os
from collections import Counter
from pathlib import Path

from rich.progress import track

from demo.recipe.corpus import text_folder
from demo.recipe.text_tasks import SPLITS, Row, Split, Task, register, subject, years

BENCHMARK_TASKS = ("dbpedia", "agnews")
TEXT_TASKS = (register, subject, years)
PROMPT = "Task Instruction: {instruction}\nOptions: {options}\nText: {text}\nAnswer:"
FREE_PROMPT = "Task Instruction: {instruction}\nText: {text}\nAnswer:"


def benchmark_task(folder: Path, name: str) -> Task:
    described = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))["tasks"][name]
    rows: dict[Split, list[Row]] = {}
    for split in SPLITS:
        with gzip.open(folder / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
            loaded = [json.loads(line) for line in file]
        rows[split] = [{"text": r["text"].strip(), "label": r["label"].strip()} for r in loaded]
    options = tuple(option.strip() for option in described["options"])
    return Task(name, described["instruction"].strip(), options, rows)


def write(task: Task, output: Path) -> None:
    folder = output / task.name
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in task.rows[split]]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    described: dict[str, object] = {
        "instruction": task.instruction,
        "options": task.options or [],
        "template": PROMPT if task.options else FREE_PROMPT,
    }
    (folder / "task.json").write_text(json.dumps(described, indent=2), encoding="utf-8")
    sizes = {split: len(task.rows[split]) for split in SPLITS}
    answers = Counter(row["label"] for row in task.rows["test"])
    print(task.name, sizes, "most frequent in test:", answers.most_common(3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="a folder outside the repository")
    output: Path = parser.parse_args().output
    for name in track(BENCHMARK_TASKS, "benchmark tasks"):
        write(benchmark_task(Path(os.environ["BENCHMARK_DATA"]), name), output)
    for build in track(TEXT_TASKS, "tasks from text"):
        write(build(text_folder()), output)


if __name__ == "__main__":
    main()
