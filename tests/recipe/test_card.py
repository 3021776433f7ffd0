"""The demo's baselines and model card: figures worked out by hand, and a floor that is missed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import T5ForConditionalGeneration

from demo.recipe import baselines, card
from demo.recipe.baselines import Backbone, Rows, exact_match, linear_classifier, read_rows
from demo.recipe.card import FLOORS, MARGIN, SOURCES, Result, read_results
from factories import random_adapter, tiny_t5
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.format import Adapter, read_adapter, write_adapter
from jumplora_adapters.manifest import Calibration, ChoicesSpec
from jumplora_adapters.overlap import overlaps, supports_of
from jumplora_adapters.store import Store

TASK: dict[str, object] = {
    "instruction": "Good or bad?",
    "options": ["good", "bad"],
    "template": "{instruction}\nOptions: {options}\nText: {text}\nAnswer:",
}


def test_answers_match_but_for_case_and_blanks() -> None:
    assert exact_match(["A  b", "c", "x"], ["a B ", "d", "X"]) == pytest.approx(200 / 3)


def test_rows_are_read_whatever_the_task_calls_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n{"input": "c", "target": "d"}\n')
    assert read_rows(path) == Rows(["a", "c"], ["b", "d"])


def test_a_sample_repeats_and_keeps_pairs() -> None:
    rows = Rows([str(n) for n in range(50)], [f"answer {n}" for n in range(50)])
    few = rows.sample(10)
    assert few == rows.sample(10)
    assert len(few.texts) == 10
    assert all(
        answer == f"answer {text}" for text, answer in zip(few.texts, few.answers, strict=True)
    )
    assert rows.sample(50) == rows


def test_a_linear_classifier_learns_words() -> None:
    rng = random.Random(0)

    def rows(count: int) -> Rows:
        labels = [rng.choice(("up", "down")) for _ in range(count)]
        return Rows([f"the price goes {label} today" for label in labels], labels)

    assert linear_classifier(rows(40), rows(20)) == 100.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_t5(tmp_path_factory.mktemp("recipe") / "backbone")


def test_a_prompt_keeps_its_answer_mark(folder: Path) -> None:
    backbone = Backbone(folder, TASK)
    ids, mask = backbone.prompts(["good film", "good " * 900])
    tail = [*backbone._ids("\nAnswer:"), 1]
    assert ids.shape == mask.shape
    assert ids.shape[1] == 256
    for row, row_mask in zip(ids, mask, strict=True):
        prompt = row[row_mask.bool()].tolist()
        assert prompt[-len(tail) :] == tail
        head = backbone._ids("Good or bad?\nOptions: good | bad\nText: ")
        assert prompt[: len(head)] == head
    assert (ids[0, mask[0] == 0] == 0).all()


def test_the_best_option_is_the_likeliest(folder: Path) -> None:
    backbone = Backbone(folder, TASK)
    texts = ["the film is good", "a bad book", "one two three four five"]
    found = backbone.best_options(texts)
    model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    for text, option in zip(texts, found, strict=True):
        ids, mask = backbone.prompts([text])
        likelihoods = {}
        for each in backbone.options:
            labels = torch.tensor([[*backbone._ids(each), 1]])
            with torch.no_grad():
                loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            likelihoods[each] = -float(loss) * labels.shape[1]
        assert option == max(likelihoods, key=likelihoods.__getitem__)


def test_a_task_is_measured(folder: Path, tmp_path: Path) -> None:
    task = tmp_path / "toy"
    task.mkdir()
    (task / "task.json").write_text(json.dumps(TASK))
    rows = ["good"] * 6 + ["bad"] * 4
    for split in ("train", "dev", "test"):
        lines = [json.dumps({"text": f"a {label} film", "label": label}) for label in rows]
        (task / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    found = baselines.measure(task, folder)
    assert (found["task"], found["train_rows"], found["backbone_rows"]) == ("toy", 10, 10)
    assert found["majority"] == 60.0
    assert found["tfidf_logistic_regression"] == 100.0
    assert 0 <= float(found["backbone_greedy"]) <= 100
    (task / "task.json").write_text(json.dumps({**TASK, "options": []}))
    free = baselines.measure(task, folder)
    assert "tfidf_logistic_regression" not in free
    assert "backbone_best_option" not in free


BASELINE = {
    "task": "agnews", "train_rows": 100, "test_rows": 20, "majority": 25.0, "backbone_rows": 20,
    "backbone_greedy": 1.0, "backbone_best_option": 30.0, "tfidf_logistic_regression": 80.25,
}  # fmt: skip


def adapter(folder: Path, task: str, score: float) -> Adapter:
    manifest, deltas = random_adapter(read_backbone(folder), task=task, seed=1)
    scored = manifest.model_copy(update={"scores": {"test_exact_match": score}})
    return Adapter(scored, deltas, "x")


@pytest.mark.parametrize(
    ("task", "score", "missed"),
    [
        pytest.param("agnews", 0.46, [], id="above all"),
        pytest.param("agnews", 0.44, ["the bare backbone"], id="15 points over 30"),
        pytest.param("agnews", 0.39, ["the bare backbone", "the majority class"], id="and over 25"),
        pytest.param("dbpedia", 0.87, ["its own floor"], id="a floor of its own"),
    ],
)
def test_floors(task: str, score: float, missed: list[str], folder: Path) -> None:
    found = Result(adapter(folder, task, score), {**BASELINE, "task": task}).misses()
    assert len(found) == len(missed)
    for told, name in zip(found, missed, strict=True):
        assert told.startswith(f"{task}: {100 * score:.1f} is under ")
        assert told.endswith(f"({name})")
    assert FLOORS.keys() <= SOURCES.keys()
    assert MARGIN == 15


def test_free_answers_have_no_best_option(folder: Path) -> None:
    free = {
        k: v
        for k, v in BASELINE.items()
        if k not in ("backbone_best_option", "tfidf_logistic_regression")
    }
    result = Result(adapter(folder, "years", 0.5), free)
    assert result.bare == 1.0
    assert "| years | 100 / 20 | **50.0** | 1.0 / - | 25.0 | - |" in card.score_table([result])


def test_tables(folder: Path) -> None:
    result = Result(adapter(folder, "agnews", 0.856), BASELINE)
    scores = card.score_table([result]).splitlines()
    assert scores[2] == "| agnews | 100 / 20 | **85.6** | 1.0 / 30.0 | 25.0 | 80.2 |"
    adapters = card.adapter_table([result]).splitlines()[2]
    nonzeros = sum(delta.nnz for delta in result.adapter.deltas.values())
    assert f"| {nonzeros:,} |" in adapters
    assert adapters.endswith(f"| {SOURCES['agnews']} |")
    for table in (scores, card.adapter_table([result]).splitlines()):
        assert len({line.count("|") for line in table}) == 1
    supports = supports_of(result.adapter.deltas)
    (pair,) = overlaps({"a": supports, "b": supports})
    told = card.overlap_table([pair]).splitlines()[2]
    assert told == f"| a, b | 1.000 | {pair.chance:.3f} |", "the same support twice"


def test_calibrations_stand_beside_what_test_rows_say(folder: Path, tmp_path: Path) -> None:
    made = Calibration(
        dtype="int8",
        is_folded=False,
        options="ab" * 32,
        temperature=1.295,
        rows=500,
        error=0.05,
        error_before=0.1111,
    )
    plain = adapter(folder, "agnews", 0.5)
    manifest = plain.manifest.model_copy(update={"choices": ChoicesSpec(calibrations=(made,))})
    coverage = [{"accuracy": 0.9, "share": 0.8}, {"accuracy": 0.95, "share": 0.314}]
    measured = {"rows": 1600, "choices": {"calibration_error": 0.0314, "coverage": coverage}}
    (tmp_path / "agnews-int8.json").write_text(json.dumps(measured))
    results = [
        Result(Adapter(manifest, plain.deltas, "x"), BASELINE),
        Result(adapter(folder, "years", 0.5), BASELINE),
    ]
    lines = card.calibration_table(results, tmp_path).splitlines()
    assert lines[2:] == ["| agnews | int8 | 1.29 | 500 | 0.111 / 0.050 | 1600 | 0.031 | 31% |"]
    assert len({line.count("|") for line in lines}) == 1


def test_results_are_those_of_the_store(folder: Path, tmp_path: Path) -> None:
    backbone = read_backbone(folder)
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store")
    made = adapter(folder, "agnews", 0.5)
    path = tmp_path / "agnews.safetensors"
    write_adapter(path, made.manifest, made.deltas)
    store.publish(path, backbone)
    measured = tmp_path / "baselines.json"
    measured.write_text(json.dumps([BASELINE, {**BASELINE, "task": "not published"}]))
    (result,) = read_results(backbone, store, measured)
    assert (result.task, result.score) == ("agnews", 50.0)
    assert result.baseline == BASELINE


def test_the_demos_card_is_made_of_its_store() -> None:
    """Figures of the committed card's adapters are those of the committed files."""
    demo = card.DEMO
    backbone, store = read_backbone(demo / "backbone"), Store(demo / "store")
    text = (demo / "README.md").read_text(encoding="utf-8")
    results = [
        Result(read_adapter(store.path_of(store.current(task)), backbone), {})
        for task in store.tasks()
    ]
    for line in card.adapter_table(results).splitlines():
        assert line in text
    for result in results:
        choices = result.adapter.manifest.choices
        assert choices is not None
        for made in choices.calibrations:
            fit = (
                f"{made.temperature:.2f} | {made.rows} | {made.error_before:.3f} / {made.error:.3f}"
            )
            assert f"| {result.task} | {made.dtype} | {fit} | " in text
        assert f"| {result.task} | " in text
        assert f"**{result.score:.1f}**" in text
