from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from factories import CHARACTERS, TEXT, Style, tiny_t5
from foreign_checkpoints import WAS_RUN, RunsCode
from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.convert.backbone_import import import_backbone
from jumplora_adapters.errors import AdapterError, BackboneError, ConvertError
from spiece_models import spiece_model

HEAD = "lm_head.weight"
SHARED = "shared.weight"
ENCODER_ALIAS, DECODER_ALIAS = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
OBSOLETE = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def _pickled(folder: Path, style: Style, *, shards: int = 1) -> Path:
    """A checkpoint as the published T5 .bin files are: every alias under its name, one storage."""
    tiny_t5(folder, style=style)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for alias in (ENCODER_ALIAS, DECODER_ALIAS, *((HEAD,) if style == "v1.0" else ())):
        state[alias] = state[SHARED]
    if style == "v1.0":
        state[OBSOLETE] = torch.ones(8, 4)
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    weight_map: dict[str, str] = {}
    for index in range(shards):
        name = f"pytorch_model-{index + 1:05d}-of-{shards:05d}.bin"
        part = {key: state[key] for key in sorted(state)[index::shards]}
        torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index_file = folder / "pytorch_model.bin.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def _logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    ids = torch.arange(3, 19).view(1, -1)
    with torch.no_grad():
        logits: torch.Tensor = model(
            input_ids=ids, decoder_input_ids=torch.tensor([[0, 5, 9]])
        ).logits
    return logits


@pytest.mark.parametrize("style", ["v1.0", "v1.1", "mt5", "umt5"])
def test_loads_as_the_pickle_did(style: Style, tmp_path: Path) -> None:
    source = _pickled(tmp_path / "bin", style)
    imported = import_backbone(source, tmp_path / "safe")
    assert torch.equal(_logits(imported.folder), _logits(source))
    state = load_file(imported.folder / "model.safetensors")
    assert not {ENCODER_ALIAS, DECODER_ALIAS, OBSOLETE} & state.keys()
    assert (HEAD in state) == (style != "v1.0")
    assert imported.tensors == len(state)
    assert imported.nbytes == sum(tensor.nbytes for tensor in state.values())
    assert {ENCODER_ALIAS, DECODER_ALIAS} <= set(imported.dropped)
    assert (HEAD in imported.dropped) == (style == "v1.0")
    assert imported.tokenizer == "copied"
    # The same as the safetensors checkpoint that it was before.
    reference = tiny_t5(tmp_path / "reference", style=style)
    assert read_backbone(imported.folder).fingerprint == read_backbone(reference).fingerprint


def test_shards_are_read_and_written(tmp_path: Path) -> None:
    whole = import_backbone(_pickled(tmp_path / "one", "v1.1"), tmp_path / "whole")
    source = _pickled(tmp_path / "many", "v1.1", shards=3)
    parts = import_backbone(source, tmp_path / "parts", max_shard_bytes=40_000)
    files = sorted(path.name for path in parts.folder.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((parts.folder / "model.safetensors.index.json").read_text())
    state = load_file(whole.folder / "model.safetensors")
    assert set(index["weight_map"]) == set(state)
    assert index["metadata"]["total_size"] == parts.nbytes
    assert read_backbone(parts.folder).fingerprint == read_backbone(whole.folder).fingerprint
    assert torch.equal(_logits(parts.folder), _logits(whole.folder))


def test_stacks_with_embeddings_of_their_own_keep_them(tmp_path: Path) -> None:
    source = _pickled(tmp_path / "bin", "v1.1")
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    state[DECODER_ALIAS] = state[SHARED] + 1
    torch.save(state, source / "pytorch_model.bin")
    imported = import_backbone(source, tmp_path / "safe")
    kept = load_file(imported.folder / "model.safetensors")
    assert torch.equal(kept[DECODER_ALIAS], state[DECODER_ALIAS])
    assert imported.dropped == (ENCODER_ALIAS,)
    assert torch.equal(_logits(imported.folder), _logits(source))


def test_safetensors_beside_are_what_is_read(tmp_path: Path) -> None:
    source = _pickled(tmp_path / "bin", "v1.0")
    other = tiny_t5(tmp_path / "other", style="v1.0", seed=9)
    shutil.copy(other / "model.safetensors", source)
    imported = import_backbone(source, tmp_path / "safe")
    state = load_file(imported.folder / "model.safetensors")
    theirs = load_file(other / "model.safetensors")
    assert state.keys() == theirs.keys()
    assert all(torch.equal(state[name], theirs[name]) for name in theirs)
    assert torch.equal(_logits(imported.folder), _logits(source))


def test_a_head_that_equals_the_embedding_is_not_kept_twice(tmp_path: Path) -> None:
    source = _pickled(tmp_path / "bin", "v1.1")
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    state[HEAD] = state[SHARED]
    torch.save(state, source / "pytorch_model.bin")
    imported = import_backbone(source, tmp_path / "safe")
    assert HEAD in imported.dropped
    assert torch.equal(_logits(imported.folder), _logits(source))


def test_a_lone_alias_becomes_the_shared_embedding(tmp_path: Path) -> None:
    source = _pickled(tmp_path / "bin", "v1.0")
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    embedding = state.pop(SHARED)
    del state[DECODER_ALIAS], state[HEAD]
    torch.save(state, source / "pytorch_model.bin")
    imported = import_backbone(source, tmp_path / "safe")
    assert torch.equal(load_file(imported.folder / "model.safetensors")[SHARED], embedding)


def test_tokenizer_json_is_made_of_spiece_model(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    source = _pickled(tmp_path / "bin", "v1.0")
    (source / "tokenizer.json").unlink()
    (tmp_path / "corpus.txt").write_text(f"{TEXT}\n{' '.join(CHARACTERS)}\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"),
        model_prefix=str(source / "spiece"),
        vocab_size=120,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 100}
    (source / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5Tokenizer", **special})
    )
    imported = import_backbone(source, tmp_path / "safe")
    assert imported.tokenizer == "made"
    made = Tokenizer.from_file(str(imported.folder / "tokenizer.json"))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(source / "spiece.model"))
    for text in ("good film about the city", "  three  books!", "never (always) good"):
        assert made.encode(text).ids == [*pieces.encode(text), 1]
    assert made.token_to_id("<extra_id_0>") == 219


def test_without_sentencepiece_the_tokenizer_is_reported_missing(
    pickled_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "bin"
    shutil.copytree(pickled_t5, source)
    (source / "tokenizer.json").unlink()
    (source / "spiece.model").write_bytes(b"not looked at")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    imported = import_backbone(source, tmp_path / "safe")
    assert imported.tokenizer == "missing"
    assert (imported.folder / "spiece.model").read_bytes() == b"not looked at"


def _resave(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(source: Path) -> None:
        state = torch.load(source / "pytorch_model.bin", weights_only=True)
        torch.save(change(state), source / "pytorch_model.bin")

    return apply


def _config(**changes: Any) -> Callable[[Path], None]:
    def apply(source: Path) -> None:
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | changes))

    return apply


def _index(weight_map: Any) -> Callable[[Path], None]:
    def apply(source: Path) -> None:
        (source / "pytorch_model.bin").unlink()
        (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return apply


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        pytest.param(
            lambda source: (source / "config.json").unlink(),
            BackboneError,
            "config.json",
            id="config",
        ),
        pytest.param(_config(auto_map={"x": "y"}), BackboneError, "auto_map", id="foreign code"),
        pytest.param(_config(model_type="llama"), BackboneError, "llama", id="another family"),
        pytest.param(_config(num_layers=3), BackboneError, "lacks", id="missing block"),
        pytest.param(
            lambda source: (source / "tokenizer.json").unlink(),
            ConvertError,
            r"/bin has no tokenizer: .*spiece\.model .*ByT5Tokenizer .*RobertaTokenizer .*merges",
            id="no tokenizer",
        ),
        pytest.param(
            lambda source: (source / "pytorch_model.bin").unlink(),
            ConvertError,
            "neither pytorch_model.bin nor",
            id="no weights",
        ),
        pytest.param(
            lambda source: (source / "generation_config.json").write_text(
                '{"decoder_start_token_id": 0, "eos_token_id": 1, "no_repeat_ngram_size": 3}'
            ),
            BackboneError,
            "bin/generation_config.json: no_repeat_ngram_size is 3",
            id="bans",
        ),
        pytest.param(_resave(list), ConvertError, "holds a list", id="no dict"),
        pytest.param(
            _resave(lambda state: {**state, "x": 3}),
            ConvertError,
            "not a named tensor",
            id="number",
        ),
        pytest.param(
            _resave(lambda state: {**state, "x": RunsCode()}), ConvertError, "run code", id="code"
        ),
        pytest.param(
            _resave(lambda state: {**state, "transformer.shared.weight": state[SHARED]}),
            ConvertError,
            "repeats the tensor 'shared.weight'",
            id="two names",
        ),
        pytest.param(
            _resave(lambda state: {**state, "classifier.weight": state[SHARED]}),
            BackboneError,
            "classifier.weight, which does not belong",
            id="foreign tensor",
        ),
        pytest.param(
            _config(feed_forward_proj="gated-mish"), BackboneError, "gated-mish", id="not served"
        ),
        pytest.param(
            _resave(lambda state: {"x": state[HEAD]}), ConvertError, "not a T5 model", id="no T5"
        ),
        pytest.param(
            _resave(lambda state: {SHARED: torch.tensor(1.0), HEAD: torch.tensor(1.0)}),
            ConvertError,
            r"shared\.weight has the shape \[\], expected a matrix",
            id="an embedding without rows",
        ),
        pytest.param(_index({"x": "../x.bin"}), ConvertError, "own folder", id="path in index"),
        pytest.param(_index({"x": "x.bin"}), ConvertError, "no checkpoint file", id="lost shard"),
        pytest.param(_index([1]), ConvertError, "weight_map", id="index of another kind"),
    ],
)
def test_refused_and_nothing_left(
    spoil: Callable[[Path], None],
    error: type[AdapterError],
    message: str,
    tmp_path: Path,
    pickled_t5: Path,
) -> None:
    source = tmp_path / "bin"
    shutil.copytree(pickled_t5, source)
    spoil(source)
    with pytest.raises(error, match=message):
        import_backbone(source, tmp_path / "out" / "safe")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert not WAS_RUN.exists()


def test_a_folder_in_use_is_refused(pickled_t5: Path, tmp_path: Path) -> None:
    (tmp_path / "safe").mkdir()
    (tmp_path / "safe" / "note").write_text("mine")
    with pytest.raises(ConvertError, match="not an empty folder"):
        import_backbone(pickled_t5, tmp_path / "safe")
    assert [path.name for path in (tmp_path / "safe").iterdir()] == ["note"]


@pytest.fixture(scope="module")
def pickled_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _pickled(tmp_path_factory.mktemp("pickled") / "bin", "v1.1")


def test_a_tokenizer_that_would_read_otherwise_refuses_the_import(
    pickled_t5: Path, tmp_path: Path
) -> None:
    source = tmp_path / "bin"
    shutil.copytree(pickled_t5, source)
    (source / "tokenizer.json").unlink()
    spiece_model(source, normalization_rule_name="identity", treat_whitespace_as_suffix=True)
    with pytest.raises(ConvertError, match=r"reads .* as the tokens .*, SentencePiece as"):
        import_backbone(source, tmp_path / "safe")
    assert not (tmp_path / "safe").exists()
    whole = (source / "spiece.model").read_bytes()
    for content, message in (
        (b"no model", "is not a SentencePiece model"),
        (whole[:1000], "is not a SentencePiece model"),
        (b"", "no token for unknown"),
    ):
        (source / "spiece.model").write_bytes(content)
        with pytest.raises(ConvertError, match=rf"spiece\.model .*{message}"):
            import_backbone(source, tmp_path / "safe")
