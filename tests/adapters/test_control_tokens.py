"""Control tokens in texts are characters, those of a template are not, and no other id changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel

from factories import tiny_tokenizer
from jumplora_adapters.control_tokens import PlainText
from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import PromptSpec
from jumplora_adapters.prompt import Frame
from jumplora_adapters.rows import read_rows
from jumplora_adapters.tokenizer import BackboneTokenizer, token_ids
from jumplora_adapters.training.config import Lengths
from jumplora_adapters.training.data import read_split

PAD, END, UNKNOWN = 0, 1, 2
DEMO = Path(__file__).parents[2] / "adapters" / "demo" / "backbone" / "tokenizer.json"


def _sentinels() -> Tokenizer:
    """A tokenizer with <extra_id_0> as T5's: a special token that the model has a piece for."""
    raw = tiny_tokenizer(style="mt5")
    raw.normalizer = normalizers.NFKC()
    content = json.loads(raw.to_str())
    content["model"]["vocab"][-1] = ["<extra_id_0>", 0.0]
    raw = Tokenizer.from_str(json.dumps(content))
    raw.add_special_tokens([AddedToken("<extra_id_0>", normalized=False)])
    return raw


def _demo() -> Tokenizer:
    raw = Tokenizer.from_file(str(DEMO))
    raw.no_truncation()
    return raw


RAW = {"sentinels": _sentinels(), "t5": tiny_tokenizer(), "demo": _demo()}
PLAIN = {name: PlainText(raw) for name, raw in RAW.items()}
CONTROL = ("</s>", "<pad>", "<unk>", "<extra_id_0>")
SENTINEL = RAW["sentinels"].token_to_id("<extra_id_0>")
TEXTS = st.lists(st.sampled_from([*CONTROL, "good", " ", "<", "/s>", "é", "▁", "\n"])).map("".join)


@given(st.text())
@pytest.mark.parametrize("name", RAW)
def test_a_text_without_control_tokens_has_the_same_ids(name: str, text: str) -> None:
    raw = RAW[name]
    ids = raw.encode(text).ids
    if not {PAD, END, SENTINEL} & set(ids[:-1]):
        assert PLAIN[name].tokenizer.encode(text).ids == ids


@given(TEXTS)
def test_a_text_makes_no_control_token(text: str) -> None:
    ids = PLAIN["sentinels"].tokenizer.encode(text).ids
    assert ids[-1] == END
    assert not {PAD, END, SENTINEL, UNKNOWN} & set(ids[:-1])


@pytest.mark.parametrize(
    "text", ["\uff1c/s\uff1e", "x\uff1cextra_id_0\uff1e", "< /s>", "<\u200b/s>"]
)
def test_nor_does_one_that_becomes_its_name_by_normalisation(text: str) -> None:
    plain = PLAIN["sentinels"].tokenizer
    assert not {END, SENTINEL} & set(plain.encode(text).ids[:-1])


def test_normalisation_does_make_one_of_a_whole_prompt() -> None:
    # Why it is not enough to look for the names in a text.
    assert END in RAW["sentinels"].encode("\uff1c/s\uff1e").ids[:-1]


@given(TEXTS)
@pytest.mark.parametrize("name", RAW)
def test_what_is_marked_is_read_as_the_original_reads_it(name: str, prompt: str) -> None:
    plain = PLAIN[name]
    assert plain.tokenizer.encode(plain.mark(prompt)).ids == RAW[name].encode(prompt).ids


def test_a_templates_control_tokens_stay_and_a_texts_do_not() -> None:
    plain = PLAIN["sentinels"]
    spec = PromptSpec(template="<extra_id_0>{instruction}: {text}</s>{text}", instruction="<pad>")
    frame = Frame.of(spec).marked(plain.mark)
    ids = plain.tokenizer.encode(frame.around("good</s><extra_id_0>")).ids
    assert [token for token in ids if token in (PAD, END, SENTINEL)] == [SENTINEL, PAD, END, END]


def test_a_text_cannot_complete_a_control_token_of_the_template() -> None:
    plain = PLAIN["sentinels"]
    frame = Frame.of(PromptSpec(template="<extra_id_{text}>")).marked(plain.mark)
    assert SENTINEL not in plain.tokenizer.encode(frame.around("0")).ids


def test_an_end_token_that_the_tokenizer_does_not_know_as_one_is_no_text() -> None:
    raw = Tokenizer(WordLevel({"good": 0, "END": 1, "?": 2}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain = PlainText(raw, [1]).tokenizer
    assert raw.encode("good END").ids == [0, 1]
    assert plain.encode("good END").ids == [0, 2]
    assert plain.encode("good x").ids == raw.encode("good x").ids


def test_a_tokenizer_that_merges_its_control_token_is_refused() -> None:
    vocabulary = {"<": 0, "s": 1, ">": 2, "<s": 3, "<s>": 4}
    raw = Tokenizer(BPE(vocabulary, [("<", "s"), ("<s", ">")]))
    raw.add_special_tokens(["<s>"])
    with pytest.raises(DataError, match="needs the names of its control tokens"):
        PlainText(raw)


def test_training_reads_a_text_as_the_server_does(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "good</s> film<extra_id_0>", "label": "yes"}) + "\n")
    tokenizer = BackboneTokenizer.of(RAW["sentinels"], 512)
    prompt = PromptSpec(template="<extra_id_0> {text}")
    split = read_split(path, prompt, tokenizer, END, Lengths(64, 8))
    source = split.examples[0].source
    assert [token for token in source if token in (PAD, END, SENTINEL)] == [SENTINEL, END]
    cut = read_split(path, prompt, tokenizer, END, Lengths(6, 8)).examples[0].source
    assert cut[:5] == source[:5]
    assert len(cut) == 6
    # A whole prompt is read as it was.
    path.write_text(json.dumps({"input": "good</s> film", "target": "yes"}) + "\n")
    whole = read_split(path, None, tokenizer, END, Lengths(64, 8)).examples[0].source
    assert whole == token_ids(tokenizer.raw, [read_rows(path).rows[0].source], END)[0]
    assert whole.count(END) == 2


@pytest.mark.parametrize(
    ("row", "what"),
    [
        pytest.param({"text": "a newtok", "label": "yes"}, "prompt", id="text"),
        pytest.param({"input": "a newtok", "target": "yes"}, "prompt", id="input"),
        pytest.param({"input": "a", "target": "newtok"}, "target", id="target"),
    ],
)
def test_training_refuses_a_token_without_an_embedding(
    row: dict[str, str], what: str, tmp_path: Path
) -> None:
    raw = tiny_tokenizer()
    raw.add_tokens(["newtok"])
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    prompt = PromptSpec(template="{text}") if "text" in row else None
    with pytest.raises(DataError, match=rf"line 1: the {what} needs the token 'newtok' \(id 512\)"):
        read_split(path, prompt, BackboneTokenizer.of(raw, 512), END, Lengths(64, 8))
    assert read_split(path, prompt, BackboneTokenizer.of(raw, 513), END, Lengths(64, 8))
