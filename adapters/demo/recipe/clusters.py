"""Self-made topic tasks with fixed labels: clusters of passages, named by their own words.

An exercise that changes its labels every time teaches copying, slowly; what the demo's tasks ask
for is one set of labels over thousands of passages. Each clustering of a part of the text is such
a task: k-means on a truncated SVD of tf-idf, each cluster named by the words that set it apart.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import track
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from demo.recipe.practice import CHOICES, Passage

SIZES = (3, 4, 4, 5, 6, 8, 10, 12, 14, 16)
PARTS = (
    ("dbpedia_text",),
    ("dbpedia_text", "cia_factbook", "openstax_ccby"),
    ("openstax_ccby",),
    ("movie_reviews",),
    ("cia_factbook",),
    ("classic_books",),
    ("openstax_ccby", "cia_factbook", "masc", "us_speeches"),
    ("openstax_ccby", "cia_factbook", "movie_reviews", "masc", "us_speeches", "classic_books"),
)
TASKS_PER_PART = 8
DIMENSIONS = 64
MOST_PASSAGES = 9000  # of one clustering; more only takes longer
NEAREST = 0.8  # of a cluster's passages; the far ones are nobody's clear example
TELLING_WORDS, NAMES = 10, 4  # words looked at for a cluster's names, and names kept


@dataclass(frozen=True, slots=True)
class TopicTask:
    """A fixed set of labels, and the passages of each."""

    instruction: str
    labels: tuple[str, ...]
    other_names: tuple[tuple[str, ...], ...]  # by label; none of them names another label
    members: tuple[tuple[Passage, ...], ...]  # by label


def cluster_tasks(passages: Sequence[Passage], seed: int) -> list[TopicTask]:
    """All tasks of all parts; the same passages and seed give the same tasks."""
    chooser = random.Random(seed)
    tasks = []
    for part in track(PARTS, "clustering"):
        mine = [passage for passage in passages if passage.source in part]
        mine = chooser.sample(mine, min(len(mine), MOST_PASSAGES))
        vectorizer = TfidfVectorizer(
            max_features=12000, min_df=4, max_df=0.15, stop_words="english", sublinear_tf=True,
            token_pattern=r"[A-Za-z]{3,}",
        )  # fmt: skip
        counts = vectorizer.fit_transform([" ".join(p.words) for p in mine])
        words = vectorizer.get_feature_names_out()
        for _ in range(TASKS_PER_PART):
            dimensions = chooser.choice((DIMENSIONS // 4, DIMENSIONS // 2, DIMENSIONS))
            state = chooser.randrange(2**31)
            points = TruncatedSVD(dimensions, random_state=state).fit_transform(counts)
            points /= np.linalg.norm(points, axis=1, keepdims=True) + 1e-9
            size = chooser.choice(SIZES)
            model = MiniBatchKMeans(size, n_init=3, random_state=state).fit(points)
            tasks.append(_named(model, points, counts, words, mine, chooser))
    return tasks


def _named(
    model: MiniBatchKMeans,
    points: np.ndarray,
    counts: object,
    words: np.ndarray,
    passages: Sequence[Passage],
    chooser: random.Random,
) -> TopicTask:
    overall = np.asarray(counts.mean(0)).ravel()  # type: ignore[attr-defined]
    distances = np.linalg.norm(points - model.cluster_centers_[model.labels_], axis=1)
    two_words = chooser.random() < 0.4
    labels: list[str] = []
    other_names: list[tuple[str, ...]] = []
    members: list[tuple[Passage, ...]] = []
    taken: set[str] = set()
    for cluster in range(model.n_clusters):
        places = np.flatnonzero(model.labels_ == cluster)
        if len(places) < 20:
            continue
        typical = np.asarray(counts[places].mean(0)).ravel()  # type: ignore[index]
        best = [words[i] for i in np.argsort(-(typical - overall))[:TELLING_WORDS]]
        free = [word for word in best if word not in taken][:NAMES]
        if len(free) < 2:
            continue
        taken.update(free)
        name = f"{free[0]} {chooser.choice(('and ', 'or ', ''))}{free[1]}" if two_words else free[0]
        near = places[np.argsort(distances[places])[: int(len(places) * NEAREST)]]
        labels.append(" ".join(w if w in ("and", "or") else w.capitalize() for w in name.split()))
        other_names.append(tuple(word.capitalize() for word in free))
        members.append(tuple(passages[i] for i in near))
    return TopicTask(chooser.choice(CHOICES), tuple(labels), tuple(other_names), tuple(members))
