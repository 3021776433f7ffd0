"""What a format of PEFT is to the importer: its tensors, its fields, and how they become deltas.

A format is a file like shira.py, with one line in the table of peft.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue
from torch import Tensor

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.form import Form
from jumplora_adapters.convert.peft_config import targeting_of
from jumplora_adapters.convert.peft_fields import Fields
from jumplora_adapters.convert.targeting import Targeting
from jumplora_adapters.delta import Delta
from jumplora_adapters.format import Factors

Config = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class PeftModule:
    """The tensors of one module by the ends of their names, and its name in the trained model."""

    name: str
    tensors: Mapping[str, Tensor]
    named_by_peft: bool  # False: the file's name lacks PEFT's front, so `name` is a guess


Modules = Mapping[str, PeftModule]
"""By the site that each is of."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a format makes of a folder."""

    deltas: Mapping[str, Delta]
    rank: int | None = None
    alpha: float | None = None
    notes: Mapping[str, JsonValue] = field(default_factory=dict)
    factors: Factors | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PeftFormat:
    """One `peft_type`. `read` raises ConvertError."""

    peft_type: str
    title: str  # for messages
    method: str  # for manifests
    parts: tuple[str, ...]  # the ends of its tensors' names: "lora_A.weight"
    fields: Fields
    read: Callable[[Config, Modules, Backbone, Form], Contents]
    ignored: tuple[str, ...] = ()  # ends of tensors that say nothing new
    init: str | None = None  # the field that says false where PEFT starts with random numbers
    targeting: Callable[[Config], Targeting] = targeting_of
