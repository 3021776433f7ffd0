"""The prompt of a training: from the command line, a task's JSON file, or a file of many tasks."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from jumplora_adapters.bounds import prompt_faults
from jumplora_adapters.errors import DataError
from jumplora_adapters.manifest import PromptSpec, first_faults
from jumplora_adapters.prompt import DEFAULT_TEMPLATE


def prompt_of(
    task: str,
    file: Path | None,
    instruction: str | None,
    options: str | None,
    template: str | None,
) -> PromptSpec | None:
    """The prompt, with what is given on the command line first; None if nothing is given.

    `options` are separated by "|". White space around instruction and options is dropped, so that
    the template alone decides the lines. Raises DataError.
    """
    found = _entry(file, task) if file else {}
    if instruction is not None:
        found["instruction"] = instruction
    if options is not None:
        found["options"] = options.split("|")
    if template is not None:
        found["template"] = template
    if not found:
        return None
    try:
        spec = PromptSpec.model_validate({"template": DEFAULT_TEMPLATE, **found})
    except ValidationError as error:
        raise DataError(f"the prompt of {task} is not valid: {first_faults(error)}") from error
    if faults := list(prompt_faults(spec)):
        raise DataError(f"the prompt of {task} is too large: {'; '.join(faults)}")
    labels = tuple(option.strip() for option in spec.options)
    if "" in labels or len(set(labels)) != len(labels):
        raise DataError(f"options must be different and not empty, given: {' | '.join(labels)}")
    if "{text}" not in spec.template:
        raise DataError("the template has no {text}")
    return spec.model_copy(update={"instruction": spec.instruction.strip(), "options": labels})


def _entry(file: Path, task: str) -> dict[str, object]:
    """instruction, options and template of the file itself, or of its `tasks` entry."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error  # str() of an OSError has the path again
        raise DataError(f"{file} cannot be read as JSON: {reason}") from error
    if isinstance(content, dict) and isinstance(content.get("tasks"), dict):
        if task not in content["tasks"]:
            raise DataError(f"{file} has no task {task}; it has {', '.join(content['tasks'])}")
        content = content["tasks"][task]
    if not isinstance(content, dict):
        raise DataError(f"{file} must hold a JSON object, not {type(content).__name__}")
    return {k: content[k] for k in ("instruction", "options", "template") if k in content}
