"""A tokenizer.json for a folder whose tokenizer is a class of transformers: ByT5's and CodeT5's.

transformers reads the folder's files, and what it has read is written in the form of the tokenizers
library. RobertaTokenizer, which CodeT5 has, is of that library already; ByT5Tokenizer is Python.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram

from jumplora_adapters.checkpoint import read_json_object
from jumplora_adapters.control_tokens import PlainText
from jumplora_adapters.convert.spiece_battery import TEXTS
from jumplora_adapters.decoding import LEAVES_OUT_BAD_BYTES, TextDecoder
from jumplora_adapters.errors import ConvertError

OF_BYTES = "ByT5Tokenizer"
OF_PAIRS = ("RobertaTokenizer", "RobertaTokenizerFast")
PAIR_FILES = ("vocab.json", "merges.txt")
CHARACTER = r"[\s\S]"
_FIRST_BYTE = 3  # behind the tokens for padding, the end and what is unknown
_BEHIND_BYTES = _FIRST_BYTE + 256
_BAD = bytes.fromhex(
    "ff c3 28 e2 82 28 e2 82 ac f0 9f 92 80 ed a0 80 f0 9f a6 99 ef bf bd c0 61 e2"
)


def stated_class(folder: Path) -> str | None:
    """What the folder says its tokenizer is, where it is one of these. Raises ConvertError."""
    for file in ("tokenizer_config.json", "config.json"):
        content = read_json_object(folder / file) if (folder / file).is_file() else {}
        if (name := content.get("tokenizer_class")) is None:
            continue
        if name in OF_PAIRS and not all((folder / file).is_file() for file in PAIR_FILES):
            raise ConvertError(
                f"{folder} has a {name}, which needs {' and '.join(PAIR_FILES)}: put them there, "
                "or a tokenizer.json"
            )
        return str(name) if name in (OF_BYTES, *OF_PAIRS) else None
    return None


def make_class_tokenizer(folder: Path, name: str) -> Tokenizer:
    """The tokenizer of `stated_class`. Raises ConvertError."""
    try:
        import transformers  # an extra
    except ImportError as error:
        raise ConvertError(
            f"{folder} has a {name}, whose tokenizer.json is made with transformers: install the "
            "extra `train`, or put a tokenizer.json there"
        ) from error
    try:
        theirs = getattr(transformers, name).from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # whatever a class makes of a stranger's files
        raise ConvertError(f"{folder}: transformers cannot read the {name}: {error}") from error
    if name == OF_BYTES:
        tokenizer = _of_bytes(folder, theirs)
        _check_bytes(tokenizer, theirs)
        return tokenizer
    backend: Tokenizer = theirs.backend_tokenizer
    return backend


def _of_bytes(folder: Path, theirs: Any) -> Tokenizer:
    """A piece for each byte, which the library falls back to: it has no other pieces.

    It appends no end token, because ByT5's is not repeated behind one of the text.
    """
    added = dict(sorted(theirs.added_tokens_decoder.items()))
    expected = [*range(_FIRST_BYTE), *range(_BEHIND_BYTES, _BEHIND_BYTES + len(added) - 3)]
    if [*added] != expected:
        raise ConvertError(
            f"{folder}: the added tokens have the ids {[*added][:8]} ..., those of {OF_BYTES} are "
            f"0 to 2, and from {_BEHIND_BYTES} on"
        )
    names = [token.content for token in added.values()]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [*names[:_FIRST_BYTE], *bytes_, *names[_FIRST_BYTE:]]
    tokenizer = Tokenizer(
        Unigram([(piece, 0.0) for piece in pieces], unk_id=theirs.unk_token_id, byte_fallback=True)
    )
    # One by one: tokens know their characters, and a byte's name in a text is not one piece.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(CHARACTER), "isolated")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Replace(*LEAVES_OUT_BAD_BYTES),
            decoders.Fuse(),
        ]
    )
    special = set(theirs.all_special_ids)
    for number, token in added.items():  # one by one: the library would put the special ones first
        tokenizer.add_tokens(
            [
                AddedToken(
                    token.content, lstrip=token.lstrip, rstrip=token.rstrip,
                    single_word=token.single_word, normalized=False, special=number in special,
                )
            ]
        )  # fmt: skip
    return tokenizer


def _check_bytes(tokenizer: Tokenizer, theirs: Any) -> None:
    """Raise ConvertError where texts or broken bytes are read or written in another way."""
    decoder, plain = TextDecoder(tokenizer), PlainText(tokenizer).tokenizer
    for text in TEXTS:
        expected = [byte + _FIRST_BYTE for byte in text.encode()]
        if plain.encode(text).ids != expected:
            raise ConvertError(f"the tokenizer.json made of a {OF_BYTES} does not read {text!r}")
    for start in range(len(_BAD)):
        ids = [byte + _FIRST_BYTE for byte in _BAD[start:]]
        if decoder.decode(ids) != theirs.decode(ids, skip_special_tokens=True):
            raise ConvertError(f"the tokenizer.json made of a {OF_BYTES} does not write {ids}")
