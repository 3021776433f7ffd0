"""Makes the folder it lies in: a backbone, a store of format version 1, and what they answer.

Run once, at commit 10abacf, with tests/ on the path. It is kept for what it says: newer code writes
newer files, so it stops there.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from decoding import make_sequence, run
from factories import random_adapter, tiny_t5
from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_adapters.delta import Delta, SparseDelta
from jumplora_adapters.format import Adapter, Factors, read_adapter, write_adapter
from jumplora_adapters.manifest import Manifest, PromptSpec
from jumplora_adapters.store import Store
from jumplora_server.core import Sampling
from jumplora_server.engine.engine import Engine
from jumplora_server.engine.tokenizer import Tokenizer

HERE = Path(__file__).parent
NEW_TOKENS = 8
PROMPTS_OF_EACH = 6
SMALLEST_GAP = 0.1  # between the logits of the best token and the second, at every step
CLOCK = datetime(2026, 11, 27, tzinfo=UTC)
PROMPT = PromptSpec(template="{instruction} {text}</s>", instruction="label the text")
SUBJECTS = ("the film", "a bad book", "the river city", "world music", "two great poor", "science")
VERBS = ("is good", "was never blue", "is it true?", "and they answer no", "for five", "maybe red")


def main() -> None:
    """Write backbone, store, answers.json, and the rules of a manifest as manifest.json."""
    if "combined" in str(Manifest.model_fields["kind"].annotation):
        sys.exit("this code no longer writes format version 1: check out 10abacf")
    backbone = read_backbone(
        tiny_t5(
            HERE / "backbone", seed=7, vocab=192, d_model=16, d_kv=4, heads=2, d_ff=24, layers=2
        )
    )
    store = Store(HERE / "store", clock=lambda: CLOCK)
    digests = publish_all(store, backbone)
    found = {str(task): ask(backbone, task, store) for task in [None, *sorted(digests)]}
    (HERE / "store" / ".lock").unlink()
    answers = {
        "fingerprint": backbone.fingerprint,
        "versions": digests,
        "answers": found,
        "smallest_gap": min(answer["gap"] for answers in found.values() for answer in answers),
    }
    for name, content in (("answers", answers), ("manifest", Manifest.model_json_schema())):
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
        (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def publish_all(store: Store, backbone: Backbone) -> dict[str, list[str]]:
    """Every kind of version 1; the versions of each task, the current one last."""
    versions: dict[str, list[str]] = {}

    def publish(manifest: Manifest, deltas: Mapping[str, Delta], factors: Factors) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "adapter"
            write_adapter(path, manifest, deltas, factors)
            digest = store.publish(path, backbone).digest
        versions.setdefault(manifest.task, []).append(digest)
        return digest

    ancestor = publish(*gated(backbone, "factors", seed=1))
    for seed in (2, 3):
        manifest, deltas = random_adapter(backbone, task="plain", seed=seed, density=0.3)
        middle = publish(manifest, deltas, {})
    manifest, deltas = random_adapter(
        backbone, task="descendant", seed=4, density=0.2, lineage=(ancestor, middle), prompt=PROMPT
    )
    publish(manifest, deltas, {})
    manifest, deltas = random_adapter(
        backbone, task="lowrank", seed=5, kind="lowrank", rank=2, dtype=torch.float16, scale=1.0
    )
    publish(manifest, deltas, {})
    return versions


def gated(
    backbone: Backbone, task: str, *, seed: int
) -> tuple[Manifest, dict[str, Delta], dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """A masked adapter in bfloat16 with the factors that its masks were made from."""
    manifest, _ = random_adapter(backbone, task=task, seed=seed, rank=2, prompt=PROMPT)
    generator = torch.Generator().manual_seed(seed)
    deltas: dict[str, Delta] = {}
    factors = {}
    for name in manifest.targets:
        d_out, d_in = backbone.targets[name]
        a, b = torch.randn(2, d_in, generator=generator), torch.randn(d_out, 2, generator=generator)
        deltas[name] = SparseDelta.from_factors(a, b, tau=1.5, scale=0.5, dtype=torch.bfloat16)
        factors[name] = (a, b)
    fields: dict[str, Any] = {
        "thresholds": {"global": 1.5}, "scores": {"accuracy_dev": 0.5}, "method": "golden",
        "training": {"seed": seed}, "generation": {"max_new_tokens": NEW_TOKENS},
    }  # fmt: skip
    return manifest.model_copy(update=fields), deltas, factors


def lineage_of(store: Store, backbone: Backbone, task: str | None) -> list[Adapter]:
    """The ancestors of a task's current version, oldest first, and the version itself."""
    if task is None:
        return []
    digest = store.current(task)
    lineage = (*store.manifest(digest).lineage, digest)
    return [
        read_adapter(store.path_of(version), backbone, expect_digest=version) for version in lineage
    ]


def ask(backbone: Backbone, task: str | None, store: Store) -> list[dict[str, Any]]:
    """What the torch kernels answer, of prompts that transformers is sure of as well."""
    tokenizer = Tokenizer.load(backbone.path, rows=backbone.architecture.vocab_size)
    engine = Engine(
        backbone.path, max_rows=1, max_source_tokens=32, max_target_tokens=NEW_TOKENS,
        kernels="torch",
    )  # fmt: skip
    lineage = lineage_of(store, backbone, task)
    slots = tuple(engine.install(engine.pack(adapter)) for adapter in lineage)
    model = merged(backbone.path, lineage)
    answers: list[dict[str, Any]] = []
    for prompt in (f"{subject} {verb}" for subject in SUBJECTS for verb in VERBS):
        ids = tokenizer.encode(prompt)
        sequence = make_sequence(
            ids, row=0, slots=slots, sampling=Sampling(max_new_tokens=NEW_TOKENS)
        )
        (tokens,) = run(engine, [sequence])
        expected, gap = sure_answer(model, ids)
        if tokens != expected:
            raise SystemExit(f"{task}: {prompt}: {tokens}, but transformers has {expected}")
        is_new = all(tokens != answer["tokens"] for answer in answers)
        if gap >= SMALLEST_GAP and len(set(tokens)) > 2 and is_new:
            text = tokenizer.decoder.decode(tokens)
            answers.append(
                {"prompt": prompt, "ids": ids, "tokens": tokens, "text": text, "gap": round(gap, 3)}
            )
    return sorted(answers, key=lambda answer: -float(answer["gap"]))[:PROMPTS_OF_EACH]


def merged(folder: Path, lineage: Sequence[Adapter]) -> Any:
    """transformers' model with the deltas of a lineage in its weights."""
    from transformers import AutoModelForSeq2SeqLM

    model = copy.deepcopy(AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval())
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for adapter in lineage:
            for module, delta in adapter.deltas.items():
                parameters[f"{module}.weight"] += delta.to_dense()
    return model


def sure_answer(model: Any, ids: Sequence[int]) -> tuple[list[int], float]:
    """Greedy tokens, and the smallest gap between the best logit and the second."""
    with torch.inference_mode():
        found = model.generate(
            torch.tensor([list(ids)]), max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    best = torch.stack([scores[0].topk(2).values for scores in found.scores])
    return found.sequences[0].tolist()[1:], float((best[:, 0] - best[:, 1]).min())


if __name__ == "__main__":
    main()
