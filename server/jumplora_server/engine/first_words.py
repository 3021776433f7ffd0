"""Which tokenizers read a text word by word, and where a text may be cut for them.

For those the tokens of a text's first words are the first tokens of the text, so what is far too
long need not be read to its end. Anything that is not known to be so is read as a whole.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

from jumplora_adapters.convert import charsmap, class_tokenizer, spiece

# A single space between two printable ASCII characters: no combining mark, no joiner and no run of
# spaces is there, so that neither normalisation nor splitting looks across it.
_CUT = re.compile(r"[!-~](?= [!-~])")
_UNICODE_FORMS = frozenset({"NFC", "NFD", "NFKC", "NFKD"})


def first_words(text: str, characters: int) -> str | None:
    """At least `characters` of the beginning of `text`, cut between two words; None where it has
    no such place. Only for a tokenizer that is `read_by_word`."""
    cut = _CUT.search(text, max(0, characters - 1))
    return None if cut is None else text[: cut.end()]


def read_by_word(tokenizer: Tokenizer) -> bool:
    """Whether its tokens of a text's first words are the first of its tokens of the text.

    T5's and mT5's are: they split at spaces before they look for pieces. So are ByT5's, which split
    at every character.
    """
    return (
        (tokenizer.normalizer is None or _keeps_words(_state(tokenizer.normalizer)))
        and tokenizer.pre_tokenizer is not None
        and _splits_words(_state(tokenizer.pre_tokenizer))
        # Such a token is looked for in the text as it is, before that is split.
        and not any(re.search(r"\s", t.content) for t in _added(tokenizer))
        and _only_appends(tokenizer)
    )


def _state(part: Any) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(part.__getstate__())
    return state


def _keeps_words(normalizer: dict[str, Any]) -> bool:
    match normalizer["type"]:
        case "Sequence":
            return all(map(_keeps_words, normalizer["normalizers"]))
        case "Replace":
            return _is_local(normalizer["pattern"])
        case kind:
            return kind in ("Precompiled", "Strip") or kind in _UNICODE_FORMS


def _is_local(pattern: dict[str, str]) -> bool:
    """Whether a replacement looks at runs of spaces, both ends or marks only, as those do that
    `jumplora import-backbone` writes."""
    regex, string = pattern.get("Regex", ""), pattern.get("String")
    return (
        regex in (spiece.RUNS, spiece.ENDS, spiece.LEADING)
        or regex.startswith(charsmap.BEFORE_MARKS)
        or string in (charsmap.JOINED, charsmap.APART)
    )


def _splits_words(pre_tokenizer: dict[str, Any]) -> bool:
    match pre_tokenizer["type"]:
        case "Sequence":
            parts = pre_tokenizer["pretokenizers"]
            return bool(parts) and all(map(_splits_words, parts))
        case "Metaspace":
            return pre_tokenizer.get("split", True) is True
        case "Split":
            return pre_tokenizer["pattern"].get("Regex") in (
                spiece.BYTE_NAME,
                class_tokenizer.CHARACTER,
            )
        case kind:
            return bool(kind == "WhitespaceSplit")


def _added(tokenizer: Tokenizer) -> list[Any]:
    return list(tokenizer.get_added_tokens_decoder().values())


def _only_appends(tokenizer: Tokenizer) -> bool:
    """Whether special tokens come behind the text's own, and its spaces are spaces."""
    normalizer, sample = tokenizer.normalizer, "a b"
    if normalizer is not None and normalizer.normalize_str(sample) != sample:
        return False
    plain = tokenizer.encode(sample, add_special_tokens=False).ids
    return tokenizer.encode(sample).ids[: len(plain)] == plain
