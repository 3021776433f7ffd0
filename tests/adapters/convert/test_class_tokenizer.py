"""ByT5's and CodeT5's tokenizers as tokenizer.json: transformers' ids and texts, in and out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from class_tokenizers import byt5_files, codet5_files
from jumplora_adapters.control_tokens import PlainText
from jumplora_adapters.convert.class_tokenizer import make_class_tokenizer, stated_class
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import Frame, render_truncated
from jumplora_adapters.tokenizer import token_ids
from jumplora_server.engine.first_words import read_by_word
from jumplora_server.engine.tokenizer import Tokenizer as Served
from spiece_models import hard_texts

NAMES = ("</s>", "<pad>", "<unk>", "<s>", "<mask>", "<extra_id_0>", "<extra_id_12>", "<0x41>")
# Characters that one library strips beside a token and the other one does not.
SEPARATORS = "\x1c\x1d\x1e\x1f"
TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SEPARATORS), max_size=9)
    | st.sampled_from((*NAMES, " ", "  ", "\n", "é", "🦙")),
    max_size=8,
).map("".join)

# Any, and often those that begin or end the characters of several bytes.
BYTES = st.integers(0, 258) | st.sampled_from([195, 172, 133, 229, 231, 240])


class Pair:
    """transformers' tokenizer of a folder and ours, made of the same files."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        name = stated_class(folder)
        assert name is not None
        self.theirs: Any = AutoTokenizer.from_pretrained(folder)
        made = make_class_tokenizer(folder, name)
        made.save(str(folder / "tokenizer.json"))
        self.raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.end: int = self.theirs.eos_token_id
        self.served = Served(self.raw, eos_token_id=self.end)

    def expected(self, text: str) -> list[int]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # ByT5Tokenizer's, of a text with </s>
            ids: list[int] = self.theirs(text).input_ids
        return ids

    def written(self, ids: Sequence[int]) -> str:
        text: str = self.theirs.decode(list(ids), skip_special_tokens=True)
        return text

    def streamed(self, ids: Sequence[int]) -> tuple[list[str], str]:
        """The pieces, and what comes at the end."""
        detokenizer = self.served.detokenizer()
        return [detokenizer.push(token) for token in ids], detokenizer.flush()


BYT5: dict[str, dict[str, Any]] = {
    "published": {},
    "names alone": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    "no extra ids": {"extra_ids": 0, "additional_special_tokens": []},
    "few fields": {"extra_ids": ..., "additional_special_tokens": ..., "unk_token": ...},
}


@pytest.fixture(scope="module", params=[*BYT5, "saved again", "saved with a token more"])
def byt5(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = byt5_files(tmp_path_factory.mktemp("byt5"), **BYT5.get(request.param, {}))
    if request.param.startswith("saved"):
        from transformers import AutoTokenizer

        loaded: Any = AutoTokenizer.from_pretrained(folder)
        if request.param.endswith("more"):
            loaded.add_tokens([AddedToken("[X]", normalized=False)])
        loaded.save_pretrained(folder)
    return Pair(folder)


@pytest.fixture(scope="module", params=["published", "a first space"])
def codet5(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    changes = {"add_prefix_space": True} if request.param == "a first space" else {}
    return Pair(codet5_files(tmp_path_factory.mktemp("codet5"), **changes))


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_byt5_reads_texts_as_transformers_does(byt5: Pair, text: str) -> None:
    expected = byt5.expected(text)
    assert token_ids(byt5.raw, [text], byt5.end) == [tuple(expected)]
    assert list(byt5.served.encode(text)) == expected


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(BYTES, max_size=12))
def test_byt5_writes_any_ids_as_transformers_does_whole_and_in_pieces(
    byt5: Pair, ids: list[int]
) -> None:
    expected = byt5.written(ids)
    assert byt5.served.decode(ids) == expected
    pieces, rest = byt5.streamed(ids)
    assert "".join(pieces) + rest == expected


def test_byt5_extra_ids_and_hard_texts(byt5: Pair) -> None:
    plain = PlainText(byt5.raw, [byt5.end]).tokenizer
    for text in (*hard_texts(200), "a<extra_id_0>b <extra_id_124>", "[X] [X]", *NAMES):
        if not any(separator in text for separator in SEPARATORS):
            assert list(byt5.served.encode(text)) == byt5.expected(text), ascii(text)
        if "[X]" in text:
            continue
        # Where control tokens are characters, a text is its bytes.
        assert plain.encode(text).ids == [byte + 3 for byte in text.encode()]
    for ids in ([*range(byt5.raw.get_vocab_size())], [259, 104, 383, 105, 1]):
        known = [token for token in ids if byt5.raw.id_to_token(token) is not None]
        assert byt5.served.decode(known) == byt5.written(known)


def test_byt5_characters_come_as_they_are_complete(byt5: Pair) -> None:
    """Not at the end alone, although all tokens are bytes."""
    ids = [byte + 3 for byte in "aé🦙".encode()] + [0x80 + 3, 0x62 + 3]
    assert byt5.streamed(ids) == (["a", "", "é", "", "", "", "🦙", "", "b"], "")
    assert byt5.streamed([0xE2 + 3, 0x82 + 3]) == (["", ""], "")


def test_long_byt5_texts_are_not_read_to_their_end(byt5: Pair) -> None:
    assert read_by_word(byt5.raw)
    text = "The river is good <0x41> " * 200
    expected = (*(byte + 3 for byte in text.encode()[:49]), 1)
    assert byt5.served.encode(text, truncate_to=50) == expected
    assert byt5.served.try_encode(text, 50) is None


def test_a_text_in_a_template_is_cut_between_its_characters(byt5: Pair) -> None:
    frame = Frame.of(PromptSpec(template="Text: {text}\nAnswer:"))
    prompt = render_truncated(frame, "the naïve 🦙 film" * 20, byt5.raw, 31)
    assert prompt == "Text: the naïve 🦙 \nAnswer:"
    assert len(byt5.served.encode(prompt)) == 31
    for most in (26, 27, 28, 29):  # what is left has no room for four bytes
        prompt = render_truncated(frame, "the naïve 🦙 film", byt5.raw, most)
        assert prompt == "Text: the naïve \nAnswer:"


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_codet5_reads_texts_as_transformers_does(codet5: Pair, text: str) -> None:
    expected = codet5.expected(text)
    assert list(codet5.served.encode(text)) == expected
    most = max(2, len(expected) // 2)
    cut: list[int] = codet5.theirs(text, truncation=True, max_length=most).input_ids
    assert list(codet5.served.encode(text, truncate_to=most)) == cut


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_codet5_writes_any_ids_as_transformers_does_whole_and_in_pieces(
    codet5: Pair, data: st.DataObject
) -> None:
    size = codet5.raw.get_vocab_size()
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=12))
    expected = codet5.written(ids)
    assert codet5.served.decode(ids) == expected
    pieces, rest = codet5.streamed(ids)
    assert "".join(pieces) + rest == expected


def test_codet5_has_the_ids_of_its_files(codet5: Pair) -> None:
    assert [codet5.raw.token_to_id(name) for name in ("<pad>", "<s>", "</s>")] == [0, 1, 2]
    size = codet5.raw.get_vocab_size()
    assert codet5.raw.token_to_id("<extra_id_0>") == size - 1
    assert codet5.expected("x")[0] == 1
    plain = PlainText(codet5.raw, [codet5.end]).tokenizer
    for text in (*hard_texts(200), *NAMES):
        ids = plain.encode(text).ids
        assert (ids[0], ids[-1]) == (1, 2)
        # No control token in between, though the text may have their names.
        assert codet5.served.decode(ids).strip() == text.strip()


def test_a_class_without_its_files_is_refused(tmp_path: Path) -> None:
    assert stated_class(tmp_path) is None
    codet5_files(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ConvertError, match=r"RobertaTokenizer, which needs vocab\.json and merges"):
        stated_class(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"eos_token": 7}, "transformers cannot read the ByT5Tokenizer", id="a number"),
        pytest.param(
            {"added_tokens_decoder": {"65": {"content": "A", "special": True}}},
            r"ids \[0, 1, 2, .*65", id="an id of a byte",
        ),
    ],
)  # fmt: skip
def test_byt5_files_of_another_kind_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    byt5_files(tmp_path, **changes)
    with pytest.raises(ConvertError, match=message):
        make_class_tokenizer(tmp_path, "ByT5Tokenizer")
