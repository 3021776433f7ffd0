"""A text that is read as far as needed gives the tokens of the whole text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from factories import tiny_tokenizer
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import Frame, render, render_truncated
from jumplora_server.engine.first_words import first_words, read_by_word
from jumplora_server.engine.tokenizer import Tokenizer

EOS = 1
DEMO = Path(__file__).parents[3] / "adapters" / "demo" / "backbone" / "tokenizer.json"


def demo() -> RawTokenizer:
    """T5's own, as it comes from the hub."""
    raw = RawTokenizer.from_file(str(DEMO))
    raw.no_truncation()
    return raw


def older() -> RawTokenizer:
    """As transformers made them: runs of spaces are replaced, only Metaspace splits."""
    raw = demo()
    raw.normalizer = normalizers.Sequence(
        [
            raw.normalizer,
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    raw.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    return raw


RAW = {
    "demo": demo(),
    "older": older(),
    "tiny": tiny_tokenizer(),
    "mt5": tiny_tokenizer(style="mt5"),
}
READERS = {name: Tokenizer(raw, eos_token_id=EOS) for name, raw in RAW.items()}

# Words and what stands between them: joiners, marks that combine, runs of spaces, line ends,
# special tokens, and characters that normalisation turns into several or none.
PIECES = [
    *("a", "good", "film", "unbelievable", "x" * 40, "1,000", "ﬃ", "é", "e\u0301", "ß", "①", "￥"),
    *(" ", " ", " ", " ", "  ", "   ", "\n", "\t", "\u3000", "\u00a0", "▁", "▁▁", "\u200b"),
    *(
        "\u0301",
        "\u200d",
        "👩‍👩‍👧",
        "🇩🇪",
        "日本語",
        "한국",
        "ि",
        "\u0600",
        "</s>",
        "<extra_id_0>",
        ".",
    ),
    *("\0", "\x7f", "\ufffd", "ﷺ", "½", "<unk>", "<pad>"),
]
texts = st.builds(
    lambda pieces, times, end: "".join(pieces) * times + "".join(end),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=40),
    st.integers(1, 80),
    st.lists(st.sampled_from(PIECES), max_size=40),
)


def reference(raw: RawTokenizer, text: str) -> tuple[int, ...]:
    ids = raw.encode(text).ids
    return tuple(ids if ids[-1:] == [EOS] else [*ids, EOS])


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150)
@given(text=texts, most=st.integers(1, 40))
def test_a_cut_text_is_that_of_all_its_tokens(name: str, text: str, most: int) -> None:
    ids = reference(RAW[name], text)
    cut = ids if len(ids) <= most else (*ids[: most - 1], EOS)
    assert READERS[name].encode(text) == ids
    assert READERS[name].encode(text, truncate_to=most) == cut
    assert READERS[name].try_encode(text, most) == (ids if len(ids) <= most else None)


specs = st.builds(
    lambda before, after, again: PromptSpec(
        template=f"{{instruction}}{before}{{text}}{after}" + (f"{again}{{text}}" * bool(again)),
        instruction="do it",
    ),
    *[st.lists(st.sampled_from(PIECES), max_size=4).map("".join)] * 2,
    st.sampled_from(["", "", " and ", "-"]),
)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150)
@given(text=texts, spec=specs, most=st.integers(24, 60))
def test_a_prompt_is_cut_as_if_all_of_its_text_were_read(
    name: str, text: str, spec: PromptSpec, most: int
) -> None:
    if len(RAW[name].encode(render(spec, "")).ids) > most:
        return
    beginning = READERS[name].beginning(text, 2 * most)
    assert text.startswith(beginning)
    whole = render_truncated(Frame.of(spec), text, RAW[name], most)
    assert render_truncated(Frame.of(spec), beginning, RAW[name], most) == whole


@pytest.mark.parametrize("name", READERS)
def test_what_is_far_too_long_is_not_read_to_its_end(name: str) -> None:
    text = "good film " * 10_000
    beginning = READERS[name].beginning(text, 100)
    assert len(beginning) < 2000
    assert READERS[name].try_encode(text, 100) is None


def test_where_a_text_may_be_cut() -> None:
    assert first_words("one two three", 1) == "one"
    assert first_words("one two three", 3) == "one"
    assert first_words("one two three", 4) == "one two"
    assert first_words("one two three", 9) is None
    assert first_words("é é  a  \u0301b\tc", 1) is None, "never beside what may join its neighbour"


def changed(**parts: object) -> RawTokenizer:
    raw = tiny_tokenizer()
    for name, part in parts.items():
        setattr(raw, name, part)
    return raw


def with_token(token: AddedToken) -> RawTokenizer:
    raw = tiny_tokenizer()
    raw.add_tokens([token])
    return raw


METASPACE = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False)
NOT_BY_WORD: dict[str, RawTokenizer] = {
    "pairs of characters": changed(
        pre_tokenizer=pre_tokenizers.Split(Regex(r"[\s\S]{2}"), "isolated")
    ),
    "nothing splits": changed(pre_tokenizer=None),
    "spaces do not split": changed(pre_tokenizer=METASPACE),
    "one of two does not": changed(
        pre_tokenizer=pre_tokenizers.Sequence([METASPACE, pre_tokenizers.Punctuation()])
    ),
    "spaces are removed": changed(normalizer=normalizers.Replace(" ", "")),
    "something is put before": changed(normalizer=normalizers.Prepend("x")),
    "a token of two words": with_token(AddedToken("good film")),
}


@pytest.mark.parametrize("raw", NOT_BY_WORD.values(), ids=NOT_BY_WORD.keys())
def test_what_is_not_read_by_word_is_read_as_a_whole(raw: RawTokenizer) -> None:
    assert not read_by_word(raw)
    tokenizer = Tokenizer(raw, eos_token_id=EOS)
    text = "good film " * 300
    assert tokenizer.beginning(text, 1) == text
    assert tokenizer.encode(text, truncate_to=9) == (*raw.encode(text).ids[:8], EOS)


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW.keys())
def test_what_is_read_by_word(raw: RawTokenizer) -> None:
    assert read_by_word(raw)
