"""What the native runner asks of a forward pass, and which class computes which family."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from jumplora_adapters.architecture import Architecture, Family
from jumplora_server.engine.native.layout import Step
from jumplora_server.engine.native.sampling import CandidateLists
from jumplora_server.engine.native.t5 import NativeT5
from jumplora_server.engine.native.tape import Tape
from jumplora_server.engine.weights import StoredTensors


class NativeModel(Protocol):
    """The forward pass as tapes over fixed buffers."""

    weight_bytes: int
    encoding: Tape
    decoding: Tape
    logits: Tensor  # [rows, vocabulary], of the last decode
    highest: Tensor  # [rows]
    best: Tensor  # [rows]
    logprobs: Tensor  # [rows]
    candidates: CandidateLists
    fed: Tensor  # [rows, positions] int32, what each row was fed, where its sampling looks at that

    @property
    def sites(self) -> Mapping[str, int]:
        """Every linear layer's place in a slot's table."""

    def encode(self, step: Step) -> None:
        """Write packed prompts' keys and values into their source places."""

    def decode(self, step: Step) -> None:
        """One token of each sequence: `best[i]` and where wanted `logprobs[i]` for the i-th."""

    def copy(self, step: Step) -> None:
        """Copy what rows of the target cache hold."""


class MakeModel(Protocol):
    """A model's constructor: `tokens` is how many one encode takes at most, `nodes` how many
    nodes of tries a decode takes beside its rows."""

    def __call__(
        self,
        config: Architecture,
        weights: StoredTensors,
        *,
        library: ctypes.CDLL,
        end_token_ids: tuple[int, ...],
        dtype: str,
        tokens: int,
        rows: int,
        nodes: int,
        max_source: int,
        max_target: int,
    ) -> NativeModel: ...


NATIVE_MODELS: Mapping[Family, MakeModel] = {"t5": NativeT5}
"""Torch computes a family that is not here."""
