"""Orders and tasks of a data folder, and everything that is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from continual_data import ORDER, write_benchmark
from jumplora_adapters.continual.tasks import read_order, read_task
from jumplora_adapters.errors import DataError
from jumplora_adapters.tokenizer import load_tokenizer
from jumplora_adapters.training.config import Lengths


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_benchmark(tmp_path / "data")


def test_an_order_is_named_or_listed(data: Path) -> None:
    assert read_order(data, "order1").tasks == ORDER
    assert read_order(data, "place, mood").tasks == ("place", "mood")
    assert read_order(data, "mood").tasks == ("mood",)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("order3", "order 'order3' is neither an order of .*order1, order2.*close to it: order"),
        ("mood,mediun", "names task 'mediun'.*did you mean medium"),
        ("mood,place,mood", "names a task twice"),
        ("mood,", "names task ''"),
    ],
)
def test_what_is_no_order(data: Path, order: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_order(data, order)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"orders": {}}', '{"tasks": {}, "orders": {"a": "b"}}']
)
def test_what_is_no_catalogue(tmp_path: Path, content: str) -> None:
    (tmp_path / "tasks.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"tasks\.json"):
        read_order(tmp_path, "a")


def test_no_catalogue_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tasks\.json.*No such file"):
        read_order(tmp_path / "nowhere", "a")


def _read(data: Path, backbone: Path, name: str = "mood", **rows: int | None) -> object:
    counts: dict[str, int | None] = {"train_rows": None, "score_rows": None, **rows}
    return read_task(
        data, name, "test", load_tokenizer(backbone), 1, Lengths(64, 4),
        train_rows=counts["train_rows"], score_rows=counts["score_rows"],
    )  # fmt: skip


def test_rows_are_drawn_alike_every_time(data: Path, backbone_folder: Path) -> None:
    first = _read(data, backbone_folder, train_rows=5, score_rows=100)
    assert first == _read(data, backbone_folder, train_rows=5, score_rows=100)
    whole = _read(data, backbone_folder)
    assert len(first.train.examples) == 5  # type: ignore[attr-defined]
    assert set(first.train.examples) < set(whole.train.examples)  # type: ignore[attr-defined]
    assert first.scored == whole.scored  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: (data / "mood/train.jsonl").unlink(), "neither train.jsonl nor"),
        (lambda data: (data / "mood/test.jsonl").write_text(""), "has no rows"),
        (
            lambda data: (data / "mood/test.jsonl").write_text('{"text": "a", "label": "maybe"}\n'),
            'test.jsonl: line 1: label "maybe" is none of the options yes | no',
        ),
        (
            lambda data: (data / "mood/train.jsonl").write_text("{\n"),
            "train.jsonl: line 1: not JSON",
        ),
    ],
    ids=["missing", "empty", "label", "json"],
)
def test_what_is_wrong_is_told_with_file_and_line(
    data: Path, backbone_folder: Path, spoil: object, message: str
) -> None:
    spoil(data)  # type: ignore[operator]
    with pytest.raises(DataError, match=message.replace("|", r"\|")):
        _read(data, backbone_folder)


def test_a_long_text_is_cut_and_the_prompts_end_survives(data: Path, backbone_folder: Path) -> None:
    long = json.dumps({"text": "film " * 500 + "good", "label": "yes"})
    (data / "mood/train.jsonl").write_text(long + "\n", encoding="utf-8")
    task = read_task(
        data, "mood", "test", load_tokenizer(backbone_folder), 1, Lengths(64, 4),
        train_rows=None, score_rows=None,
    )  # fmt: skip
    source = task.train.examples[0].source
    text = load_tokenizer(backbone_folder).decoder.decode(list(source))
    assert len(source) <= 64
    assert text.startswith("Task Instruction: Is it good?")
    assert text.endswith("Answer:")
