"""A tokenizer.json of a SentencePiece model, which reads and writes as SentencePiece does.

transformers' own conversion has no byte fallback for T5 and invents 100 extra ids. Here they are
as many as are stated, or T5's 100 where the embedding has rows for them. What comes out is compared
with SentencePiece (`spiece_battery`) before it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import processors as post
from tokenizers.models import Unigram

from jumplora_adapters.convert import charsmap
from jumplora_adapters.convert.added_tokens import (
    EXTRA_ID,
    MAX_SHOWN,
    Token,
    stated_extra_ids,
    stated_tokens,
)
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.printable import shown

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
UNIGRAM = 1
T5EXTRA_IDS = 100

ENDS = rf"\A +|[ {SPACE}]+\z"
RUNS = " {2,}"
LEADING = rf"\A(?=[ {SPACE}])"  # a first space is put before these too
# In a text, a byte's name is plain characters: SentencePiece finds no token there.
BYTE_NAME = r"<(?=0x[0-9A-F]{2}>)"
_ALL = 1_000_000


def make_tokenizer(model: Any, folder: Path, rows: int) -> Tokenizer:
    """The tokenizer of a SentencePiece model (its protobuf message), for an embedding of `rows`.

    tokenizer_config.json and added_tokens.json of `folder` are obeyed, where they are. Raises
    ConvertError for a kind of model that is not T5's, and for files that are broken.
    """
    trained = model.trainer_spec
    if trained.model_type != UNIGRAM:
        raise ConvertError(f"{folder / 'spiece.model'} is not a Unigram model, which T5 has")
    unknown = next((n for n, piece in enumerate(model.pieces) if piece.type == UNKNOWN), None)
    if unknown is None:
        raise ConvertError(f"{folder / 'spiece.model'} has no token for unknown characters")
    tokens = _pieces(model)
    tokens += _extra_ids(folder, tokens, rows)
    tokens += _added(folder, tokens)
    tokenizer = Tokenizer(
        Unigram(
            [(token.piece, token.score) for token in tokens],
            unk_id=unknown,
            byte_fallback=trained.byte_fallback,
        )
    )
    spec = model.normalizer_spec
    if steps := _normalizers(spec):
        tokenizer.normalizer = normalizers.Sequence(steps)
    splits: list[Any] = [
        pre_tokenizers.Metaspace(
            SPACE, prepend_scheme="always" if spec.add_dummy_prefix else "never", split=True
        )
    ]
    if trained.byte_fallback:
        splits.append(pre_tokenizers.Split(Regex(BYTE_NAME), "merged_with_previous"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.Sequence(_decoders(model))
    tokenizer.add_tokens(
        [
            AddedToken(token.piece, special=token.is_special, normalized=False)
            for token in tokens
            if token.is_special or token.is_added
        ]
    )
    end = next((n for n, t in enumerate(tokens) if t.piece == trained.eos_piece), None)
    if end is None:
        raise ConvertError(f"{folder / 'spiece.model'} has no end token {trained.eos_piece!r}")
    tokenizer.post_processor = post.TemplateProcessing(
        single=["$A", trained.eos_piece],
        pair=["$A", trained.eos_piece, "$B", trained.eos_piece],
        special_tokens=[(trained.eos_piece, end)],
    )
    return tokenizer


def _pieces(model: Any) -> list[Token]:
    best = max((p.score for p in model.pieces if p.type == NORMAL), default=0.0)
    tokens = []
    for piece in model.pieces:
        # What SentencePiece takes a user's symbol for, so that it always wins.
        score = (
            len(piece.piece.encode()) * best - 0.1 if piece.type == USER_DEFINED else piece.score
        )
        special = piece.type in (UNKNOWN, CONTROL) or bool(EXTRA_ID.fullmatch(piece.piece))
        tokens.append(Token(piece.piece, score, special))
    return tokens


def _extra_ids(folder: Path, pieces: Sequence[Token], rows: int) -> list[Token]:
    """T5's sentinels, behind the pieces, the last one first; only those the embedding knows."""
    if any(EXTRA_ID.fullmatch(token.piece) for token in pieces):
        return []
    count = stated_extra_ids(folder)
    if count is None:
        # Fewer would be other ids than T5 was trained with.
        count = T5EXTRA_IDS if len(pieces) + T5EXTRA_IDS <= rows else 0
    # No more than fit are made: the number is a stranger's.
    fit = min(count, max(0, rows - len(pieces)))
    return [Token(f"<extra_id_{n}>", 0.0, True) for n in range(count - 1, count - 1 - fit, -1)]


def _added(folder: Path, tokens: Sequence[Token]) -> list[Token]:
    """Tokens that were added to the model's own. Raises ConvertError where they leave a gap."""
    known = {token.piece for token in tokens}
    new = {
        number: token
        for number, token in sorted(stated_tokens(folder).items())
        if token.piece not in known and not EXTRA_ID.fullmatch(token.piece)
    }
    if list(new) != list(range(len(tokens), len(tokens) + len(new))):
        ids = shown(", ".join(map(str, new)), MAX_SHOWN)
        raise ConvertError(
            f"{folder}: added tokens have the ids {ids}; those after the "
            f"model's own {len(tokens)} tokens are expected"
        )
    return list(new.values())


def _normalizers(spec: Any) -> list[Any]:
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps += charsmap.steps(spec.precompiled_charsmap)
    if spec.remove_extra_whitespaces:
        steps += [
            normalizers.Replace(Regex(ENDS), ""),
            normalizers.Replace(Regex(RUNS), " "),
        ]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Replace(Regex(LEADING), " "))
    return steps


def _decoders(model: Any) -> list[Any]:
    spec = model.normalizer_spec
    steps: list[Any] = [decoders.Replace(SPACE, " ")]
    if model.trainer_spec.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if spec.remove_extra_whitespaces or spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", _ALL if spec.remove_extra_whitespaces else 1, 0))
    return steps
