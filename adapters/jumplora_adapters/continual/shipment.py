"""What of a finished run is published, and in which order."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jumplora_adapters.errors import DataError
from jumplora_adapters.header import read_manifest


@dataclass(frozen=True, slots=True)
class Parcel:
    """One adapter file of a run and the task it will be published as."""

    task: str
    path: Path


def parcels_of(run: Path) -> tuple[Parcel, ...]:
    """The files in the order in which a store takes them: ancestors first, the merged model last.

    Raises DataError where `run` is unfinished, lacks a file, or is another folder.
    """
    if not (run / "overlap.json").is_file():
        known = (run / "config.json").is_file()
        reason = "is not finished: run its command again" if known else "is not a run's folder"
        raise DataError(f"{run} {reason}")
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        tasks = list(config["order"]["tasks"])
        method, merged = str(config["method"]), str(config["merged_task"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run / 'config.json'} does not describe a run ({error!r})") from error
    names = ["1-joint"] if method == "joint" else [f"{n}-{t}" for n, t in enumerate(tasks, 1)]
    paths = [run / "adapters" / f"{name}.safetensors" for name in names]
    if (last := run / "adapters" / f"{merged}.safetensors").is_file():
        paths.append(last)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing: the run's folder was changed")
    return tuple(Parcel(read_manifest(path).task, path) for path in paths)
