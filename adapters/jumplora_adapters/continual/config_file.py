"""`--config FILE`: a TOML file whose keys are the command's own options; flags win over it.

A list is the same as its items with commas between them.
"""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path

import typer

from jumplora_adapters.cli.output import fail


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """The option's callback: what the file says becomes the defaults of the other options."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"error (io): {path}: {error.strerror or error}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fail(f"error (data): {path} is not TOML: {error}")
    known = {str(option.name) for option in context.command.params} - {"config_file"}
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            fail(f"error (data): {path}: {name} is not an option of this command{hint}")
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = ",".join(map(str, value))
    context.default_map = {**(context.default_map or {}), **values}
    return path
