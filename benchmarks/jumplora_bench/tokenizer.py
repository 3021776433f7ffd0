"""A tokenizer of the real one's kind and size, made of invented words; and texts of exact length.

Unigram with a metaspace, as T5's SentencePiece model, so that tokenizing costs what it would.
"""

from __future__ import annotations

import itertools
import random

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram

END = 1
FIRST_WORD = 3  # after <pad>, </s> and <unk>
_SYLLABLES = tuple(c + v for c, v in itertools.product("bdfghjklmnprstvwz", "aeiou"))


def words(count: int) -> list[str]:
    """The first `count` invented words of three syllables each, all different."""
    triples = itertools.islice(itertools.product(_SYLLABLES, repeat=3), count)
    return ["".join(triple) for triple in triples]


def make_tokenizer(vocabulary: int) -> Tokenizer:
    """`vocabulary` tokens: pad 0, eos 1 (appended), unk 2, then one token a word."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -30.0)]
    letters = sorted(set("".join(_SYLLABLES)) | {"▁"})
    known = words(vocabulary - len(pieces) - len(letters))
    pieces += [(f"▁{word}", -10.0) for word in known]
    pieces += [(letter, -20.0) for letter in letters]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", END)]
    )
    return tokenizer


def random_text(tokens: int, rng: random.Random) -> str:
    """A text that the tokenizer turns into exactly `tokens` tokens, its end token included."""
    return " ".join("".join(rng.choices(_FREQUENT, k=1)) for _ in range(tokens - 1))


_FREQUENT = tuple(words(30_000))
