"""The tasks of an order: found in a data folder, read and checked whole before anything runs.

The folder holds `tasks.json` ({"tasks": {name: {instruction, options}}, "orders": {name: [...]}})
and for each task `<name>/train.jsonl` and `<name>/<split>.jsonl`, gzipped (`.gz`) or not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import MAX_LINEAGE, PromptSpec, check_task_id
from jumplora_adapters.tokenizer import BackboneTokenizer, token_ids
from jumplora_adapters.training.config import Lengths
from jumplora_adapters.training.data import Example, Split, read_split
from jumplora_adapters.training.task_file import prompt_of

TASKS_FILE = "tasks.json"


@dataclass(frozen=True, slots=True)
class Order:
    """A named sequence of tasks."""

    name: str
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a run: its prompt, the rows it is trained on and the rows it is scored on.

    `options` are the token ids of each option with the end token; empty for a free task.
    """

    name: str
    prompt: PromptSpec
    train: Split
    scored: Split
    options: tuple[tuple[int, ...], ...]


def read_order(data: Path, order: str) -> Order:
    """The order that `order` names in tasks.json, or lists itself ("a,b,c").

    Raises DataError for what is not there, a task that comes twice, or more tasks than a lineage
    may have.
    """
    tasks, orders = _catalogue(data)
    named = orders.get(order)
    names = tuple(named if named is not None else (n.strip() for n in order.split(",")))
    if named is None and "," not in order and order not in tasks:
        near = get_close_matches(order, [*orders, *tasks], n=3)
        hint = f"; close to it: {', '.join(near)}" if near else ""
        raise DataError(
            f"order {order!r} is neither an order of {data / TASKS_FILE} "
            f"({', '.join(orders) or 'it has none'}) nor a list of tasks{hint}"
        )
    for name in names:
        if name not in tasks:
            near = get_close_matches(name, tasks, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise DataError(
                f"order {order} names task {name!r}, which {data / TASKS_FILE} does not have{hint} "
                f"It has {', '.join(tasks)}"
            )
        check_task_id(name)
    if len(set(names)) != len(names):
        raise DataError(f"order {order} names a task twice: {', '.join(names)}")
    if not 1 <= len(names) < MAX_LINEAGE:
        raise DataError(f"order {order} has {len(names)} tasks; 1 to {MAX_LINEAGE - 1} are allowed")
    return Order(order if named is not None else ",".join(names), names)


def read_task(
    data: Path,
    name: str,
    split: str,
    tokenizer: BackboneTokenizer,
    end: int,
    lengths: Lengths,
    *,
    train_rows: int | None,
    score_rows: int | None,
) -> Task:
    """One task's rows, checked and tokenized. Raises DataError, PromptTooLong."""
    prompt = prompt_of(name, data / TASKS_FILE, None, None, None)
    if prompt is None:
        raise DataError(f"{data / TASKS_FILE}: task {name} has neither instruction nor options")
    train, scored = (
        read_split(_file(data / name, kind), prompt, tokenizer, end, lengths, drawn=rows)
        for kind, rows in (("train", train_rows), (split, score_rows))
    )
    options = tuple(token_ids(tokenizer.raw, prompt.options, end))
    return Task(name, prompt, train, scored, options)


def mixed(tasks: Sequence[Task]) -> tuple[Example, ...]:
    """The training rows of all tasks, for joint training."""
    return tuple(example for task in tasks for example in task.train.examples)


def _catalogue(data: Path) -> tuple[dict[str, object], dict[str, list[str]]]:
    path = data / TASKS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    try:
        tasks, orders = dict(content["tasks"]), dict(content.get("orders", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f'{path} must be an object with "tasks" (name to instruction and options) and, if you '
            'like, "orders" (name to a list of tasks)'
        ) from error
    for name, names in orders.items():
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise DataError(f"{path}: order {name} must be a list of task names")
    return tasks, orders


def _file(folder: Path, split: str) -> Path:
    for path in (folder / f"{split}.jsonl", folder / f"{split}.jsonl.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder} has neither {split}.jsonl nor {split}.jsonl.gz")
