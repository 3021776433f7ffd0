"""`jumplora import-backbone`: safetensors from a backbone that comes as .bin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jumplora_adapters.cli import options
from jumplora_adapters.cli.output import print_facts, print_json, reported_errors, size, warn
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.recognise import check_is


def import_backbone(
    source: Annotated[Path, typer.Argument(help="Folder with config.json, pytorch_model.bin.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to make; must not exist yet.")],
    as_json: options.AsJson = False,
) -> None:
    """Make a safetensors folder of a T5 whose weights are pickled, with a tokenizer.json."""
    with reported_errors():
        from jumplora_adapters.backbone import read_backbone
        from jumplora_adapters.convert.backbone_import import import_backbone as run

        check_is(source, "backbone", "pickled backbone", error=ConvertError)
        imported = run(source, out)
        fingerprint = read_backbone(imported.folder).fingerprint
    if imported.tokenizer == "missing":
        warn(
            "there is no tokenizer.json, and none was made of a spiece.model:"
            f" {options.INSTALL_TRAIN}, and run this again, or put one there"
        )
    facts: dict[str, object] = {
        "folder": str(imported.folder),
        "fingerprint": fingerprint,
        "tensors": imported.tensors,
        "bytes": imported.nbytes,
        "dropped": list(imported.dropped),
        "tokenizer": imported.tokenizer,
    }
    if as_json:
        print_json(facts)
        return
    print_facts(
        [
            ("folder", str(imported.folder)),
            ("fingerprint", fingerprint),
            ("tensors", f"{imported.tensors} ({size(imported.nbytes)})"),
            ("left out", ", ".join(imported.dropped) or "nothing"),
            ("tokenizer.json", imported.tokenizer),
        ]
    )
