"""Small SentencePiece models of the kinds that T5s have, and texts that are hard to read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from factories import TEXT

KINDS: dict[str, dict[str, Any]] = {
    "t5": {},
    "mt5": {"byte_fallback": True},
    "no normalisation": {"byte_fallback": True, "normalization_rule_name": "identity"},
    "nfkc": {"byte_fallback": True, "normalization_rule_name": "nfkc"},
    "lower case": {"normalization_rule_name": "nmt_nfkc_cf"},
    "no first space": {"add_dummy_prefix": False},
    "spaces kept": {"byte_fallback": True, "remove_extra_whitespaces": False},
    "symbols": {
        "byte_fallback": True,
        "user_defined_symbols": ["[SEP]", "<extra_id_0>"],
        "control_symbols": ["<ctl>"],
    },
}
ALPHABETS = (
    "abcdefgh",
    " \t\n\r▁",
    "éàüñçōÅß",
    "e\u0301a\u0308\u0323o\u0302\u0301",
    "ＡＢｃ１２！",
    "日本語ひらがカタｶﾞｷﾟ",
    "한국어각\u1100\u1161\u11a8",
    "ש\u05c1\u05b8لا\u0651\u064eשלום",
    "👩\u200d👧🇩🇪👍🏽🦙",
    "\u200b\u200c\u200d\u2060\ufeff\xad",
    "\x00\x01\x1b\x7f\x85",
    "①ﬁ½™℃㍿",
    ".,!?'\"<>/0x\u2026\u2018\u2019",
    "हिन्दी\u0e01\u0e33",
    "\u2028\u00a0\u3000\u1680\ue000\U0010ffff",
)


def spiece_model(folder: Path, **options: Any) -> Path:
    """Train folder/spiece.model on the words of the factories: pad 0, eos 1, unk 2."""
    sentencepiece = pytest.importorskip("sentencepiece")
    drawn = random.Random(0)
    words = TEXT.split()
    lines = [" ".join(drawn.choices(words, k=12)).capitalize() + "." for _ in range(500)]
    (folder / "corpus.txt").write_text("\n".join(lines) + "\n")
    usual = {
        "hard_vocab_limit": False,
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "bos_id": -1,
        "pad_piece": "<pad>",
        "vocab_size": 600,
    }
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "spiece"),
        minloglevel=2,
        num_threads=1,
        **(usual | options),
    )
    (folder / "spiece.vocab").unlink()
    (folder / "corpus.txt").unlink()
    return folder / "spiece.model"


def hard_texts(count: int, *, seed: int = 0) -> list[str]:
    """Texts of up to 30 characters: of one to three alphabets, or of anything in Unicode."""
    drawn = random.Random(seed)
    texts = []
    for number in range(count):
        if number % 4 == 0:
            codes = (drawn.choice((drawn.randrange(0x3000), drawn.randrange(0x110000)))
                     for _ in range(drawn.randint(0, 12)))  # fmt: skip
            texts.append("".join(chr(c) for c in codes if not 0xD800 <= c <= 0xDFFF))
        else:
            alphabets = drawn.sample(ALPHABETS, drawn.randint(1, 3))
            picks = range(drawn.randint(0, 30))
            texts.append("".join(drawn.choice(drawn.choice(alphabets)) for _ in picks))
    return texts
