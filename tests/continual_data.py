"""A small benchmark: four tasks of two or three words each, in the layout of a data folder."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from jumplora_adapters.continual.config import ContinualConfig
from jumplora_adapters.training.config import GateConfig, Lengths, Optimisation

TASKS = {
    "mood": ("Is it good?", {"yes": "good", "no": "bad"}),
    "medium": ("What is it?", {"film": "film", "book": "book"}),
    "place": ("Where is it?", {"city": "city", "river": "river", "world": "world"}),
    "colour": ("Which colour?", {"red": "red", "blue": "blue"}),
}
ORDER = ("mood", "medium", "place", "colour")


def write_benchmark(folder: Path, *, train: int = 24, test: int = 8) -> Path:
    """Rows whose label is named by one word of the text."""
    tasks = {}
    for name, (instruction, words) in TASKS.items():
        tasks[name] = {"instruction": instruction, "options": list(words)}
        (folder / name).mkdir(parents=True)
        for split, count in (("train", train), ("dev", test), ("test", test)):
            chooser = random.Random(f"{name}/{split}")
            lines = []
            for _ in range(count):
                label = chooser.choice(list(words))
                text = chooser.choices(["the", "of", "this", "was"], k=chooser.randint(1, 4))
                text.insert(chooser.randrange(len(text) + 1), words[label])
                lines.append(json.dumps({"text": " ".join(text), "label": label}))
            path = folder / name / f"{split}.jsonl"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {"tasks": tasks, "orders": {"order1": list(ORDER), "order2": list(ORDER[::-1])}}
    (folder / "tasks.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def short_run(backbone: Path, data: Path, out: Path, **changes: Any) -> ContinualConfig:
    """All four tasks, gated, 8 steps each: a few seconds of work on a random T5."""
    settings: dict[str, Any] = {
        "backbone": str(backbone),
        "data": data,
        "order": "order1",
        "method": "inclora",
        "out": out,
        "gate": GateConfig(),
        "rank": 2,
        "optimisation": Optimisation(learning_rate=0.02, epochs=2, batch_size=6),
        "lengths": Lengths(source=64, target=4),
        "threads": 1,
        "device": "cpu",
    }
    return ContinualConfig(**{**settings, **changes})
