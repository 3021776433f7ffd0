"""What the tokenizer files of a checkpoint say, read as JSON and without the tokenizer's library.

`tokenizer.py` makes a tokenizer of them. Here is what of it tells two backbones apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jumplora_adapters.checkpoint import read_json_object
from jumplora_adapters.errors import BackboneError

TOKENIZER_FILE = "tokenizer.json"
PIECES_FILE = "spiece.model"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
USUAL_END = "</s>"
_LISTS = ("additional_special_tokens", "extra_special_tokens")
# Fields whose tokens transformers makes special when it loads a tokenizer.
CONTROL_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    *_LISTS,
)  # fmt: skip

_FOR_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"


@dataclass(frozen=True, slots=True)
class TokenizerIdentity:
    """All of a tokenizer that decides which ids a prompt has, and which text ids have.

    `digest` is that of tokenizer.json, or of spiece.model where there is none. `special` are the
    control tokens, sorted; `end` is the one that ends a text.
    """

    digest: str
    special: tuple[str, ...]
    end: str | None
    cleans_spaces: bool


def tokenizer_identity(folder: Path) -> TokenizerIdentity:
    """Of a checkpoint folder. Raises BackboneError when it has no tokenizer.

    tokenizer.json counts as JSON, without `version`, `truncation` and `padding`, which depend on
    who saved it last; spiece.model counts as bytes and only where there is no tokenizer.json.
    """
    if (folder / TOKENIZER_FILE).is_file():
        content = read_json_object(folder / TOKENIZER_FILE)
        for key in ("version", "truncation", "padding"):
            content.pop(key, None)
        digest = hashlib.sha256(canonical(content)).hexdigest()
    elif (folder / PIECES_FILE).is_file():
        content = {}
        digest = hashlib.sha256((folder / PIECES_FILE).read_bytes()).hexdigest()
    else:
        raise BackboneError(
            f"{folder} has no tokenizer: one of {TOKENIZER_FILE}, {PIECES_FILE} is needed. "
            f"Copy {TOKENIZER_FILE} from the model that it was trained from, or call "
            "tokenizer.save_pretrained(folder) on its tokenizer; `jumplora import-backbone` makes "
            "one for ByT5 and CodeT5"
        )
    model, added = content.get("model"), _added(content)
    known = _pieces(model) | added.keys()
    named = {token for token in named_tokens(folder, CONTROL_TOKENS) if token in known}
    ends = (token for token in end_names(folder) if token in known)
    is_bpe = isinstance(model, dict) and model.get("type") == "BPE"
    return TokenizerIdentity(
        digest=digest,
        special=tuple(sorted(named | {token for token, special in added.items() if special})),
        end=next(ends, None),
        cleans_spaces=cleans_spaces(folder, is_bpe=is_bpe),
    )


def named_tokens(folder: Path, fields: Sequence[str]) -> Iterator[str]:
    """The tokens that tokenizer_config.json, then special_tokens_map.json name in those fields."""
    for file in (CONFIG_FILE, SPECIAL_FILE):
        if not (folder / file).is_file():
            continue
        content = read_json_object(folder / file)
        for field in fields:
            named = content.get(field)
            for token in _listed(named, field):
                piece = token.get("content") if isinstance(token, dict) else token
                if isinstance(piece, str):
                    yield piece


def _listed(named: object, field: str) -> Collection[object]:
    if isinstance(named, dict) and field in _LISTS:  # by names that somebody gave them
        return named.values()
    return named if isinstance(named, list) else [named]


def end_names(folder: Path) -> Iterator[str]:
    """Which tokens may end a text: the first one that the vocabulary has does."""
    yield from named_tokens(folder, ["eos_token"])
    yield USUAL_END


def cleans_spaces(folder: Path, *, is_bpe: bool) -> bool:
    """Whether spaces are cleaned up: no by default, and never for BPE. Raises BackboneError."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return False
    config = read_json_object(path)
    asked = config.get("clean_up_tokenization_spaces")
    if not isinstance(asked, bool | None):
        raise BackboneError(
            f"{path}: clean_up_tokenization_spaces is {asked!r}; true or false is allowed"
        )
    return bool(asked) and (not is_bpe or bool(config.get(_FOR_BPE)))


def canonical(value: object) -> bytes:
    """JSON with sorted keys, no white space and everything but ASCII escaped."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode()


def _added(content: Mapping[str, object]) -> dict[str, bool]:
    """The added tokens of tokenizer.json, and whether each is special."""
    tokens = content.get("added_tokens")
    return {
        token["content"]: token.get("special") is True
        for token in (tokens if isinstance(tokens, list) else [])
        if isinstance(token, dict) and isinstance(token.get("content"), str)
    }


def _pieces(model: object) -> set[str]:
    """The vocabulary of tokenizer.json's model: an object, or a list of pieces with scores."""
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        return set(vocabulary)
    if isinstance(vocabulary, list):
        pairs = (entry for entry in vocabulary if isinstance(entry, list) and entry)
        return {pair[0] for pair in pairs if isinstance(pair[0], str)}
    return set()
