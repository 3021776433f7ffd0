"""Documents, and the demo's tasks made from them: nothing held out is trained on."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.recipe import tasks as tasks_module
from demo.recipe.corpus import HELD_OUT_PERCENT, SOURCES, Document, read_corpus, read_documents
from demo.recipe.tasks import FREE_PROMPT, PROMPT, benchmark_task, write
from demo.recipe.text_tasks import (
    BOOKS,
    LONGEST,
    REGISTERS,
    SHORTEST,
    SPLITS,
    YEAR,
    Task,
    _Drawn,
    is_prose,
    levelled,
    pieces,
    register,
    split_of,
    years,
)


def write_source(folder: Path, source: str, text: str, name: str = "a") -> None:
    (folder / source).mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / source / f"{name}.txt.gz", "wt", encoding="utf-8") as file:
        file.write(text)


def sentence(words: int, seed: int) -> str:
    rng = random.Random(seed)
    vocabulary = ["river", "old", "bright", "city", "walks", "under", "stone", "music", "two"]
    return " ".join([*(rng.choice(vocabulary) for _ in range(words - 1)), "end."])


def test_documents_are_two_blank_lines_apart_and_keep_their_paragraphs(tmp_path: Path) -> None:
    write_source(tmp_path, "masc", "one\n\ntwo\n\n\n\n\n\nthree\n\n\n", "b")
    write_source(tmp_path, "masc", "zero", "a")
    found = read_documents(tmp_path, "masc")
    assert [document.paragraphs for document in found] == [("zero",), ("one", "two"), ("three",)]
    assert [document.index for document in found] == [0, 1, 2]
    assert {document.title for document in found} == {None}


@pytest.mark.parametrize(
    ("first", "title"),
    [
        pytest.param("Supply and Demand", "Supply and Demand", id="a heading"),
        pytest.param("It is a sentence.", None, id="a sentence"),
        pytest.param("As follows:", None, id="an introduction"),
        pytest.param("x" * 91, None, id="too long"),
    ],
)
def test_a_textbooks_sections_have_titles(first: str, title: str | None, tmp_path: Path) -> None:
    write_source(tmp_path, "openstax_ccby", f"{first}\n\ntext")
    (document,) = read_documents(tmp_path, "openstax_ccby")
    assert document.title == title
    assert document.paragraphs == (("text",) if title else (first, "text"))


def test_a_part_is_held_out_by_name_alone() -> None:
    documents = [Document("masc", index, None, ("x",)) for index in range(3000)]
    held = [document for document in documents if document.is_held_out]
    assert len(held) / 3000 == pytest.approx(HELD_OUT_PERCENT / 100, abs=0.02)
    assert all(Document("masc", d.index, "t", ()).is_held_out for d in held)
    assert not any(Document("dbpedia_text", n, None, ()).is_held_out for n in range(300))


def test_the_corpus_is_cut_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
    (tmp_path / "dbpedia").mkdir()
    with gzip.open(tmp_path / "dbpedia" / "train.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": " a text ", "label": "Plant"}) + "\n")
    for source in SOURCES[:-1]:
        write_source(tmp_path, source, "\n\n\n".join(f"document {n}." for n in range(40)))
    held, seen = (read_corpus(tmp_path, held_out=flag) for flag in (True, False))
    for source in SOURCES[:-1]:
        indices = [document.index for document in (*held[source], *seen[source])]
        assert sorted(indices) == list(range(40))
        assert held[source]
        assert seen[source]
    assert [document.paragraphs for document in seen["dbpedia_text"]] == [("a text",)]
    assert held["dbpedia_text"] == []


def test_dev_and_test_rows_come_from_held_out_documents_alone() -> None:
    documents = [Document("masc", index, None, ()) for index in range(3000)]
    splits = {split: [d for d in documents if split_of(d) == split] for split in SPLITS}
    assert all(not document.is_held_out for document in splits["train"])
    assert all(document.is_held_out for document in splits["dev"] + splits["test"])
    assert len(splits["dev"]) / len(splits["test"]) == pytest.approx(1 / 4, abs=0.1)


@given(
    st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=12), min_size=1, max_size=3),
    st.integers(0, 9),
)
def test_pieces_run_from_sentence_to_sentence(lengths: list[list[int]], seed: int) -> None:
    paragraphs = tuple(" ".join(sentence(n, n) for n in each) for each in lengths)
    made = list(pieces(Document("masc", 0, None, paragraphs), random.Random(seed)))
    for piece in made:
        words = piece.split()
        assert SHORTEST <= len(words) <= LONGEST
        assert words[-1] == "end."
        assert any(piece in paragraph for paragraph in paragraphs)
    joined = " ".join(made)
    assert len(joined) <= len(" ".join(paragraphs)), "no word stands in two pieces"


def test_a_paragraph_without_an_end_makes_no_piece() -> None:
    document = Document("masc", 0, None, ("word " * 300,))
    assert list(pieces(document, random.Random(0))) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u201cA\u2014B\u201d  C", '"a - b" c'),
        ("It\u2019s *bold* _and_ `code`", "it's bold and code"),
        ("gone ( ) here", "gone here"),
        ("a -- b", "a - b"),
    ],
)
def test_what_only_one_source_writes_is_levelled(text: str, expected: str) -> None:
    assert levelled(text) == expected
    assert levelled(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("A plain sentence of words, nothing else in it at all.", True, id="prose"),
        pytest.param("In 1990 3,500 of 7,000 were 20 or 30", False, id="figures"),
        pytest.param("one; two; three; four in a list of things", False, id="a list"),
        pytest.param("a share of ten % of the whole of all of the land", False, id="percent"),
    ],
)
def test_prose(text: str, expected: bool) -> None:
    assert is_prose(text) is expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("in 1492 and 2024, not 2031", ["1492", "2024"]),
        ("1,995 or 1995.5 or 19951 or $1995", []),
        ("1914-1918", ["1914"]),
        ("(1776)", ["1776"]),
        ("999 and 1000", ["1000"]),
    ],
)
def test_years_are_whole_numbers(text: str, found: list[str]) -> None:
    assert YEAR.findall(text) == found


def test_rows_of_a_split_are_balanced_and_each_text_stands_once() -> None:
    drawn = _Drawn()
    for n in range(30):
        drawn.add("train", {"text": f"a{n}", "label": "A"})
        drawn.add("train", {"text": f"a{n}", "label": "B"})  # known already
    for n in range(7):
        drawn.add("train", {"text": f"b{n}", "label": "B"})
    for split in ("dev", "test"):
        drawn.add(split, {"text": f"{split} a", "label": "A"})
        drawn.add(split, {"text": f"{split} b", "label": "B"})
    rows = drawn.balanced({"train": 5, "dev": 9, "test": 9}, random.Random(0))
    labels = [row["label"] for row in rows["train"]]
    assert (labels.count("A"), labels.count("B")) == (5, 5)
    assert len({row["text"] for row in rows["train"]}) == 10
    assert len(rows["dev"]) == 2


def make_text(folder: Path) -> None:
    """Some documents of each source, with a year in every second one."""
    for turn, source in enumerate(SOURCES[:-1]):
        documents = []
        for n in range(60):
            when = f"It was in {1800 + n}. " if n % 2 else ""
            documents.append(
                when + " ".join(sentence(15, 100 * turn + 7 * n + k) for k in range(8))
            )
        write_source(folder, source, "\n\n\n".join(documents))


def test_registers_are_the_sources_and_their_rows_repeat(tmp_path: Path) -> None:
    make_text(tmp_path)
    task = register(tmp_path)
    assert task.options == tuple(REGISTERS)
    for split in SPLITS:
        labels = [row["label"] for row in task.rows[split]]
        assert {labels.count(label) for label in REGISTERS} == {len(labels) // len(REGISTERS)}
    texts = [{row["text"] for row in task.rows[split]} for split in SPLITS]
    assert not texts[0] & (texts[1] | texts[2])
    assert register(tmp_path).rows == task.rows


def test_every_year_of_a_text_is_its_answer(tmp_path: Path) -> None:
    make_text(tmp_path)
    task = years(tmp_path)
    assert task.options is None
    named = 0
    for split in SPLITS:
        for row in task.rows[split]:
            found = list(dict.fromkeys(YEAR.findall(row["text"])))
            assert row["label"] == (", ".join(found) or "none")
            named += bool(found)
    assert named
    train = task.rows["train"]
    barren = sum(row["label"] == "none" for row in train)
    assert barren == len(train) // 10, "a tenth names none"


def test_books_do_not_share_sections() -> None:
    places = [place for section in BOOKS.values() for place in section]
    assert len(places) == len(set(places))


def test_a_task_is_written_with_its_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {split: [{"text": f"ä {split}", "label": "B"}] for split in SPLITS}
    write(Task("t", "Do it", ("A", "B"), rows), tmp_path)
    write(Task("free", "Do it", None, rows), tmp_path)
    described = json.loads((tmp_path / "t" / "task.json").read_text())
    assert described == {"instruction": "Do it", "options": ["A", "B"], "template": PROMPT}
    free = json.loads((tmp_path / "free" / "task.json").read_text())
    assert (free["options"], free["template"]) == ([], FREE_PROMPT)
    lines = (tmp_path / "t" / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows["dev"]
    assert "ä" in lines[0], "as it is, for a reader"
    assert "most frequent in test: [('B', 1)]" in capsys.readouterr().out


def test_a_benchmarks_task_is_read_and_stripped(tmp_path: Path) -> None:
    described = {"instruction": " Do it \n", "options": [" A", "B "]}
    (tmp_path / "tasks.json").write_text(json.dumps({"tasks": {"agnews": described}}))
    (tmp_path / "agnews").mkdir()
    for split in SPLITS:
        with gzip.open(tmp_path / "agnews" / f"{split}.jsonl.gz", "wt") as file:
            file.write(json.dumps({"text": f" {split} ", "label": " A "}) + "\n")
    task = benchmark_task(tmp_path, "agnews")
    assert (task.instruction, task.options) == ("Do it", ("A", "B"))
    assert task.rows["test"] == [{"text": "test", "label": "A"}]


def test_prompts_end_where_the_answer_begins() -> None:
    for prompt in (tasks_module.PROMPT, tasks_module.FREE_PROMPT):
        assert prompt.endswith("\nAnswer:")
        assert re.findall(r"{(\w+)}", prompt)[-1] == "text"
