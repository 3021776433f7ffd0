"""Folders with the tokenizer files of ByT5 and CodeT5 as they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from factories import TEXT

EXTRA = 125  # of ByT5, which has them behind the bytes


def _token(content: str, **changes: Any) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    return {"content": content, **plain, **changes, "__type": "AddedToken"}


def byt5_files(folder: Path, **changes: Any) -> Path:
    """tokenizer_config.json of google/byt5, with some fields changed; `...` removes one."""
    config = {
        "tokenizer_class": "ByT5Tokenizer",
        "pad_token": _token("<pad>"),
        "eos_token": _token("</s>"),
        "unk_token": _token("<unk>"),
        "extra_ids": EXTRA,
        "additional_special_tokens": [f"<extra_id_{n}>" for n in range(EXTRA)],
        **changes,
    }
    config = {name: value for name, value in config.items() if value is not ...}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def codet5_files(folder: Path, *, extra: int = 5, **changes: Any) -> Path:
    """vocab.json, merges.txt and what is beside them in Salesforce/codet5, of few merges."""
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    corpus = [f"def {word}(x):\n    return {word} + 'é'\n" for word in TEXT.split()] * 5
    special = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(corpus, vocab_size=400, special_tokens=special)
    trained.save_model(str(folder))
    known = trained.get_vocab_size()
    names = [f"<extra_id_{n}>" for n in range(extra - 1, -1, -1)]
    config = {
        "tokenizer_class": "RobertaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": _token("<mask>", lstrip=True),
        "errors": "replace",
        "add_prefix_space": False,
        "additional_special_tokens": names,
        **changes,
    }
    added = {name: known + n for n, name in enumerate(names)}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
