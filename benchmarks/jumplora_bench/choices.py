"""What the command line lets choose by name. Enums, because typer's lists take no Literal.

Imports nothing: the command line is built from it.
"""

from __future__ import annotations

from enum import StrEnum


class Dtype(StrEnum):
    """Arithmetic of our engine's linear layers; an enum because typer's lists take no Literal."""

    FLOAT32 = "float32"
    INT8 = "int8"
    BFLOAT16 = "bfloat16"


class ServingPart(StrEnum):
    """Parts of the serving benchmark."""

    SATURATION = "saturation"
    LOW_LOAD = "low-load"
    RATES = "rates"
    DISTURBED = "disturbed"


class AdaptersPart(StrEnum):
    """Parts of the benchmark of adapters."""

    LOAD = "load"
    BYTES = "bytes"
    REGISTERED = "registered"


class FairnessScenario(StrEnum):
    """Floods of the fairness benchmark."""

    ONE_TASK = "one-task"
    TWO_TASKS = "two-tasks"
    EIGHT_TASKS = "eight-tasks"
    LONG_GREEDY = "long-greedy"
    LONG_SAMPLED = "long-sampled"
    LONG_PROMPTS = "long-prompts"
