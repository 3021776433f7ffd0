"""CTranslate2 with one task's delta merged into the weights: fast, and one task only.

Converted by CTranslate2's own converter from a merged Hugging Face folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from jumplora_adapters.delta import Delta
from jumplora_bench.cases.case import Lap, Tokens, Work
from jumplora_bench.extra import peer


def convert_merged(backbone: Path, deltas: Mapping[str, Delta], into: Path) -> Path:
    """A CTranslate2 model of the backbone with the deltas added; float32, returned as a folder."""
    merged = into / "merged"
    merged.mkdir(parents=True)
    weights = load_file(backbone / "model.safetensors")
    for module, delta in deltas.items():
        weights[f"{module}.weight"] += delta.to_dense()
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    for file in backbone.glob("*.json"):
        shutil.copy(file, merged)
    converter = peer("ctranslate2.converters").TransformersConverter(str(merged))
    return Path(converter.convert(str(into / "ct2"), force=True))


class MergedCase:
    """A translator over token strings, greedy, exactly `new` tokens a row."""

    def __init__(self, name: str, model: Path, work: Work, compute_type: str) -> None:
        self.name = name
        self._translator = peer("ctranslate2").Translator(
            str(model),
            device=work.device,
            compute_type=compute_type,
            inter_threads=1,
            intra_threads=work.threads,
        )
        tokenizer = Tokenizer.from_file(str(work.backbone / "tokenizer.json"))
        self._ids = tokenizer.get_vocab()
        self._prompts = [[tokenizer.id_to_token(i) for i in prompt] for prompt in work.prompts]
        self._new = work.new

    def run(self) -> Lap:
        """One batch."""
        began = time.perf_counter()
        results = self._translator.translate_batch(
            self._prompts,
            beam_size=1,
            max_decoding_length=self._new,
            min_decoding_length=self._new,
        )
        seconds = time.perf_counter() - began
        return Lap(seconds, self._tokens([result.hypotheses[0] for result in results]))

    def _tokens(self, rows: list[list[str]]) -> Tokens:
        return tuple(tuple(self._ids[token] for token in row) for row in rows)
