"""Batches, exercises, topic tasks and first embeddings of the demo's pre-training."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demo.recipe import clusters
from demo.recipe.batches import (
    END,
    FIRST_SENTINEL,
    PRACTICE_LENGTH,
    PRACTICE_ROWS,
    PRACTICE_TARGETS,
    SPAN_LENGTH,
    SPAN_ROWS,
    SPAN_TARGETS,
    SPANS,
    STREAM_SHARES,
    PracticeBatches,
    SpanBatches,
)
from demo.recipe.clusters import TopicTask, cluster_tasks
from demo.recipe.corpus import Document
from demo.recipe.embedding import WINDOW, _pair_counts, first_embedding
from demo.recipe.network import IGNORED
from demo.recipe.practice import (
    KINDS,
    MAX_WORDS,
    MIN_WORDS,
    RUN_WORDS,
    SHARES,
    TAIL,
    Exercise,
    Passage,
    Practice,
    cut_passages,
    with_keywords,
)
from jumplora_bench.tokenizer import make_tokenizer, words

WORDS = words(400)
SENTINELS = range(FIRST_SENTINEL - SPANS + 1, FIRST_SENTINEL + 1)


def streams() -> Mapping[str, np.ndarray]:
    """Each source counts up in a range of its own."""
    return {
        source: np.arange(1000 * turn + 3, 1000 * turn + 903, dtype=np.uint16)
        for turn, source in enumerate(STREAM_SHARES)
    }


def test_a_span_batch_hides_spans_of_one_window() -> None:
    batch = SpanBatches(streams(), 0).draw()
    assert batch.source.shape == (SPAN_ROWS, SPAN_LENGTH)
    assert batch.targets.shape == (SPAN_ROWS, SPAN_TARGETS)
    assert batch.padding is None
    for source, targets in zip(batch.source.tolist(), batch.targets.tolist(), strict=True):
        assert source.pop() == targets.pop() == END
        hidden: dict[int, list[int]] = {}
        for token in targets:
            if token in SENTINELS:
                hidden[token] = []
            else:
                hidden[max(hidden, key=lambda s: -s)].append(token)
        assert sorted(hidden, reverse=True) == list(hidden), "sentinels count down"
        restored: list[int] = []
        for token in source:
            restored += hidden[token] if token in SENTINELS else [token]
        assert restored == list(range(restored[0], restored[0] + len(restored)))
        assert all(hidden.values()), "no span is empty"


def test_sources_are_drawn_by_their_shares_and_the_seed() -> None:
    def sources(seed: int) -> Counter[int]:
        batches = SpanBatches(streams(), seed)
        return Counter(int(row[0]) // 1000 for _ in range(150) for row in batches.draw().source)

    found = sources(1)
    for turn, share in enumerate(STREAM_SHARES.values()):
        assert found[turn] / found.total() == pytest.approx(share, abs=0.04)
    assert sources(1) == found
    assert sum(STREAM_SHARES.values()) == pytest.approx(1)


@given(st.integers(2, 60), st.data())
def test_a_composition_is_of_positive_numbers(total: int, data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, total - 1))
    found = SpanBatches(streams(), total)._composition(total, parts)
    assert len(found) == parts
    assert found.sum() == total
    assert found.min() > 0


def passage_text(seed: int, count: int) -> str:
    """Sentences of ten words, of a topic of forty words each."""
    rng = random.Random(seed)
    topic = WORDS[40 * (seed % 5) : 40 * (seed % 5) + 40]
    chosen = [rng.choice(topic) for _ in range(count)]
    return " ".join(w.capitalize() + "." if n % 10 == 9 else w for n, w in enumerate(chosen))


@given(st.lists(st.integers(0, 300), max_size=3), st.integers(0, 9))
def test_passages_are_cut_in_order(lengths: list[int], seed: int) -> None:
    paragraphs = tuple(passage_text(seed, length) for length in lengths)
    made = cut_passages([Document("masc", 0, "A title", paragraphs)], random.Random(seed))
    for passage in made:
        assert 1 <= len(passage.words) <= MAX_WORDS
        assert any(" ".join(passage.words) in paragraph for paragraph in paragraphs)
        assert (passage.source, passage.title, passage.keywords) == ("masc", "A title", ())
    if any(length >= MIN_WORDS for length in lengths):
        assert made
    assert sum(len(passage.words) for passage in made) <= sum(lengths)


def test_keywords_are_what_sets_a_passage_apart() -> None:
    """`common` is everywhere, `rare` in too few passages; two words of each group are its own."""
    made = []
    for n in range(3000):
        own = ["alpha", "beta"] if n < 20 else ["gamma", "delta"] if n < 40 else ["common"]
        rare = ["rare"] if n < 3 else []
        made.append(Passage("masc", ("common", *own, *own, *rare), (), None))
    found = with_keywords(made)
    assert len(found) == 40, "those with fewer than two keywords are dropped"
    assert {passage.keywords for passage in found[:20]} == {("alpha", "beta")}
    assert {passage.keywords for passage in found[20:]} == {("delta", "gamma")}


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    rng = random.Random(0)
    made = []
    for turn, source in enumerate(SHARES):
        for n in range(12):
            text = tuple(passage_text(12 * turn + n, 60).split())
            keys = tuple(dict.fromkeys(w.lower().strip(".") for w in rng.sample(text, 6)))
            made.append(Passage(source, text, keys, "Supply and Demand" if n % 2 else f"Law {n}"))
    return made


@pytest.fixture(scope="module")
def topics(passages: list[Passage]) -> list[TopicTask]:
    return [
        TopicTask(
            "Which?", ("One", "Two"), (("One", "Uno"), ("Two", "Due")),
            (tuple(passages[:5]), tuple(passages[5:9])),
        ),
        TopicTask("Alone?", ("One",), (("One",),), (tuple(passages[:5]),)),
    ]  # fmt: skip


def draws(passages: list[Passage], topics: list[TopicTask], seed: int = 0) -> list[Exercise]:
    practice = Practice(passages, topics, seed)
    return [practice.draw() for _ in range(1500)]


def test_an_exercise_with_options_is_answered_by_one_of_them(
    passages: list[Passage], topics: list[TopicTask]
) -> None:
    run = copied = 0
    for exercise in draws(passages, topics):
        listed = re.search(r"\nOptions: (.*)\nText:$", exercise.head)
        if listed is None:
            assert exercise.head.endswith("\nText:")
            continue
        options = listed[1].split(" | ")
        assert len({*options}) == len(options)
        if "and those after it" in exercise.head:
            run += 1
            place = options.index(re.search(r'option "(.*?)" and', exercise.head)[1])  # type: ignore[index]
            assert exercise.answer == " ".join(options[place : place + 3])
            continue
        copied += 1
        assert exercise.answer in options
    assert run
    assert copied > 1000


def test_an_exercise_without_options_is_answered_by_the_text(
    passages: list[Passage], topics: list[TopicTask]
) -> None:
    seen: Counter[str] = Counter()
    for exercise in draws(passages, topics, 3):
        if "\nOptions:" in exercise.head:
            continue
        said, answer = exercise.text.split(), exercise.answer.split()
        if asked := re.search(r'follows "(.*)" in the text', exercise.head):
            seen["run"] += 1
            assert 3 <= len(answer) <= RUN_WORDS
            assert f"{asked[1]} {exercise.answer}" in exercise.text
        elif asked := re.search(r'comes (after|before) "(.*)" in the text', exercise.head):
            seen[asked[1]] += 1
            place = said.index(asked[2]) + (1 if asked[1] == "after" else -1)
            assert said[place] == exercise.answer
        else:
            place = 0 if "first word" in exercise.head else -1
            seen["end"] += 1
            assert said[place] == exercise.answer
    assert seen["run"] > 5


def test_a_blank_hides_every_form_of_its_answer(
    passages: list[Passage], topics: list[TopicTask]
) -> None:
    blanks = 0
    for seed in range(4):
        for exercise in draws(passages, topics, seed):
            if "fills the blank" in exercise.head:
                blanks += 1
                assert "___" in exercise.text
                assert exercise.answer.lower() not in exercise.text.lower().split()
    assert blanks


def test_topics_of_one_label_are_not_asked(
    passages: list[Passage], topics: list[TopicTask]
) -> None:
    found = [each for each in draws(passages, topics) if "Which?" in each.head]
    assert found
    assert {each.answer for each in found} == {"One", "Two"}
    assert all("Options: One | Two\n" in each.head for each in found), "in their own order"
    assert not any("Alone?" in each.head for each in draws(passages, topics))


def test_the_seed_decides_the_exercises(passages: list[Passage], topics: list[TopicTask]) -> None:
    assert draws(passages, topics, 5) == draws(passages, topics, 5)
    assert draws(passages, topics, 5) != draws(passages, topics, 6)
    assert sum(KINDS.values()) == pytest.approx(1)
    assert sum(SHARES.values()) == pytest.approx(1)


def test_a_practice_batch_keeps_head_and_tail(
    passages: list[Passage], topics: list[TopicTask]
) -> None:
    tokenizer = make_tokenizer(32128)
    batch = PracticeBatches(Practice(passages, topics, 0), tokenizer, torch.float32).draw()
    assert batch.source.shape == (PRACTICE_ROWS, PRACTICE_LENGTH)
    assert batch.targets.shape == (PRACTICE_ROWS, PRACTICE_TARGETS)
    assert batch.padding is not None
    tail = [*tokenizer.encode(TAIL, add_special_tokens=False).ids, END]
    for source, padding, targets in zip(batch.source, batch.padding, batch.targets, strict=True):
        prompt = source[source != 0].tolist()
        assert prompt[-len(tail) :] == tail
        assert torch.equal(padding[0, 0] == 0, source != 0)
        answer = targets[targets != IGNORED].tolist()
        assert answer[-1] == END
        assert END not in answer[:-1]


def test_clusters_of_two_kinds_of_passages_are_found_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clusters, "PARTS", (("masc",),))
    monkeypatch.setattr(clusters, "TASKS_PER_PART", 3)
    monkeypatch.setattr(clusters, "DIMENSIONS", 8)
    made = [
        Passage(source, tuple(passage_text(n, 60).split()), (), None)
        for source in ("masc", "us_speeches")
        for n in range(200)
    ]
    tasks = cluster_tasks(made, 4)
    assert len(tasks) == 3
    assert cluster_tasks(made, 4) == tasks, "the same seed, the same tasks"
    for task in tasks:
        assert len(task.labels) == len(task.members) == len(task.other_names) > 1
        names = [name for names in task.other_names for name in names]
        assert len({*names}) == len(names), "no name is two labels'"
        topic_of = {word: n for n in range(5) for word in WORDS[40 * n : 40 * n + 40]}
        for names_, members in zip(task.other_names, task.members, strict=True):
            assert {passage.source for passage in members} == {"masc"}
            (topic, times) = Counter(
                topic_of[p.words[0].lower()] for p in members
            ).most_common(1)[0]  # fmt: skip
            if times == len(members):
                assert {topic_of[name.lower()] for name in names_} == {topic}


def test_pairs_count_by_their_distance() -> None:
    stream = np.random.default_rng(0).integers(0, 5, 40).astype(np.int32)
    expected = np.zeros((5, 5))
    for (i, first), (j, second) in product(enumerate(stream), repeat=2):
        if 0 < abs(i - j) <= WINDOW:
            expected[first, second] += 1 / abs(i - j)
    assert _pair_counts(stream, 5).toarray() == pytest.approx(expected, rel=1e-5)


def test_words_of_one_context_get_embeddings_that_are_alike() -> None:
    """Tokens 0 to 9 stand beside each other, and 10 to 19; 20 is never seen."""
    rng = np.random.default_rng(0)
    stream = np.concatenate([rng.integers(0, 10, 20) + 10 * (n % 2) for n in range(400)])
    found = first_embedding(stream, 21, 4, seed=1)
    assert found.shape == (21, 4)
    assert torch.allclose(found.square().mean(1)[:20], torch.ones(20), atol=1e-4)
    unit = torch.nn.functional.normalize(found[:20], dim=1)
    alike = unit @ unit.T
    group = torch.arange(20) // 10
    same = group[:, None] == group[None, :]
    assert alike[same].mean() > alike[~same].mean() + 0.5
    assert torch.isfinite(found[20]).all()
    assert float(found[20].abs().sum()) > 0
