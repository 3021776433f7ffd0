"""`jumplora bench dialects`: what a request in another dialect takes longer than a native one."""

from __future__ import annotations

import json
import random
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import torch

from jumplora_adapters.backbone import read_backbone
from jumplora_adapters.manifest import PromptSpec
from jumplora_bench.answers import percentile
from jumplora_bench.backbone import write_backbone
from jumplora_bench.bars import verdict
from jumplora_bench.cases.requests import PATIENCE, NotAnswered, Post, RequestsCase
from jumplora_bench.published import publish_tasks
from jumplora_bench.report import Grid, Report
from jumplora_bench.rounds import Laps, run_rounds
from jumplora_bench.server_process import served
from jumplora_bench.shapes import ShapeName
from jumplora_bench.tokenizer import random_text

MOST_ADDED_SECONDS = 0.001
_TASK = "task0000"
_DENSITY = 0.051


@dataclass(frozen=True, slots=True)
class DialectsPlan:
    """What to run: in each round one request in every way."""

    shape: ShapeName = "tiny"
    dtype: str = "int8"
    threads: int = 0
    source: int = 64
    new: int = 16
    rounds: int = 200


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask for the same answer. `beside` is the native way it is compared with."""

    name: str
    path: str
    body: Callable[[str, int], Mapping[str, Any]]  # of the prompt and the tokens to generate
    text: Callable[[Any], str]  # of the answer's JSON, or of an event's
    beside: str | None = None
    is_streamed: bool = False

    def post(self, prompt: str, new: int) -> Post:
        """The request."""
        return Post(self.path, json.dumps(self.body(prompt, new)).encode())

    def said(self, answer: bytes) -> str:
        """The generated text of a whole answer or of a stream."""
        if not self.is_streamed:
            return self.text(json.loads(answer))
        lines = (line.removeprefix(b"data:").strip() for line in answer.splitlines())
        events = (json.loads(line) for line in lines if line not in (b"", b"[DONE]"))
        return "".join(map(self.text, events))


def _native(field: str) -> Callable[[str, int], Mapping[str, Any]]:
    return lambda prompt, new: {
        "task_id": _TASK, field: prompt, "parameters": {"max_new_tokens": new}
    }  # fmt: skip


def _tgi(**more: object) -> Callable[[str, int], Mapping[str, Any]]:
    return lambda prompt, new: {
        "inputs": prompt, "parameters": {"adapter_id": _TASK, "max_new_tokens": new}, **more
    }  # fmt: skip


def _completion(**more: object) -> Callable[[str, int], Mapping[str, Any]]:
    return lambda prompt, new: {"model": _TASK, "prompt": prompt, "max_tokens": new, **more}


def _chat(**more: object) -> Callable[[str, int], Mapping[str, Any]]:
    return lambda prompt, new: {
        "model": _TASK, "messages": [{"role": "user", "content": prompt}], "max_tokens": new, **more
    }  # fmt: skip


def _kserve(prompt: str, new: int) -> Mapping[str, Any]:
    tensor = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": [prompt]}
    return {"inputs": [tensor], "parameters": {"max_new_tokens": new}}


def _inferred(answer: Any) -> str:
    (text,) = (each["data"][0] for each in answer["outputs"] if each["name"] == "text")
    return str(text)


def _last(event: Any) -> str:
    """The last event of a native stream has the whole text."""
    return event["generated_text"] or ""


_PROMPT, _TEXT = "native", "native, text for the template"
_PROMPT_STREAMED, _TEXT_STREAMED = f"{_PROMPT}, streamed", f"{_TEXT}, streamed"
WAYS: Sequence[Way] = (
    Way(_PROMPT, "/generate", _native("inputs"), lambda answer: answer["generated_text"]),
    Way("TGI /", "/", _tgi(), lambda answer: answer[0]["generated_text"], _PROMPT),
    Way("OpenAI completions", "/v1/completions", _completion(),
        lambda answer: answer["choices"][0]["text"], _PROMPT),
    Way("KServe infer", f"/v2/models/{_TASK}/infer", _kserve, _inferred, _PROMPT),
    Way(_TEXT, "/generate", _native("text"), lambda answer: answer["generated_text"]),
    Way("OpenAI chat", "/v1/chat/completions", _chat(),
        lambda answer: answer["choices"][0]["message"]["content"], _TEXT),
    Way(_PROMPT_STREAMED, "/generate_stream", _native("inputs"), _last, None, True),
    Way("TGI /, streamed", "/", _tgi(stream=True), _last, _PROMPT_STREAMED, True),
    Way("OpenAI completions, streamed", "/v1/completions", _completion(stream=True),
        lambda event: event["choices"][0]["text"], _PROMPT_STREAMED, True),
    Way(_TEXT_STREAMED, "/generate_stream", _native("text"), _last, None, True),
    Way("OpenAI chat, streamed", "/v1/chat/completions", _chat(stream=True),
        lambda event: event["choices"][0]["delta"].get("content") or "", _TEXT_STREAMED, True),
)  # fmt: skip


def measure_dialects(
    plan: DialectsPlan,
    command: str,
    *,
    on_start: Callable[[int], None],
    on_lap: Callable[[str], None],
) -> Report:
    """Start a server of one task, ask it in all ways in turn. Raises ServerEnded, NotAnswered."""
    torch.set_num_threads(plan.threads or torch.get_num_threads())
    title = (
        f"Dialects: T5-{plan.shape} shape, {plan.dtype}, one request at a time, {plan.source} "
        f"tokens in, {plan.new} out"
    )
    report = Report("dialects", title, command)
    prompt = random_text(plan.source, random.Random(0))
    with tempfile.TemporaryDirectory(prefix="jumplora-bench-") as name:
        folder = Path(name)
        backbone = read_backbone(write_backbone(folder / "backbone", plan.shape))
        # A prompt and a text are then the same tokens.
        template = PromptSpec(template="{text}")
        publish_tasks(folder / "store", backbone, [_TASK], density=_DENSITY, prompt=template)
        settings = {
            "dtype": plan.dtype, "threads": torch.get_num_threads(),
            "max_source_tokens": max(8, plan.source), "max_target_tokens": plan.new,
        }  # fmt: skip
        with (
            served(backbone.path, folder / "store", folder / "server.log", settings) as server,
            closing(HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)) as http,
        ):
            cases = {
                way: RequestsCase(way.name, http, [way.post(prompt, plan.new)]) for way in WAYS
            }
            on_start(len(cases) * (plan.rounds + 1))
            laps = run_rounds([*cases.values()], plan.rounds, on_lap)
    check_same({way.name: way.said(case.answers[-1]) for way, case in cases.items()})
    _fill(report, laps)
    return report


def check_same(said: Mapping[str, str]) -> None:
    """All ways got the same text. Raises NotAnswered."""
    expected = said[_PROMPT]
    for name, text in said.items():
        if text != expected or not text:
            raise NotAnswered(f"{name}: {text!r}, and {_PROMPT} got {expected!r}")


def added_seconds(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of each way that has a native one beside it: by how much its median is more."""
    return {
        way.name: statistics.median(seconds[way.name]) - statistics.median(seconds[way.beside])
        for way in WAYS
        if way.beside is not None
    }


def _fill(report: Report, laps: Laps) -> None:
    seconds = {name: [lap.seconds for lap in done] for name, done in laps.items()}
    added = added_seconds(seconds)
    rows = []
    for name, values in seconds.items():
        shown = [f"{1e3 * percentile(values, share):.2f}" for share in (0.5, 0.1, 0.9)]
        if name in added:
            is_met = added[name] <= MOST_ADDED_SECONDS
            bar = f"<= {1e3 * MOST_ADDED_SECONDS:.2f}"
            shown += [f"{1e3 * added[name]:.2f}", bar, verdict(is_met)]
        rows.append((name, *shown, *[""] * (6 - len(shown))))
    columns = ("way to ask", "p50", "p10", "p90", "added p50", "bar", "")
    report.grids = [
        Grid("A request, ms, and what it takes longer than a native one", columns, rows)
    ]
    report.notes.append(
        "Every way asks for the same tokens and got the same text. A stream is timed to its end. "
        "A chat's message is a text for the adapter's template, so it is compared with one."
    )
    report.data = {
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "added_seconds": added,
        "bar_seconds": MOST_ADDED_SECONDS,
    }
