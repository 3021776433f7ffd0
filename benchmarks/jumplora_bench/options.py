"""`jumplora bench choices`: a request that ranks options, beside the same one that generates."""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import torch

from jumplora_adapters.backbone import Backbone, read_backbone
from jumplora_bench.backbone import write_backbone
from jumplora_bench.bars import Bar, compare, verdict
from jumplora_bench.cases.requests import PATIENCE, NotAnswered, Post, RequestsCase
from jumplora_bench.names import label_of
from jumplora_bench.published import publish_tasks
from jumplora_bench.report import Grid, Report
from jumplora_bench.rounds import Laps, run_rounds, spread
from jumplora_bench.server_process import served
from jumplora_bench.shapes import ShapeName
from jumplora_bench.tokenizer import random_text, words

# Tokens of the demo's labels, their end token included: so many steps a greedy answer takes, and
# they share no beginning. Of `agnews`, and of `dbpedia`.
FOUR = (2, 2, 2, 4)
FOURTEEN = (2, 3, 2, 5, 3, 4, 2, 3, 2, 2, 2, 2, 2, 3)
WALKED = (60, 256)  # options, too many nodes for one pass
LIST = 8
_TASK = "task0000"
_DENSITY = 0.051
_MOST = {len(FOUR): 1.0, len(FOURTEEN): 1.25}  # times the greedy answer


@dataclass(frozen=True, slots=True)
class OptionsPlan:
    """What to run."""

    shape: ShapeName = "base"
    dtypes: Sequence[str] = ("float32", "int8")
    threads: int = 0
    source: int = 128
    rounds: int = 7


def option_texts(lengths: Sequence[int]) -> list[str]:
    """Options of so many tokens each, the end token included, that share no beginning."""
    invented = iter(words(sum(lengths)))
    return [" ".join(itertools.islice(invented, length - 1)) for length in lengths]


def walked_lengths(count: int) -> tuple[int, ...]:
    """Tokens of many options: the demo's lengths in turn."""
    return tuple(itertools.islice(itertools.cycle(FOURTEEN), count))


def nodes_of(lengths: Sequence[int]) -> int:
    """Nodes of the trie of options that share no beginning: the last token needs none."""
    return 1 + sum(length - 1 for length in lengths)


def measure_options(
    plan: OptionsPlan,
    command: str,
    *,
    on_start: Callable[[int], None],
    on_lap: Callable[[str], None],
) -> Report:
    """A server of each dtype, one after the other. Raises ServerEnded, NotAnswered."""
    torch.set_num_threads(plan.threads or torch.get_num_threads())
    title = (
        f"Choices: T5-{plan.shape} shape, one request at a time, {plan.source} tokens in, options "
        f"of {min(FOURTEEN)} to {max(FOURTEEN)} tokens"
    )
    report = Report("choices", title, command)
    laps: Laps = {}
    with tempfile.TemporaryDirectory(prefix="jumplora-bench-") as name:
        folder = Path(name)
        backbone = read_backbone(write_backbone(folder / "backbone", plan.shape))
        publish_tasks(folder / "store", backbone, [_TASK], density=_DENSITY)
        on_start(len(plan.dtypes) * len(_requests(plan)) * (plan.rounds + 1))
        for dtype in plan.dtypes:  # only rows of one server are compared
            laps = {**laps, **_served_laps(plan, dtype, backbone, folder, on_lap)}
    _fill(report, plan, laps)
    return report


def _served_laps(
    plan: OptionsPlan,
    dtype: str,
    backbone: Backbone,
    folder: Path,
    on_lap: Callable[[str], None],
) -> Laps:
    settings = {
        "dtype": dtype, "threads": torch.get_num_threads(), "max_rows": LIST,
        "max_source_tokens": max(8, plan.source), "max_target_tokens": max(FOURTEEN),
    }  # fmt: skip
    with (
        served(backbone.path, folder / "store", folder / f"{dtype}.log", settings) as server,
        closing(HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)) as http,
    ):
        cases = {
            name: RequestsCase(f"{label_of(dtype)}: {name}", http, asked, takes="mean")
            for name, asked in _requests(plan).items()
        }
        laps = run_rounds([*cases.values()], plan.rounds, on_lap)
    for name, case in cases.items():
        _check(name, case)
    return laps


def _requests(plan: OptionsPlan) -> dict[str, list[Post]]:
    """By name. A greedy answer has the length of a label, so there is one request for each; and
    as many with choices, with the same prompts."""
    found: dict[str, list[Post]] = {}
    for lengths in (FOUR, FOURTEEN):
        prompts, options = _prompts(plan, len(lengths)), option_texts(lengths)
        found[f"greedy, {len(lengths)} labels"] = [
            _post(prompt, {"max_new_tokens": length})
            for prompt, length in zip(prompts, lengths, strict=True)
        ]
        found[f"choices, {len(lengths)} labels"] = [
            _post(prompt, {"choices": options}) for prompt in prompts
        ]
    for count in WALKED:
        options = option_texts(walked_lengths(count))
        found[f"choices, {count} options"] = [
            _post(prompt, {"choices": options}) for prompt in _prompts(plan, len(FOUR))
        ]
    prompts = _prompts(plan, LIST)
    steps = round(sum(FOURTEEN) / len(FOURTEEN))
    wishes = {f"greedy, {steps} tokens": {"max_new_tokens": steps}} | {
        f"choices, {len(lengths)} labels": {"choices": option_texts(lengths)}
        for lengths in (FOUR, FOURTEEN)
    }
    for name, wish in wishes.items():
        found[f"{name}, {LIST} requests"] = [_post(prompt, wish) for prompt in prompts]
        found[f"{name}, a list of {LIST}"] = [_post(prompts, wish)]
    return found


def _prompts(plan: OptionsPlan, count: int) -> list[str]:
    rng = random.Random(0)
    return [random_text(plan.source, rng) for _ in range(count)]


def _post(inputs: str | list[str], parameters: dict[str, Any]) -> Post:
    body = {"task_id": _TASK, "inputs": inputs, "parameters": parameters}
    return Post("/generate", json.dumps(body).encode())


def _check(name: str, case: RequestsCase) -> None:
    """Every answer is of what was asked: so many tokens, or all options. Raises NotAnswered."""
    for post, answer in zip(case.posts, case.answers, strict=True):
        asked, whole = json.loads(post.body)["parameters"], json.loads(answer)
        for each in whole if isinstance(whole, list) else [whole]:
            details = each["details"]
            if "choices" in asked:
                is_right = len(details["choices"]) == len(asked["choices"])
            else:
                is_right = details["generated_tokens"] == asked["max_new_tokens"]
            if not is_right:
                raise NotAnswered(f"{name}: {asked} was asked, and {details} came back")


def _bars(plan: OptionsPlan) -> Iterator[Bar]:
    for dtype in plan.dtypes:
        label, is_held = label_of(dtype), dtype == "int8" and plan.shape == "base"
        most = f"greedy, {len(FOURTEEN)} labels"
        for lengths in (FOUR, FOURTEEN):
            count = len(lengths)
            yield Bar(
                f"{label}: {count} labels, {nodes_of(lengths)} nodes, over a greedy answer",
                f"{label}: choices, {count} labels", f"{label}: greedy, {count} labels",
                "at most", _MOST[count] if is_held else None,
            )  # fmt: skip
        for count in WALKED:
            nodes = nodes_of(walked_lengths(count))
            yield Bar(
                f"{label}: {count} options, {nodes} nodes, over a greedy answer",
                f"{label}: choices, {count} options", f"{label}: {most}",
            )  # fmt: skip


def _fill(report: Report, plan: OptionsPlan, laps: Laps) -> None:
    seconds = {name: [lap.seconds for lap in done] for name, done in laps.items()}
    compared = compare([*_bars(plan)], seconds)
    lists = [
        (name.removesuffix(f", {LIST} requests"), spread(alone), spread(
            [each / LIST for each in seconds[name.replace(f"{LIST} requests", f"a list of {LIST}")]]
        ))
        for name, alone in seconds.items()
        if name.endswith(f", {LIST} requests")
    ]  # fmt: skip
    report.grids = [
        Grid(
            "A request, ms",
            ("request", "median", "min", "max"),
            [
                (name, *map(_ms, asdict(spread(values)).values()))
                for name, values in seconds.items()
            ],
        ),
        Grid(
            "Choices over a greedy answer: ratios of medians, with the range of the rounds",
            ("request", "median", "min", "max", "bar", ""),
            [
                (bar.measure, *(f"{value:.3f}" for value in asdict(ratio).values()), bar.told,
                 verdict(bar.is_met(ratio.median)))
                for bar, ratio in compared
            ],
        ),
        Grid(
            f"A prompt, ms: {LIST} requests one after another, and one request with a list",
            ("request", "alone", "in a list", "ratio"),
            [
                (name, _ms(alone.median), _ms(each.median), f"{each.median / alone.median:.3f}")
                for name, alone, each in lists
            ],
        ),
    ]  # fmt: skip
    report.notes += [
        "A greedy answer has as many tokens as the label it stands for, the end token included: "
        f"{_mean(FOUR)} in the mean of the demo's 4 labels, {_mean(FOURTEEN)} of its 14. The "
        "options have these lengths too. A lap asks once for each label; times are means of that.",
        "Random weights have flat distributions, the worst case of a walk: every node counts, so "
        "all of them are computed. A trained adapter's walk leaves most out.",
    ]
    report.data = {
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "ratios": {bar.measure: {**asdict(ratio), "bar": bar.limit} for bar, ratio in compared},
        "list_seconds": {name: [alone.median, each.median] for name, alone, each in lists},
    }


def _mean(lengths: Sequence[int]) -> str:
    return f"{sum(lengths) / len(lengths):.2f}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"
