"""The only place where a pickle is opened: torch files, data only, never code.

`torch.load(weights_only=True)` rebuilds tensors, containers and scalars and refuses everything
else, so a checkpoint cannot run anything on the machine that converts it.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch

from jumplora_adapters.errors import ConvertError


def load_pickled(path: Path) -> object:
    """What `torch.save` wrote to `path`, on the CPU; zip archives are memory-mapped.

    Raises ConvertError if the file is missing, damaged or needs more than plain data.
    """
    if not path.is_file():
        raise ConvertError(f"no checkpoint file at {path}")
    try:
        loaded: object = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        # Without torch's own words: they advise to let the file run code.
        raise ConvertError(
            f"{path} is not a plain torch file: only tensors, numbers, strings, lists and dicts"
            " are read, nothing that would run code"
        ) from error
    # Everything: the unpickler runs on whatever bytes are there, and TypeError, IndexError,
    # AssertionError, struct.error and more come out of it. All of them mean the same file.
    except Exception as error:
        raise ConvertError(f"{path} is damaged or not a torch file: {error}") from error
    return loaded
