"""What an adapter's training texts looked like, in numbers: what a request may be routed by.

Sums over fixed features of the texts, and how often each token came; no text can be read from it.
The manifest's section says how large the tensors are. This module knows their names and what
numbers they may have, and nothing of how they are made or used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from jumplora_adapters.errors import FormatError
from jumplora_adapters.manifest import ProfileSpec

PREFIX = "profile."


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """The tensors of a profile, on the CPU; F is its width.

    `gram` is the lower triangle of a symmetric matrix, row after row: entry (i, j), j <= i, is
    number i (i + 1) / 2 + j.
    """

    sum: Tensor  # float32 [F], of the features of all texts
    gram: Tensor  # float32 [F (F + 1) / 2], of their products
    ids: Tensor  # int32 [tokens], rising
    counts: Tensor  # int32 [tokens], how often each of them came
    dev: Tensor  # float32 [dev_texts, F], features of texts that are in no sum
    dev_ids: Tensor  # int32 [dev_texts, dev_length], their tokens, -1 behind the last

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Profile:
        """Of the tensors of a file, whose names and shapes were checked."""
        return cls(**{field.name: tensors[f"{PREFIX}{field.name}"] for field in fields(cls)})

    def tensors(self) -> dict[str, Tensor]:
        """By the names that they have in a file."""
        return {f"{PREFIX}{field.name}": getattr(self, field.name) for field in fields(self)}

    def check(self, vocabulary: int | None = None) -> None:
        """Raise FormatError (nonfinite, profile) for numbers that no texts give.

        Token ids must be below `vocabulary`, where it is given.
        """
        for name in ("sum", "gram", "dev"):
            if not bool(torch.isfinite(getattr(self, name)).all()):
                raise FormatError(f"{PREFIX}{name} has NaN or infinite entries", code="nonfinite")
        width = self.sum.numel()
        diagonal = torch.arange(1, width + 1).cumsum(0) - 1
        faults = {
            "gram: a square on its diagonal is negative": bool((self.gram[diagonal] < 0).any()),
            "ids: they must rise, from 0": bool(
                (self.ids.long().diff() <= 0).any() or self.ids[0] < 0
            ),
            "counts: each must be at least 1": bool((self.counts < 1).any()),
            "dev_ids: they must be from -1": bool((self.dev_ids < -1).any()),
            "dev_ids: a token is behind a -1, which ends its text": bool(
                ((self.dev_ids[:, :-1] < 0) & (self.dev_ids[:, 1:] >= 0)).any()
            ),
        }
        if vocabulary is not None:
            faults[f"ids, dev_ids: at most {vocabulary - 1} is allowed"] = any(
                bool((ids >= vocabulary).any()) for ids in (self.ids, self.dev_ids)
            )
        for fault, is_found in faults.items():
            if is_found:
                raise FormatError(f"{PREFIX}{fault}", code="profile")


def profile_layout(spec: ProfileSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor that a manifest with this section needs, by name."""
    width = spec.width
    return {
        f"{PREFIX}sum": ("F32", (width,)),
        f"{PREFIX}gram": ("F32", (width * (width + 1) // 2,)),
        f"{PREFIX}ids": ("I32", (spec.tokens,)),
        f"{PREFIX}counts": ("I32", (spec.tokens,)),
        f"{PREFIX}dev": ("F32", (spec.dev_texts, width)),
        f"{PREFIX}dev_ids": ("I32", (spec.dev_texts, spec.dev_length)),
    }
