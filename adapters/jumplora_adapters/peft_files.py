"""The files of a folder that PEFT saves, by name; light to import."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLED_FILE = "adapter_model.bin"  # older PEFT wrote it; not opened here
MAX_CONFIG_BYTES = 1024 * 1024
_MAX_ENTRIES = 1000  # of a folder that are looked at


def folders_below(folder: Path) -> str:
    """A hint at PEFT folders inside of one that is none; PEFT saves named adapters so."""
    if not folder.is_dir():
        return ""
    # os.path.isfile, since a folder that may not be entered is none of these.
    entries = islice(folder.iterdir(), _MAX_ENTRIES)
    found = sorted(str(entry) for entry in entries if os.path.isfile(entry / CONFIG_FILE))[:3]
    return f"; there is one in {', '.join(found)}" if found else ""
