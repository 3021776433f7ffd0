"""The names of the methods, for modules that must not import torch."""

from __future__ import annotations

from typing import Literal

Method = Literal["seqlora", "inclora", "ella", "olora", "independent", "joint"]
