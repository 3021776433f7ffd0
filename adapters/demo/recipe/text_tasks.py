"""The demo tasks made from DEMO_TEXT: register, subject and years, split by document.

Train rows come from the documents the backbone may also have read (without labels); dev and test
rows only from held-out ones. Rows naming their own answer are left out where that would be a
give-away.
"""

import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.recipe.corpus import Document, read_documents

SEED = 0
SHORTEST, LONGEST = 40, 90  # words
Split = str  # "train", "dev" or "test"
Row = dict[str, str]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

REGISTERS = {
    "Novel": "classic_books",
    "Textbook": "openstax_ccby",
    "Country Profile": "cia_factbook",
    "Film Review": "movie_reviews",
    "Politics": "us_speeches",
}
REGISTER_ROWS = {"train": 900, "dev": 100, "test": 200}  # a label
# Sections of each OpenStax book by their place in the files (prefaces, glossaries, reprinted
# documents and one stray section left out); the books lie one after the other.
BOOKS = {
    "American Government": range(1, 92),
    "Business": range(99, 249),
    "Philosophy": range(252, 316),
    "Psychology": range(318, 422),
    "US History": range(423, 591),
    "World History": [i for i in range(595, 752) if i not in (650, 665)],
}
SUBJECT_ROWS = {"train": 700, "dev": 60, "test": 140}  # a label
TELLING = re.compile(r"openstax|textbook|this (book|chapter|section)|\(\)", re.IGNORECASE)
YEAR = re.compile(r"(?<![\d,.$-])(?:1[0-9]\d\d|20[0-2]\d)(?![\d,.]*\d)")
YEAR_SOURCES = ("openstax_ccby", "cia_factbook", "classic_books", "us_speeches")
MOST_YEARS = 3
YEAR_ROWS = {"train": 4000, "dev": 200, "test": 500}


@dataclass(frozen=True, slots=True)
class Task:
    """Rows of {"text", "label"}; where `options` is None the label is free text."""

    name: str
    instruction: str
    options: tuple[str, ...] | None
    rows: Mapping[Split, Sequence[Row]]


def split_of(document: Document) -> Split:
    if not document.is_held_out:
        return "train"
    is_dev = zlib.crc32(f"dev/{document.source}/{document.index}".encode()) % 5 == 0
    return "dev" if is_dev else "test"


def pieces(document: Document, chooser: random.Random) -> Iterator[str]:
    """Stretches of SHORTEST to LONGEST words, from a sentence's begin to a sentence's end."""
    for paragraph in document.paragraphs:
        words = paragraph.split()
        start = 0
        while len(words) - start >= SHORTEST:
            goal = start + chooser.randint(SHORTEST, LONGEST - 15)
            ends = [
                i + 1
                for i in range(start + SHORTEST - 1, min(start + LONGEST, len(words)))
                if words[i].rstrip("\"'\u201d\u2019)").endswith((".", "?", "!"))
            ]
            if not ends:
                break
            end = min(ends, key=lambda e: abs(e - goal))
            yield " ".join(words[start:end])
            start = end


def levelled(text: str) -> str:
    """Without what only one source does: case, dashes, markdown, quotes, spaced punctuation."""
    text = text.lower().translate(str.maketrans("\u2018\u2019\u201c\u201d", "''\"\""))
    text = re.sub(r"\s*(?:--+|[\u2013\u2014])\s*", " - ", re.sub(r"[*_#`\[\]]", "", text))
    return re.sub(r"\s+", " ", re.sub(r"\(\s*\)", "", text)).strip()


def is_prose(text: str) -> bool:
    """Lists of figures would tell the country profiles apart by themselves."""
    digits = sum(character.isdigit() for character in text)
    return digits <= 0.04 * len(text) and text.count(";") <= 2 and "%" not in text


def register(folder: Path) -> Task:
    chooser, drawn = random.Random(SEED), _Drawn()
    for label, source in REGISTERS.items():
        for document in read_documents(folder, source):
            for text in pieces(document, chooser):
                if is_prose(text) and not TELLING.search(text):
                    drawn.add(split_of(document), {"text": levelled(text), "label": label})
    instruction = "Which kind of source is the following passage from? Choose one of the options."
    rows = drawn.balanced(REGISTER_ROWS, chooser)
    return Task("register", instruction, tuple(REGISTERS), rows)


def subject(folder: Path) -> Task:
    chooser, drawn = random.Random(SEED), _Drawn()
    names = re.compile("|".join([*BOOKS, "U.S. History"]), re.IGNORECASE)
    sections = read_documents(folder, "openstax_ccby")
    for label, places in BOOKS.items():
        for place in places:
            for text in pieces(sections[place], chooser):
                if not TELLING.search(text) and not names.search(text):
                    drawn.add(split_of(sections[place]), {"text": text, "label": label})
    instruction = "Which subject is this textbook passage about? Choose one of the options."
    return Task("subject", instruction, tuple(BOOKS), drawn.balanced(SUBJECT_ROWS, chooser))


def years(folder: Path) -> Task:
    """Every year a passage names, in order; some passages name none. At most MOST_YEARS."""
    chooser = random.Random(SEED)
    rows: dict[Split, list[Row]] = {split: [] for split in SPLITS}
    barren: dict[Split, list[Row]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for source in YEAR_SOURCES:
        for document in read_documents(folder, source):
            for text in pieces(document, chooser):
                found = list(dict.fromkeys(YEAR.findall(text)))
                if text in seen or len(found) > MOST_YEARS:
                    continue
                seen.add(text)
                if found:
                    row = {"text": text, "label": ", ".join(found)}
                    rows[split_of(document)].append(row)
                elif source != "classic_books" and not re.search(r"\d", text):
                    barren[split_of(document)].append({"text": text, "label": "none"})
    finished = {}
    for split in SPLITS:
        chooser.shuffle(rows[split])
        kept = rows[split][: YEAR_ROWS[split] * 9 // 10]
        kept += chooser.sample(barren[split], len(kept) // 9)
        chooser.shuffle(kept)
        finished[split] = kept
    return Task("years", "List the years that the text names, in order.", None, finished)


class _Drawn:
    """Rows by split and label, each text once."""

    def __init__(self) -> None:
        self._rows: dict[Split, dict[str, list[Row]]] = {split: {} for split in SPLITS}
        self._seen: set[str] = set()

    def add(self, split: Split, row: Row) -> None:
        if row["text"] not in self._seen:
            self._seen.add(row["text"])
            self._rows[split].setdefault(row["label"], []).append(row)

    def balanced(self, most: Mapping[Split, int], chooser: random.Random) -> dict[Split, list[Row]]:
        """The same number of each label in a split: `most`, or what the rarest label has."""
        finished: dict[Split, list[Row]] = {}
        for split, labels in self._rows.items():
            size = min(most[split], *(len(rows) for rows in labels.values()))
            finished[split] = [
                row for rows in labels.values() for row in chooser.sample(rows, size)
            ]
            chooser.shuffle(finished[split])
        return finished
