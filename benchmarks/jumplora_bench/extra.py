"""The packages of the `bench` extra: what we compare with, plots, memory. Imported late."""

from __future__ import annotations

import importlib
from typing import Any

from jumplora_adapters.errors import AdapterError


class PeerMissing(AdapterError):
    """A package that this measurement needs is not installed."""

    code = "peer_missing"


def peer(module: str) -> Any:
    """The module, imported. Raises PeerMissing, which names the extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there, and lacks something itself
        raise PeerMissing(
            f"{package} is not installed; it comes with the extra `bench`: "
            "pip install --constraint constraints.txt --editable '.[bench]'"
        ) from error
