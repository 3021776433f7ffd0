"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from jumplora_adapters.cli.sources import SUFFIX

INSTALL_TRAIN = "pip install --constraint constraints.txt --editable '.[train]'"
ValueType = Literal["float32", "float16", "bfloat16"]

Backbone = Annotated[
    str,
    typer.Option("--backbone", envvar="JUMPLORA_BACKBONE", help="Folder or hub id of the T5."),
]
Store = Annotated[
    Path, typer.Option("--store", envvar="JUMPLORA_STORE", help="Folder of published adapters.")
]
StoreOrNone = Annotated[
    Path | None,
    typer.Option("--store", envvar="JUMPLORA_STORE", help="Folder of published adapters."),
]


def adapter_file(path: Path) -> Path:
    """`path` if an adapter may have that name, else a usage error: SPEC tells files by it."""
    if path.suffix != SUFFIX:
        raise typer.BadParameter(f"{path} given; the name of an adapter file ends in {SUFFIX}")
    return path


Out = Annotated[
    Path,
    typer.Option(
        "--out",
        callback=adapter_file,
        help=f"Adapter file to write ({SUFFIX}); one that is there is replaced.",
    ),
]
Values = Annotated[ValueType, typer.Option("--values", help="Type of the stored values.")]
Created = Annotated[
    str | None,
    typer.Option("--created", help="Date for the manifest, default now; enters the version."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only, for programs.")]
