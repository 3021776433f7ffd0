"""Writes the demo's model card from what was measured: no figure on it is typed by hand.

Fails if a task misses its floor, so a demo that does not earn its place cannot be documented.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.format import Adapter, read_adapter
from jumplora_adapters.overlap import PairOverlap, overlaps, supports_of
from jumplora_adapters.store import Store

DEMO = Path(__file__).parents[1]
MARGIN = 15.0  # points above the bare backbone and the majority class
FLOORS = {"dbpedia": 88.0}
SOURCES = {
    "dbpedia": "DBpedia 2014 ontology classes, as in the continual-learning benchmark"
    " (CC BY-SA 3.0, GFDL); the backbone read the texts of its training rows, not their labels",
    "agnews": "AG's corpus of news articles, as in the continual-learning benchmark"
    " (**research use only**)",
    "register": "passages of the pre-training sources; documents of its dev and test rows were"
    " not pre-trained on",
    "subject": "passages of six OpenStax textbooks (CC BY 4.0); sections of its dev and test rows"
    " were not pre-trained on",
    "years": "sentences of textbooks and country profiles, answers found by a rule; documents of"
    " its dev and test rows were not pre-trained on",
}


@dataclass(frozen=True, slots=True)
class Result:
    """One task: its adapter and what stands beside it, in percent of the test rows."""

    adapter: Adapter
    baseline: dict[str, Any]

    @property
    def task(self) -> str:
        """The task id."""
        return self.adapter.manifest.task

    @property
    def score(self) -> float:
        """Exact match of the published adapter on the whole test split."""
        return 100 * self.adapter.manifest.scores["test_exact_match"]

    @property
    def bare(self) -> float:
        """The better of the bare backbone's free answer and its best option."""
        free = float(self.baseline["backbone_greedy"])
        return max(free, float(self.baseline.get("backbone_best_option", 0.0)))

    def misses(self) -> list[str]:
        """The floors that this task does not reach."""
        floors = {
            "its own floor": FLOORS.get(self.task, 0.0),
            "the bare backbone": self.bare + MARGIN,
            "the majority class": float(self.baseline["majority"]) + MARGIN,
        }
        return [
            f"{self.task}: {self.score:.1f} is under {floor:.1f} ({name})"
            for name, floor in floors.items()
            if self.score < floor
        ]


def read_results(backbone: Backbone, store: Store, baselines: Path) -> list[Result]:
    """Every published task with its measured baselines."""
    measured = {entry["task"]: entry for entry in json.loads(baselines.read_text("utf-8"))}
    adapters = [read_adapter(store.path_of(store.current(t)), backbone) for t in store.tasks()]
    return [Result(adapter, measured[adapter.manifest.task]) for adapter in adapters]


def score_table(results: list[Result]) -> str:
    """One row a task: the adapter beside everything it has to beat."""
    lines = [
        "| task | rows train / test | adapter | bare backbone, free / best option | majority"
        " | TF-IDF + logistic regression |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        b = r.baseline
        option = b.get("backbone_best_option")
        bare = f"{b['backbone_greedy']:.1f} / " + ("-" if option is None else f"{option:.1f}")
        linear = b.get("tfidf_logistic_regression")
        lines.append(
            f"| {r.task} | {b['train_rows']} / {b['test_rows']} | **{r.score:.1f}** | {bare}"
            f" | {b['majority']:.1f} | {'-' if linear is None else f'{linear:.1f}'} |"
        )
    return "\n".join(lines)


def adapter_table(results: list[Result]) -> str:
    """One row a task: what the adapter is."""
    lines = [
        "| task | kind | rank | density | non-zeros | file | data |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        deltas = r.adapter.deltas.values()
        nonzeros = sum(delta.nnz for delta in deltas)
        entries = sum(delta.shape[0] * delta.shape[1] for delta in deltas)
        nbytes = sum(delta.nbytes for delta in deltas)
        lines.append(
            f"| {r.task} | {r.adapter.manifest.kind} | {r.adapter.manifest.rank}"
            f" | {nonzeros / entries:.1%} | {nonzeros:,} | {nbytes / 1e6:.2f} MB"
            f" | {SOURCES[r.task]} |"
        )
    return "\n".join(lines)


def calibration_table(results: list[Result], measured: Path) -> str:
    """One row a task and dtype: the fit on dev rows, and what `measured` has of test rows."""
    lines = [
        "| task | dtype | temperature | dev rows | error there, without / with | test rows"
        " | error there | answered at 95 % right |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        choices = r.adapter.manifest.choices
        for made in () if choices is None else choices.calibrations:
            path = measured / f"{r.task}-{made.dtype}.json"
            found = json.loads(path.read_text("utf-8"))
            (share,) = (c["share"] for c in found["choices"]["coverage"] if c["accuracy"] == 0.95)
            lines.append(
                f"| {r.task} | {made.dtype} | {made.temperature:.2f} | {made.rows}"
                f" | {made.error_before:.3f} / {made.error:.3f} | {found['rows']}"
                f" | {found['choices']['calibration_error']:.3f} | {share:.0%} |"
            )
    return "\n".join(lines)


def overlap_table(pairs: list[PairOverlap]) -> str:
    """Jaccard of supports beside its chance level."""
    lines = ["| pair | Jaccard | chance |", "|---|---|---|"]
    lines += [f"| {p.first}, {p.second} | {p.jaccard:.3f} | {p.chance:.3f} |" for p in pairs]
    return "\n".join(lines)


def main() -> None:
    """Check the floors and write README.md beside the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("baselines", type=Path, help="the JSON that baselines.py wrote")
    parser.add_argument("choices", type=Path, help="the folder that calibrate.sh wrote")
    given = parser.parse_args()
    baselines: Path = given.baselines
    backbone = read_backbone(DEMO / "backbone")
    results = read_results(backbone, Store(DEMO / "store"), baselines)
    misses = [miss for result in results for miss in result.misses()]
    if misses:
        sys.exit("not in the demo, below a floor:\n" + "\n".join(misses))
    training = json.loads((DEMO / "backbone" / "training.json").read_text("utf-8"))
    pairs = overlaps({r.task: supports_of(r.adapter.deltas) for r in results})
    template = Template((Path(__file__).parent / "card.md").read_text("utf-8"))
    card = template.substitute(
        scores=score_table(results),
        adapters=adapter_table(results),
        calibrations=calibration_table(results, given.choices),
        overlap=overlap_table(list(pairs)),
        steps=training["steps"],
        tokens=f"{training['encoder_tokens'] / 1e6:.1f}",
        minutes=f"{training['trained_seconds'] / 60:.0f}",
        sample=results[0].baseline["backbone_rows"],
    )
    (DEMO / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
