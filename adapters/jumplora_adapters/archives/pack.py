"""A PEFT folder as a tar, for a server that converts it."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import BinaryIO

from jumplora_adapters.archives.entries import CONFIG_FILE, PICKLED_FILE, WEIGHTS_FILE
from jumplora_adapters.errors import ConvertError
from jumplora_adapters.file_kind import PICKLE_ADVICE
from jumplora_adapters.hub import name_of


def pack(folder: Path, out: BinaryIO) -> None:
    """Write the two files of a folder that a conversion reads, in one folder of its name.

    Equal files give equal bytes. Raises ConvertError where one is missing, and OSError.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            if name == WEIGHTS_FILE and (folder / PICKLED_FILE).is_file():
                raise ConvertError(f"{folder} has {PICKLED_FILE} and no {name}{PICKLE_ADVICE}")
            raise ConvertError(
                f"no {name} in {folder}: a PEFT folder has {CONFIG_FILE} and {WEIGHTS_FILE}"
            )
    top = name_of(folder.resolve()).rpartition("/")[2]  # of a hub id the repository's own name
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            with (folder / name).open("rb") as file:
                info = tarfile.TarInfo(f"{top}/{name}")
                info.size = file.seek(0, 2)
                file.seek(0)
                tar.addfile(info, file)
