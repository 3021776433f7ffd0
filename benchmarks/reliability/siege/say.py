"""How a sending process tells what it saw: a line of JSON each time."""

from __future__ import annotations

import json


def say(**told: object) -> None:
    """One line, at once."""
    print(json.dumps(told), flush=True)
