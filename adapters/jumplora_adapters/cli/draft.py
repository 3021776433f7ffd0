"""The drafts that a conversion's options describe."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jumplora_adapters.cli.options import ValueType
from jumplora_adapters.cli.template import warn_of_backslashes

if TYPE_CHECKING:
    import torch

    from jumplora_adapters.convert.draft import Draft


def make_drafts(
    tasks: Sequence[str],
    *,
    task_file: Path | None,
    instruction: str | None,
    labels: str | None,
    template: str | None,
    max_new_tokens: int | None,
    created: str | None,
    lineage: tuple[str, ...] = (),
) -> tuple[Draft, ...]:
    """One draft a task. Raises DataError for a prompt that is not valid, TaskIdInvalid."""
    from jumplora_adapters.convert.draft import Draft
    from jumplora_adapters.manifest import GenerationDefaults
    from jumplora_adapters.training.task_file import prompt_of

    warn_of_backslashes(template)
    generation = GenerationDefaults()
    if max_new_tokens is not None:
        generation["max_new_tokens"] = max_new_tokens
    return tuple(
        Draft(
            task=task,
            created=created_or_now(created),
            prompt=prompt_of(task, task_file, instruction, labels, template),
            generation=generation,
            lineage=lineage,
        )
        for task in tasks
    )


def created_or_now(created: str | None) -> str:
    """The date for a manifest: as given, or the current second in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds") if created is None else created


def value_type(name: ValueType) -> torch.dtype:
    """The torch type of `--values`."""
    import torch

    return {
        "float32": torch.float32,
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
    }[name]
