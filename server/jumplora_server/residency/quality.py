"""How good a served version is: what its manifest says and what its canaries showed here."""

from __future__ import annotations

from typing import get_args

from jumplora_adapters.continual_record import continual_record
from jumplora_adapters.manifest import Manifest
from jumplora_server.metrics.state import AdapterQuality, ScoreName
from jumplora_server.residency.status import TaskStatus

# The better evidence first: a dev set may have chosen the version.
SCORES: tuple[ScoreName, ...] = get_args(ScoreName)


def score_of(manifest: Manifest | None) -> tuple[ScoreName, float] | None:
    """The best evidence of how accurate a version is, and its share; None: there is none."""
    if manifest is None:
        return None
    found = ((name, manifest.scores.get(name, -1.0)) for name in SCORES)
    return next(((name, share) for name, share in found if 0 <= share <= 1), None)


def quality_of(status: TaskStatus) -> AdapterQuality:
    """Of the version that answers. A score beyond 0 to 1, such as a percentage, is left out."""
    manifest = status.manifest
    if manifest is None:
        return AdapterQuality()
    score, accuracy = score_of(manifest) or (None, None)
    record = continual_record(manifest.training)
    return AdapterQuality(
        score=score,
        accuracy=accuracy,
        canary_accuracy=status.canary_accuracy,
        backward_transfer=None if record is None else record.backward_transfer,
    )
