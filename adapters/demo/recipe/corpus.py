"""The text the backbone is made from: documents by source, and which of them are held out.

Held-out documents become the dev and test rows of the tasks built from this text, so nothing that
learns from text (vocabulary, embeddings, pre-training, practice) may see them.
"""

import gzip
import json
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_PERCENT = 18
MAX_TITLE_CHARACTERS = 90
SOURCES = (
    "openstax_ccby",
    "cia_factbook",
    "movie_reviews",
    "masc",
    "us_speeches",
    "classic_books",
    "dbpedia_text",
)


@dataclass(frozen=True, slots=True)
class Document:
    """One document; `title` is the section heading where the source keeps one (OpenStax)."""

    source: str
    index: int
    title: str | None
    paragraphs: tuple[str, ...]

    @property
    def is_held_out(self) -> bool:
        """Decided by a hash of the name, so that it depends on no order and no seed."""
        if self.source == "dbpedia_text":
            return False  # train rows of a task with dev and test rows of its own
        return zlib.crc32(f"{self.source}/{self.index}".encode()) % 100 < HELD_OUT_PERCENT


def text_folder() -> Path:
    """The folder of text files, named by DEMO_TEXT; raises KeyError when that is not set."""
    return Path(os.environ["DEMO_TEXT"])


def read_documents(folder: Path, source: str) -> list[Document]:
    """All documents of a source, in file order; documents are two blank lines apart."""
    if source == "dbpedia_text":
        return read_dbpedia()
    documents: list[Document] = []
    for path in sorted((folder / source).glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            blocks = file.read().split("\n\n\n")
        for block in blocks:
            paragraphs = [line.strip() for line in block.split("\n\n") if line.strip()]
            if not paragraphs:
                continue
            title = _title_of(paragraphs[0]) if source == "openstax_ccby" else None
            kept = tuple(paragraphs[1:] if title else paragraphs)
            documents.append(Document(source, len(documents), title, kept))
    return documents


def read_dbpedia() -> list[Document]:
    """The texts of dbpedia's train split (BENCHMARK_DATA) without their labels."""
    path = Path(os.environ["BENCHMARK_DATA"]) / "dbpedia" / "train.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"].strip() for line in file]
    return [Document("dbpedia_text", i, None, (text,)) for i, text in enumerate(texts)]


def read_corpus(folder: Path, *, held_out: bool) -> dict[str, list[Document]]:
    """Documents by source, only the held-out ones or only the others."""
    return {
        source: [d for d in read_documents(folder, source) if d.is_held_out is held_out]
        for source in SOURCES
    }


def _title_of(paragraph: str) -> str | None:
    is_heading = len(paragraph) <= MAX_TITLE_CHARACTERS and not re.search(r"[.:;]$", paragraph)
    return paragraph if is_heading else None
