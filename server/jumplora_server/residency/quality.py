"""How good a served version is: what its manifest says and what its canaries showed here."""

from __future__ import annotations

from typing import get_args

from jumplora_adapters.continual_record import continual_record
from jumplora_server.metrics.state import AdapterQuality, ScoreName
from jumplora_server.residency.status import TaskStatus

# The better evidence first: a dev set may have chosen the version.
SCORES: tuple[ScoreName, ...] = get_args(ScoreName)


def quality_of(status: TaskStatus) -> AdapterQuality:
    """Of the version that answers. A score beyond 0 to 1, such as a percentage, is left out."""
    manifest = status.manifest
    if manifest is None:
        return AdapterQuality()
    score = next((name for name in SCORES if 0 <= manifest.scores.get(name, -1) <= 1), None)
    record = continual_record(manifest.training)
    return AdapterQuality(
        score=score,
        accuracy=None if score is None else manifest.scores[score],
        canary_accuracy=status.canary_accuracy,
        backward_transfer=None if record is None else record.backward_transfer,
    )
