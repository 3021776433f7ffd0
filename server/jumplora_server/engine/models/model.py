"""What a runner asks of a backbone's forward pass, and which class computes which family.

A family's modules and their names are `jumplora_adapters.network`'s; here is what is computed with
them. server/README.md ("How to add") says what another family takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from jumplora_adapters.architecture import Architecture, Family
from jumplora_server.engine.attention import LengthGroup
from jumplora_server.engine.cache import Caches, SourceCache
from jumplora_server.engine.linear import Plan
from jumplora_server.engine.models.t5 import T5
from jumplora_server.engine.passes import NodeGroup
from jumplora_server.engine.weights import StoredTensors


class Model(Protocol):
    """The forward pass over packed prompts, and over one token of many rows."""

    dtype: torch.dtype  # of activations and caches
    weight_bytes: int

    def encode(
        self, tokens: Tensor, groups: Sequence[LengthGroup], plan: Plan, cache: SourceCache
    ) -> None:
        """Encode packed prompts into their source places.

        Args:
            tokens: [n] all prompts' ids one after another, n >= linear.MIN_ROWS.
        """

    def decode(
        self,
        tokens: Tensor,
        positions: Tensor,
        live: Tensor,
        places: slice | Tensor,
        *,
        lengths: tuple[int, int],
        plan: Plan,
        caches: Caches,
    ) -> Tensor:
        """One step of the first R rows; returns logits [R, vocab] in float32.

        Args:
            tokens: [R] each row's previous token (rows not live: anything).
            positions: [R] the position that token takes in its row.
            live: [n] the rows that really decode; only their caches are written.
            places: R source places, of each row's prompt.
            lengths: (source, target) longest valid lengths, rounded up by `round_up`.
        """

    def decode_nodes(
        self, tokens: Tensor, groups: Sequence[NodeGroup], *, plan: Plan, caches: Caches
    ) -> Tensor:
        """Nodes of passes side by side; returns logits [n, vocab] in float32.

        Args:
            tokens: [n] of all nodes one after another, n >= linear.MIN_ROWS (rows of no pass:
                anything).
        """


class MakeModel(Protocol):
    """A model's constructor. Raises BackboneError where a weight cannot be read."""

    def __call__(
        self, config: Architecture, weights: StoredTensors, *, dtype: str, device: torch.device
    ) -> Model: ...


MODELS: Mapping[Family, MakeModel] = {"t5": T5}
