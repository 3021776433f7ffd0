"""What of a backbone decides a training's numbers, beyond the fingerprint that adapters name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from jumplora_adapters.checkpoint import weight_files


def backbone_digest(folder: Path) -> str:
    """SHA-256 (hex) over config.json and every weight file, in the order of their names.

    Version 1 of the fingerprint, which the records of a training name, covers q and v alone;
    gradients and dev scores depend on all weights, and on all of config.json. Raises BackboneError,
    OSError.
    """
    hasher = hashlib.sha256()
    for path in sorted({folder / "config.json", *weight_files(folder)}):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        hasher.update(f"{path.name} {content}\n".encode())
    return hasher.hexdigest()
