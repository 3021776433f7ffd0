"""Members that are published as .bin without tokenizer.json, from that folder to their answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from class_tokenizers import byt5_files, codet5_files
from decoding import load_reference, make_sequence, run
from factories import tiny_t5
from jumplora_adapters.convert.backbone_import import import_backbone
from jumplora_adapters.errors import BackboneError, ConvertError
from jumplora_adapters.tokenizer import load_tokenizer, token_ids
from jumplora_server.core import Sampling
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.tokenizer import Tokenizer
from odd_shapes import MEMBERS
from spiece_models import spiece_model

PLAIN = {"byte_fallback": True, "normalization_rule_name": "identity"}  # read in no time
TEXTS = ("def river(x):\n    return 'good'", "naïve  film 🦙", "the city <extra_id_0> and")


@dataclass(frozen=True, slots=True)
class Published:
    """A member's tokenizer files, and the ids of a text by whatever reads them for it."""

    write: Callable[[Path], object]
    reads: Callable[[Path, str], list[int]]
    ends: int
    fields: dict[str, Any] = field(default_factory=dict)


def _by_transformers(folder: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(folder)(text).input_ids
    return ids


def _by_sentencepiece(folder: Path, text: str) -> list[int]:
    """With the end token; T5's sentinel is behind the model's own pieces."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    before, sentinel, after = text.partition("<extra_id_0>")
    if not sentinel or not (extra := json.loads((folder / "added_tokens.json").read_text())):
        return [*model.encode(text), model.eos_id()]
    return [*model.encode(before), extra[sentinel], *model.encode(after), model.eos_id()]


def _pieces(folder: Path, *, extra: int, **options: Any) -> None:
    import sentencepiece

    path = spiece_model(folder, vocab_size=420, **PLAIN, **options)
    known = sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size()
    added = {f"<extra_id_{extra - 1 - n}>": known + n for n in range(extra)}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))


PUBLISHED: dict[str, Published] = {
    "ByT5": Published(byt5_files, _by_transformers, ends=1),
    "CodeT5": Published(codet5_files, _by_transformers, ends=2),
    "umT5": Published(lambda folder: _pieces(folder, extra=30), _by_sentencepiece, ends=1),
    # Its tokenizer has no sentinels, and other numbers for its control tokens.
    "MADLAD-400": Published(
        lambda folder: _pieces(folder, extra=0, unk_id=0, bos_id=1, eos_id=2, pad_id=-1),
        _by_sentencepiece, ends=2,
    ),
}  # fmt: skip


def write_published(folder: Path, member: str) -> Path:
    """A .bin with the tokenizer's own files."""
    tiny_t5(folder, seed=3, **MEMBERS[member])
    state = load_file(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    PUBLISHED[member].write(folder)
    return folder


@pytest.mark.parametrize("member", PUBLISHED)
def test_what_is_imported_reads_and_answers_as_the_original(member: str, tmp_path: Path) -> None:
    published = PUBLISHED[member]
    source = write_published(tmp_path / "published", member)
    imported = import_backbone(source, tmp_path / "imported")
    assert imported.tokenizer == "made"
    engine = Engine(
        imported.folder, max_rows=4, max_source_tokens=64, max_target_tokens=8, dtype="float32"
    )
    tokenizer = Tokenizer.load(imported.folder, rows=engine.vocab_size)
    trained = load_tokenizer(imported.folder)
    prompts = [published.reads(source, text) for text in TEXTS]
    assert [list(tokenizer.encode(text)) for text in TEXTS] == prompts
    assert token_ids(trained.raw, TEXTS, published.ends) == [tuple(ids) for ids in prompts]
    sampling = Sampling(max_new_tokens=8)
    rows = [make_sequence(ids, row=n, sampling=sampling) for n, ids in enumerate(prompts)]
    theirs = load_reference(source)
    for ids, answer in zip(prompts, run(engine, rows), strict=True):
        expected = theirs.generate(torch.tensor([ids]), max_new_tokens=8)[0, 1:].tolist()
        assert answer == expected
        assert tokenizer.decode(answer) == trained.decoder.decode(answer)


def test_without_transformers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_published(tmp_path / "published", "ByT5")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConvertError, match=r"ByT5Tokenizer, .* extra `train`"):
        import_backbone(source, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


def test_a_relative_is_refused_where_it_is_imported_and_where_it_is_served(tmp_path: Path) -> None:
    source = write_published(tmp_path / "published", "ByT5")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "model_type": "longt5"}))
    with pytest.raises(BackboneError, match=r"'longt5' \(LongT5, .*allowed are t5, mt5, umt5"):
        import_backbone(source, tmp_path / "imported")
    with pytest.raises(BackboneError, match=r"'longt5' \(LongT5, .*allowed are t5, mt5, umt5"):
        Engine(source)
