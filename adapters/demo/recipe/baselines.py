"""What a task scores without an adapter: majority class, TF-IDF with logistic regression, backbone.

An adapter earns its place by beating all of these on the same test rows, so the numbers are
written beside the task's own.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5ForConditionalGeneration

SEED = 0
BACKBONE_ROWS = 400
BATCH_ROWS = 20
PROMPT_IDS = 256
TAIL = "\nAnswer:"


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts with their answers, whatever the task calls them."""

    texts: list[str]
    answers: list[str]

    def sample(self, most: int) -> "Rows":
        places = list(range(len(self.texts)))
        if len(places) > most:
            places = random.Random(SEED).sample(places, most)
        return Rows([self.texts[i] for i in places], [self.answers[i] for i in places])


def read_rows(path: Path) -> Rows:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [row.get("text", row.get("input")) for row in rows]
    return Rows(texts, [row.get("label", row.get("target")) for row in rows])


def folded(answer: str) -> str:
    return " ".join(answer.lower().split())


def exact_match(given: Sequence[str], wanted: Sequence[str]) -> float:
    """Percent, after lower-casing and folding white space."""
    pairs = zip(given, wanted, strict=True)
    return 100 * sum(folded(a) == folded(b) for a, b in pairs) / len(wanted)


def linear_classifier(train: Rows, test: Rows) -> float:
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=1000, random_state=SEED),
    )
    model.fit(train.texts, train.answers)
    return exact_match(list(model.predict(test.texts)), test.answers)


class Backbone:
    """The bare backbone behind the task's prompt; text is cut so that `Answer:` survives."""

    def __init__(self, folder: Path, task: dict[str, object]) -> None:
        self._model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self._model.eval()
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        options = task["options"]
        self.options: list[str] = options if isinstance(options, list) else []
        self._head = str(task["template"]).split("{text}")[0]
        self._head = self._head.replace("{instruction}", str(task["instruction"]))
        self._head = self._head.replace("{options}", " | ".join(self.options))

    def prompts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Padded ids and their mask, [rows, ids]."""
        head, tail = self._ids(self._head), [*self._ids(TAIL), 1]
        room = PROMPT_IDS - len(head) - len(tail)
        prompts = [head + self._ids(text)[:room] + tail for text in texts]
        ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        return ids, (ids != 0).long()

    @torch.inference_mode()
    def greedy(self, texts: Sequence[str], most: int) -> list[str]:
        ids, mask = self.prompts(texts)
        made = self._model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=most, do_sample=False
        )
        answers: list[str] = self._tokenizer.batch_decode(made, skip_special_tokens=True)
        return answers

    @torch.inference_mode()
    def best_options(self, texts: Sequence[str]) -> list[str]:
        """The option of the highest total log-probability for each text."""
        ids, mask = self.prompts(texts)
        encoded = self._model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        scores = []
        for option in self.options:
            label = torch.tensor([[*self._ids(option), 1]]).repeat(len(texts), 1)
            logits = self._model(
                encoder_outputs=(encoded,), attention_mask=mask, labels=label
            ).logits
            chosen = logits.log_softmax(-1).gather(-1, label[..., None])  # [rows, ids, 1]
            scores.append(chosen.sum((1, 2)))
        best = torch.stack(scores, 1).argmax(1)
        return [self.options[place] for place in best.tolist()]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def measure(folder: Path, backbone_folder: Path) -> dict[str, float | int | str]:
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    train, test = read_rows(folder / "train.jsonl"), read_rows(folder / "test.jsonl")
    usual = Counter(train.answers).most_common(1)[0][0]
    figures: dict[str, float | int | str] = {
        "task": folder.name,
        "train_rows": len(train.texts),
        "dev_rows": len(read_rows(folder / "dev.jsonl").texts),
        "test_rows": len(test.texts),
        "majority": exact_match([usual] * len(test.answers), test.answers),
    }
    if task["options"]:
        figures["tfidf_logistic_regression"] = linear_classifier(train, test)
    backbone, few = Backbone(backbone_folder, task), test.sample(BACKBONE_ROWS)
    free: list[str] = []
    chosen: list[str] = []
    for start in track(range(0, len(few.texts), BATCH_ROWS), f"bare backbone, {folder.name}"):
        texts = few.texts[start : start + BATCH_ROWS]
        free += backbone.greedy(texts, 20)
        if backbone.options:
            chosen += backbone.best_options(texts)
    figures["backbone_rows"] = len(few.texts)
    figures["backbone_greedy"] = exact_match(free, few.answers)
    if backbone.options:
        figures["backbone_best_option"] = exact_match(chosen, few.answers)
    return {k: round(v, 2) if isinstance(v, float) else v for k, v in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", type=Path, help="the folder tasks.py wrote")
    parser.add_argument("backbone", type=Path)
    parser.add_argument("--output", type=Path, help="a JSON file; printed in any case")
    arguments = parser.parse_args()
    folders = sorted(path.parent for path in arguments.tasks.glob("*/task.json"))
    measured = [measure(folder, arguments.backbone) for folder in folders]
    text = json.dumps(measured, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
