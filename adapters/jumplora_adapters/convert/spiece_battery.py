"""A tokenizer against the SentencePiece model that it was made of, on texts of all kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

from jumplora_adapters.control_tokens import PlainText, special_tokens
from jumplora_adapters.convert.spiece import CONTROL, USER_DEFINED
from jumplora_adapters.decoding import TextDecoder
from jumplora_adapters.errors import ConvertError

TEXTS = (
    "",
    " ",
    "   ",
    "\n",
    "\t\r\n ",
    "The quick brown fox, it's 3.5 times over the lazy dog!",
    "  two  spaces   at  the ends  ",
    "tabs\tand\nlines\r\nand\x0bmore\x0c\x85\u2028\u2029",
    "no-break\xa0and\u2009thin\u3000wide\u1680spaces",
    "▁ literal ▁▁meta▁space ▁",
    "caf\u00e9 na\u00efve \u00df \u00c5ngstr\u00f6m \u2018q\u2019 \u201cp\u201d \u2014 \u2026",
    "cafe\u0301 nai\u0308ve A\u030angstro\u0308m Vie\u0302\u0323t",
    "\uff26\uff55\uff4c\uff4c\u3000\uff57\uff49\uff44\uff54\uff48\uff01 \uff1c/s\uff1e",
    "\uff76\uff9e\uff77\uff9e \uff8a\uff9f \u304b\u3099 \u30ac",
    "\ufb01ne \u2460\u00bd\u2122\u2103 x\u00b2 \u337f \u01c4",
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059\u3002 \u4e2d\u6587\u3002",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab\u1100\u116e\u11a8",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \u0645\u064e\u0631\u0652\u062d\u064e\u0628\u0627",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e01\u0e33 \u0e19\u0e49\u0e33 \u0b95\u0bcd\u0bb7",
    "\U0001f999 \U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea",
    "zero\u200bwidth\u200cjoin\u200ders\u2060and\ufeffmarks\u00ad",
    "\x00\x01\x02nul\x07bell\x1b[0m\x7f\x9f",
    "\ue000\uffff\U0010ffff\U000e0041 rare \u0378",
    "1,234,567.89 -1e-7 0x1F a_b/c\\d {x} <b>y</b> & | ~ ^ ` @ # $ %",
    "Donaudampfschifffahrtselektrizit\u00e4tenhauptbetriebswerkbauunterbeamtengesellschaft",
    "https://example.org/a/b?c=d&e=f#g mail@example.org 192.168.0.1",
    "<0x41> <0xFF><0x0A> x<0x20>y",
    "a</s>b <pad> <unk> <s> <extra_id_0>",
)
_ODD_PIECES = 256


def silent_reference(model: Any) -> Any:
    """SentencePiece for a model (its protobuf message), with no text for unknown tokens.

    It writes them as " ⁇ "; in a tokenizer.json they are special tokens, which leave no text.
    """
    import sentencepiece

    silent = type(model).FromString(model.SerializeToString())
    silent.trainer_spec.unk_surface = ""
    return sentencepiece.SentencePieceProcessor(model_proto=silent.SerializeToString())


def check_equal(tokenizer: Tokenizer, model: Any) -> None:
    """Raise ConvertError naming the first text that the two read or write differently."""
    reference = silent_reference(model)
    plain = PlainText(tokenizer).tokenizer
    decoder = TextDecoder(tokenizer)
    special = special_tokens(tokenizer).keys()
    for text in (*TEXTS, *_of_odd_pieces(model)):
        ids = plain.encode(text, add_special_tokens=False).ids
        expected = reference.encode(text)
        if special & set(expected) - {reference.unk_id()}:
            continue  # an extra id that the model has as a symbol: here it is a control token
        if ids != expected:
            raise _refused(f"reads {text!r} as the tokens {ids}", expected)
        written, back = decoder.decode(expected), reference.decode(expected)
        if written != back:
            raise _refused(f"writes the tokens {expected} as {written!r}", back)


def _refused(what: str, expected: object) -> ConvertError:
    return ConvertError(
        f"the tokenizer.json made of spiece.model {what}, SentencePiece as {expected!r}: it would "
        "serve another text than the model was trained with. Put the tokenizer.json of the model's "
        "publisher beside spiece.model"
    )


def _of_odd_pieces(model: Any) -> Iterator[str]:
    """Texts with the model's control tokens and symbols as characters."""
    odd = [p.piece for p in model.pieces if p.type in (CONTROL, USER_DEFINED)][:_ODD_PIECES]
    for piece in odd:
        yield f"a {piece}b{piece} {piece}"
