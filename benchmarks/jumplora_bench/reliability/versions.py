"""Adapter versions that tell by their answers which one they are, and what each must answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.delta import SparseDelta
from jumplora_adapters.format import read_adapter, write_adapter
from jumplora_adapters.manifest import PromptSpec
from jumplora_bench.cases.case import Work
from jumplora_bench.cases.ours import make_engine
from jumplora_bench.masked import draw
from jumplora_server.core import Batch, Encoding, Sampling
from jumplora_server.core import Sequence as Row
from jumplora_server.engine.tokenizer import Tokenizer

PROMPTS = (
    "Wall St. ends higher as oil prices ease and banks report good earnings",
    "It is a species of beetle in the family Carabidae, found in Brazil.",
    "The striker scored twice as the home side won the cup final.",
)
NEW_TOKENS = 6
PARAMETERS = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
"""Exactly six greedy tokens, whatever the manifest's defaults say."""
_GAIN = 20.0  # on random values of 0.01: enough to change every answer


@dataclass(frozen=True, slots=True)
class Version:
    """One published file; `texts` answer PROMPTS."""

    task: str
    digest: str
    path: Path
    texts: tuple[str, ...]

    @property
    def content(self) -> bytes:
        """The file."""
        return self.path.read_bytes()


class Oracle:
    """What files must answer: the engine in this process, without server, queue or residency."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._tokenizer = Tokenizer.load(backbone.path)
        prompts = tuple(map(self._tokenizer.encode, PROMPTS))
        self._engine = make_engine(Work(backbone.path, prompts, NEW_TOKENS, 0, "cpu"), "float32")
        self._ids = count()

    def texts(self, path: Path) -> tuple[str | None, ...]:
        """Answers of an adapter without ancestors, None where its numbers are not finite.

        Raises AdapterError for a file of no use.
        """
        slot = self._engine.install(self._engine.pack(read_adapter(path, self._backbone)))
        rows = tuple(
            Row(
                id=next(self._ids),
                encoding=Encoding(None, self._tokenizer.encode(prompt), (slot,), place=row),
                sampling=Sampling(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS),
                detokenizer=self._tokenizer.detokenizer(),
                arrived=0.0,
                row=row,
            )
            for row, prompt in enumerate(PROMPTS)
        )
        live, prompts = rows, tuple(row.encoding for row in rows)
        for step in range(NEW_TOKENS):
            output = self._engine.step(Batch(prompts if step == 0 else (), live))
            for row, token in zip(live, output.token_ids, strict=True):
                row.output.append(token)
            # As the server does: -1 marks a failed row, and no step may get it.
            live = tuple(row for row in live if row.output[-1] != -1)
            if not live:
                break
        self._engine.remove(slot)
        return tuple(
            None if -1 in row.output else self._tokenizer.decode(list(row.output)) for row in rows
        )


def make_version(
    oracle: Oracle, backbone: Backbone, folder: Path, task: str, seed: int, density: float = 0.02
) -> Version:
    """Write one version; random values large enough to be seen in the answers."""
    prompt = PromptSpec(
        template="{instruction} {options}: {text}", instruction="Name it", options=("a", "b")
    )
    adapter = draw(backbone, task, density=density, seed=seed, prompt=prompt)
    deltas = {
        name: replace(delta, values=delta.values * _GAIN)
        for name, delta in adapter.deltas.items()
        if isinstance(delta, SparseDelta)
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task}-{seed}.safetensors"
    digest = write_adapter(path, adapter.manifest, deltas)
    texts = tuple(text for text in oracle.texts(path) if text is not None)
    assert len(texts) == len(PROMPTS), "numbers that are not finite"
    return Version(task, digest, path, texts)


def make_versions(
    oracle: Oracle, backbone: Backbone, folder: Path, task: str, seeds: Sequence[int]
) -> list[Version]:
    """Versions whose answers differ in at least one prompt; other seeds where they do not."""
    made: list[Version] = []
    for seed in seeds:
        found = make_version(oracle, backbone, folder, task, seed)
        while found.texts in {each.texts for each in made}:
            seed += 1000
            found = make_version(oracle, backbone, folder, task, seed)
        made.append(found)
    return made
