"""Self-made exercises in the shape of the demo's prompts: pick a listed option, copy a word.

No benchmark row is used. Answers come from the text itself: tf-idf keywords of a passage (present
in it, blanked, or deleted), section titles of textbooks, words to be copied. What they teach is
the frame: read the instruction, match the passage to the options, copy one out in full.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demo.recipe.corpus import Document

if TYPE_CHECKING:
    from demo.recipe.clusters import TopicTask

HEAD = "Task Instruction: {instruction}\nOptions: {options}\nText:"
FREE_HEAD = "Task Instruction: {instruction}\nText:"
TAIL = "Answer:"
SHARES = {
    "openstax_ccby": 0.44,
    "cia_factbook": 0.08,
    "movie_reviews": 0.14,
    "masc": 0.08,
    "us_speeches": 0.04,
    "classic_books": 0.12,
    "dbpedia_text": 0.10,
}
KINDS = {
    "topic": 0.80,
    "keyword": 0.03,
    "phrase": 0.02,
    "title": 0.08,
    "blank": 0.01,
    "copy": 0.01,
    "run": 0.05,
}
RUN_WORDS = 5
RENAMED = 0.35  # of topic exercises: labels by other names, in another order
MIN_WORDS, MAX_WORDS = 18, 66
KEYWORDS_PER_PASSAGE = 6
MIN_COUNT, MAX_SHARE = 8, 0.01  # of passages a keyword occurs in
CHOICES = (
    "What is the topic of the following paragraph? Choose one from the option.",
    "Which of the options fits the text best?",
    "Choose the option that the text is about.",
    "Pick the label that describes the passage.",
    "What is the subject of this passage? Choose one of the options.",
    "Classify the text. Answer with one of the options.",
    "Select the best category for the paragraph.",
    "Which option belongs to this paragraph?",
)
BLANK = "Which of the options fills the blank in the text?"
WORD = re.compile(r"[A-Za-z][a-z]+")


@dataclass(frozen=True, slots=True)
class Passage:
    source: str
    words: tuple[str, ...]
    keywords: tuple[str, ...]
    title: str | None


@dataclass(frozen=True, slots=True)
class Exercise:
    """A prompt in parts, so that only the text is cut when the whole is too long."""

    head: str
    text: str
    answer: str


def cut_passages(documents: Sequence[Document], chooser: random.Random) -> list[Passage]:
    """Passages of MIN_WORDS to MAX_WORDS words, begun at a sentence; keywords still empty."""
    passages = []
    for document in documents:
        for paragraph in document.paragraphs:
            words = paragraph.split()
            start = 0
            while len(words) - start >= MIN_WORDS:
                length = chooser.randint(MIN_WORDS + 8, MAX_WORDS)
                piece = tuple(words[start : start + length])
                passages.append(Passage(document.source, piece, (), document.title))
                start += length
                while start < len(words) and not words[start - 1].endswith((".", "?", "!")):
                    start += 1
    return passages


def with_keywords(passages: Sequence[Passage]) -> list[Passage]:
    """The same passages with their best words by tf-idf; those with fewer than two are dropped."""
    bags = [Counter(w.lower() for w in WORD.findall(" ".join(p.words))) for p in passages]
    spread = Counter(word for bag in bags for word in bag)
    most = MAX_SHARE * len(passages)
    finished = []
    for passage, bag in zip(passages, bags, strict=True):
        scores = {
            word: count * math.log(len(passages) / spread[word])
            for word, count in bag.items()
            if len(word) > 3 and MIN_COUNT <= spread[word] <= most
        }
        best = sorted(scores, key=lambda word: (-scores[word], word))[:KEYWORDS_PER_PASSAGE]
        if len(best) >= 2:
            finished.append(Passage(passage.source, passage.words, tuple(best), passage.title))
    return finished


class Practice:
    """Draws exercises; the same seed and passages give the same ones."""

    def __init__(
        self, passages: Sequence[Passage], topics: Sequence["TopicTask"], seed: int
    ) -> None:
        self._chooser = random.Random(seed)
        self._topics = [topic for topic in topics if len(topic.labels) > 1]
        self._by_source = {s: [p for p in passages if p.source == s] for s in SHARES}
        self._titled = [p for p in passages if _is_telling(p.title)]

    def draw(self) -> Exercise:
        choose = self._chooser
        kind = choose.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "title":
            return self._title()
        if kind == "topic":
            return self._topic()
        passage = self._passage()
        if kind == "copy":
            return self._copy(passage)
        if kind == "run":
            return self._run(passage)
        answer, others, text = self._keyword(passage, kind)
        instruction = BLANK if kind == "blank" else choose.choice(CHOICES)
        return self._with_options(instruction, text, answer, others)

    def _passage(self) -> Passage:
        source = self._chooser.choices(list(SHARES), list(SHARES.values()))[0]
        return self._chooser.choice(self._by_source[source])

    def _keyword(self, passage: Passage, kind: str) -> tuple[str, list[str], str]:
        """The answer, distractors from other passages, and the text with the answer kept or not."""
        choose = self._chooser
        size = 2 if kind == "phrase" else 1
        joint = choose.choice((" ", " and ", " or ", " of ")) if size == 2 else ""
        keys = choose.sample(passage.keywords[:4], min(size, len(passage.keywords)))
        present = {word.lower() for word in WORD.findall(" ".join(passage.words))}
        others: list[str] = []
        for _ in range(self._count() - 1):
            foreign = [k for k in self._passage().keywords if k not in present]
            if len(foreign) >= size:
                others.append(joint.join(choose.sample(foreign[: 2 + size], size)))
        text = " ".join(passage.words)
        hidden = "blank" if kind == "blank" else choose.choice(("keep", "delete", "delete"))
        if hidden != "keep":
            filler = "___" if hidden == "blank" else ""
            pattern = r"\b(?:" + "|".join(map(re.escape, keys)) + r")\w{0,3}\b"
            text = re.sub(pattern, filler, text, flags=re.IGNORECASE)
        return joint.join(keys), others, text

    def _title(self) -> Exercise:
        choose = self._chooser
        passage = choose.choice(self._titled)
        title = passage.title or ""
        others = [choose.choice(self._titled).title or "" for _ in range(min(self._count(), 8) - 1)]
        return self._with_options(choose.choice(CHOICES), " ".join(passage.words), title, others)

    def _topic(self) -> Exercise:
        """A passage of a clustering; its labels stand in their own order, as a real task's do.

        Some bear other names in another order, which only a copied option answers.
        """
        choose = self._chooser
        task = choose.choice(self._topics)
        label = choose.randrange(len(task.labels))
        text = " ".join(choose.choice(task.members[label]).words)
        if choose.random() < RENAMED:
            names = [choose.choice(others) for others in task.other_names]
            answer = names.pop(label)
            return self._with_options(choose.choice(CHOICES), text, answer, names)
        head = HEAD.format(instruction=task.instruction, options=" | ".join(task.labels))
        return Exercise(head, text, task.labels[label])

    def _copy(self, passage: Passage) -> Exercise:
        """Copying without options: what is beside a word, or the name the text gives."""
        choose, words = self._chooser, passage.words
        text = " ".join(words)
        places = [i for i in range(1, len(words) - 1) if words.count(words[i]) == 1]
        kind = choose.choice(("first", "last", "after", "after", "before"))
        if kind in ("first", "last") or not places:
            index = 0 if kind == "first" else len(words) - 1
            instruction = f"What is the {'first' if index == 0 else 'last'} word of the text?"
            answer = words[index]
        else:
            place = choose.choice(places)
            answer = words[place + 1 if kind == "after" else place - 1]
            instruction = f'Which word comes {kind} "{words[place]}" in the text?'
        return Exercise(FREE_HEAD.format(instruction=instruction), text, answer)

    def _run(self, passage: Passage) -> Exercise:
        """A run of words copied from the text or of listed options: the densest copying signal."""
        choose, words = self._chooser, passage.words
        if choose.random() < 0.5:
            at = choose.randrange(len(words) - RUN_WORDS)
            length = choose.randint(3, RUN_WORDS)
            instruction = f'Copy what follows "{words[at]}" in the text.'
            answer = " ".join(words[at + 1 : at + 1 + length])
            return Exercise(FREE_HEAD.format(instruction=instruction), " ".join(words), answer)
        options = list(dict.fromkeys(_titled(self._passage().keywords[0]) for _ in range(6)))
        place = choose.randrange(len(options))
        instruction = f'Copy the option "{options[place]}" and those after it.'
        head = HEAD.format(instruction=instruction, options=" | ".join(options))
        answer = " ".join(options[place : place + 3])
        return Exercise(head, " ".join(words[: len(words) // 2]), answer)

    def _with_options(
        self, instruction: str, text: str, answer: str, others: Sequence[str]
    ) -> Exercise:
        choose = self._chooser
        options = list(dict.fromkeys([answer, *others]))
        choose.shuffle(options)
        if choose.random() < 0.7:
            options, answer = [_titled(o) for o in options], _titled(answer)
        head = HEAD.format(instruction=instruction, options=" | ".join(options))
        return Exercise(head, text, answer)

    def _count(self) -> int:
        return self._chooser.choice((2, 3, 4, 4, 5, 6, 8, 10, 12, 14, 14))


def _titled(label: str) -> str:
    return " ".join(w if w in ("and", "or", "of") else w[:1].upper() + w[1:] for w in label.split())


def _is_telling(title: str | None) -> bool:
    if title is None or len(title) > 48:
        return False
    return not re.match(r"Introduction|Preface|Summary|References|Answer|Appendix", title)
