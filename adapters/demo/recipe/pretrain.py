"""Pre-trains the demo's backbone on a CPU within a stated time, and exports it for transformers.

The schedule runs on trained seconds, not steps: a shared machine's speed is not known beforehand,
and the backbone has to be ready when the time is up. Constant rate, then a linear cooldown over
the last fifth; touching WORK/cooldown starts the cooldown at once. Interrupted runs resume from
WORK/checkpoint.pt.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from tokenizers import Tokenizer

from demo.recipe.batches import (
    PRACTICE_LENGTH,
    PRACTICE_ROWS,
    SPAN_LENGTH,
    SPAN_ROWS,
    Batch,
    PracticeBatches,
    SpanBatches,
)
from demo.recipe.clusters import cluster_tasks
from demo.recipe.corpus import SOURCES, read_corpus, text_folder
from demo.recipe.embedding import first_embedding
from demo.recipe.export import export
from demo.recipe.network import IGNORED, Network, Shape, initialise
from demo.recipe.optimizer import Optimizer
from demo.recipe.practice import Practice, cut_passages, with_keywords

SEED = 0
WARMUP_STEPS = 100
COOLDOWN_SHARE = 0.2
CLIP = 1.0
DTYPE = torch.bfloat16
REPORT_STEPS, CHECKPOINT_STEPS = 25, 250
PRACTICE_DOCUMENTS = 220  # of each source; enough passages, and the books would take minutes


def token_streams(tokenizer: Tokenizer, cache: Path) -> dict[str, np.ndarray]:
    """Each source's ids, documents shuffled, paragraphs one after another without an end id."""
    if cache.exists():
        with np.load(cache) as stored:
            return {source: stored[source] for source in SOURCES}
    corpus, streams = read_corpus(text_folder(), held_out=False), {}
    for source in track(SOURCES, "tokenizing"):
        documents = corpus[source]
        random.Random(SEED).shuffle(documents)
        ids = []
        for document in documents:
            encodings = tokenizer.encode_batch(list(document.paragraphs), add_special_tokens=False)
            ids += [np.array(encoding.ids, np.uint16) for encoding in encodings]
        streams[source] = np.concatenate(ids)
    np.savez(cache, **streams)  # type: ignore[arg-type]
    return streams


def make_practice(seed: int) -> Practice:
    corpus, chooser = read_corpus(text_folder(), held_out=False), random.Random(SEED)
    passages = []
    for source in track(SOURCES, "cutting passages"):
        documents = corpus[source]
        size = len(documents) if source != "classic_books" else PRACTICE_DOCUMENTS
        chosen = chooser.sample(documents, size)
        passages += cut_passages(chosen, chooser)
    finished = with_keywords(passages)
    return Practice(finished, cluster_tasks(finished, SEED), seed)


@torch.no_grad()
def health(network: Network, batch: Batch) -> dict[str, float]:
    """Exact answers (teacher forced), residual RMS, cosine between positions and between rows."""
    padding, encoder = batch.padding, network.encoder
    stream: list[torch.Tensor] = []
    hook = encoder.final_layer_norm.register_forward_hook(lambda _, x, __: stream.append(x[0]))
    encoded = encoder(network.shared(batch.source), None, padding)
    hook.remove()
    shifted = torch.nn.functional.pad(batch.targets.clamp_min(0)[:, :-1], (1, 0))
    decoded = network.decoder(network.shared(shifted), encoded, padding)
    is_right = (decoded @ network.shared.weight.T).argmax(-1) == batch.targets
    unit = torch.nn.functional.normalize(encoded.float()[:, :60], dim=-1)
    means = torch.nn.functional.normalize(encoded.float()[:, :60].mean(1), dim=-1)
    return {
        "exact": (is_right | (batch.targets == IGNORED)).all(1).float().mean().item(),
        "residual_rms": stream[0].float()[:, :60].square().mean().sqrt().item(),
        "cosine_positions": (unit @ unit.mT).mean().item(),
        "cosine_rows": (means @ means.mT).mean().item(),
    }


class Run:
    """One pre-training run: float32 masters, a compiled bfloat16 copy that computes."""

    def __init__(self, work: Path, seconds: float) -> None:
        self.work, self.seconds = work, seconds
        self.cooldown_seconds = seconds * COOLDOWN_SHARE
        self.cooldown_from = seconds - self.cooldown_seconds
        self.steps, self.trained_seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        tokenizer: Tokenizer = Tokenizer.from_file(str(work / "backbone" / "tokenizer.json"))
        streams = token_streams(tokenizer, work / "streams.npz")
        shape = Shape()
        self.network = Network(shape)
        if not (work / "checkpoint.pt").exists():
            mixed = np.concatenate([streams[source] for source in SOURCES])
            embedding = first_embedding(mixed, shape.vocabulary, shape.d_model, SEED)
            initialise(self.network, embedding, torch.Generator().manual_seed(SEED))
        self.masters = [p.detach().clone() for p in self.network.parameters()]
        self.network.to(DTYPE)
        names = [name for name, _ in self.network.named_parameters()]
        self.optimizer = Optimizer(list(zip(names, self.masters, strict=True)))
        self.resume()
        seed = SEED + self.steps  # a resumed run must not repeat the batches it has seen
        practice = make_practice(seed)
        self.spans = SpanBatches(streams, seed)
        self.exercises = PracticeBatches(practice, tokenizer, DTYPE)
        self.check = [self.exercises.draw() for _ in range(5)]

    def rate(self) -> float:
        if (self.work / "cooldown").exists():
            self.cooldown_from = min(self.cooldown_from, self.trained_seconds)
            self.seconds = self.cooldown_from + self.cooldown_seconds
        left = (self.seconds - self.trained_seconds) / (self.seconds - self.cooldown_from)
        return max(0.0, min(1.0, (self.steps + 1) / WARMUP_STEPS, left))

    def train(self) -> None:
        compiled = torch.compile(self.network, dynamic=False)
        losses, began = [], time.monotonic()
        while self.trained_seconds < self.seconds:
            span, exercise = self.spans.draw(), self.exercises.draw()
            span_loss = compiled(span.source, span.padding, span.targets) * 1.0
            span_loss.backward()
            practice_loss = compiled(exercise.source, exercise.padding, exercise.targets)
            practice_loss.backward()
            norm = self.update(self.rate())
            losses.append((span_loss.item(), practice_loss.item(), norm))
            self.steps += 1
            if self.steps % REPORT_STEPS == 0:
                now = time.monotonic()
                if self.steps > REPORT_STEPS or now - began < 60:  # compiling is not training
                    self.trained_seconds += now - began
                self.report(np.array(losses).mean(0), now - began)
                losses, began = [], now
            if self.steps % CHECKPOINT_STEPS == 0:
                self.save()
        self.save()

    @torch.no_grad()
    def update(self, rate: float) -> float:
        """Moves gradients to the masters, steps them, and copies them back rounded."""
        for master, parameter in zip(self.masters, self.network.parameters(), strict=True):
            assert parameter.grad is not None
            master.grad = parameter.grad.float()
            parameter.grad = None
        norm = torch.nn.utils.clip_grad_norm_(self.masters, CLIP).item()
        self.optimizer.step(rate)
        for master, parameter in zip(self.masters, self.network.parameters(), strict=True):
            parameter.copy_(master)
        return norm

    def report(self, losses: np.ndarray, seconds: float) -> None:
        line = dict(zip(("span", "practice", "gradient_norm"), losses.tolist(), strict=True))
        line |= {"steps": self.steps, "seconds": self.trained_seconds, "rate": self.rate()}
        line["tokens_per_second"] = REPORT_STEPS * tokens_per_step() / seconds
        if self.steps % (REPORT_STEPS * 5) == 0 or self.steps == REPORT_STEPS:
            checks = [health(self.network, batch) for batch in self.check]
            line |= {key: sum(c[key] for c in checks) / len(checks) for key in checks[0]}
        self.history.append(line)
        print({key: round(value, 4) for key, value in line.items()}, flush=True)

    def save(self) -> None:
        state: dict[str, object] = {"masters": self.masters, "optimizer": self.optimizer.state()}
        state |= {"steps": self.steps, "seconds": self.trained_seconds, "history": self.history}
        torch.save(state, self.work / "checkpoint.tmp")
        os.replace(self.work / "checkpoint.tmp", self.work / "checkpoint.pt")
        export(self.network.shape, self.named_masters(), self.work / "backbone")
        record = {
            "settings": {"seed": SEED, "seconds": self.seconds, "dtype": str(DTYPE)},
            "steps": self.steps,
            "encoder_tokens": self.steps * tokens_per_step(),
            "trained_seconds": self.trained_seconds,
            "history": self.history,
        }
        (self.work / "backbone" / "training.json").write_text(json.dumps(record, indent=1))

    def resume(self) -> None:
        path = self.work / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            for master, stored in zip(self.masters, state["masters"], strict=True):
                master.copy_(stored)
            self.optimizer.load(state["optimizer"])
            self.steps, self.trained_seconds = state["steps"], state["seconds"]
            self.history = state["history"]
            with torch.no_grad():
                for master, parameter in zip(self.masters, self.network.parameters(), strict=True):
                    parameter.copy_(master)

    def named_masters(self) -> dict[str, torch.Tensor]:
        names = (name for name, _ in self.network.named_parameters())
        return dict(zip(names, self.masters, strict=True))


def tokens_per_step() -> int:
    return SPAN_ROWS * SPAN_LENGTH + PRACTICE_ROWS * PRACTICE_LENGTH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="holds backbone/tokenizer.json; written to")
    parser.add_argument("--seconds", type=float, required=True, help="training time")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    Run(arguments.work, arguments.seconds).train()


if __name__ == "__main__":
    main()
