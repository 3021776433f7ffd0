"""The page at `/`: files of the package's `console` folder, the same for everybody.

What the page shows it asks of the other routes, with the key that its reader gives it.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter

from jumplora_server.access.needs import CONSOLE_PREFIX
from jumplora_server.api.static_files import pages


def router() -> APIRouter:
    """The page and its files."""
    return pages("/", CONSOLE_PREFIX, (files("jumplora_server") / "console").iterdir())
