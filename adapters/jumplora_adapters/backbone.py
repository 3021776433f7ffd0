"""Which frozen T5 the adapters belong to: its identity and the modules they may add to.

Reads configuration, headers and the target weights; running the model is the server's business.
A folder that cannot be served is refused here, so that nothing is trained or published for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from jumplora_adapters.architecture import (
    Architecture,
    config_file,
    parameter_shapes,
    read_architecture,
    target_shapes,
)
from jumplora_adapters.checkpoint import Checkpoint, open_checkpoint
from jumplora_adapters.errors import BackboneError
from jumplora_adapters.fingerprint import fingerprint, tokenizer_digest, weight_digests
from jumplora_adapters.generation import Generation, read_generation
from jumplora_adapters.manifest import BackboneRef

HUB_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "spiece.model",
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Backbone:
    """A checkpoint folder that was read and may carry adapters.

    `targets` maps every module that an adapter may change to its (d_out, d_in): the q and v
    projections of encoder self, decoder self and cross attention, in the order of the network.
    """

    path: Path
    name: str
    fingerprint: str
    architecture: Architecture
    targets: Mapping[str, tuple[int, int]]
    checkpoint: Checkpoint
    generation: Generation

    def ref(self) -> BackboneRef:
        """How a manifest names this backbone."""
        return BackboneRef(
            fingerprint=self.fingerprint, name=self.name, architecture=self.architecture.as_json()
        )


def _fetch(hub_id: str, revision: str | None) -> str:
    import httpx  # both are slow to import and rarely needed
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(hub_id, revision=revision, allow_patterns=list(HUB_FILES))
    except httpx.HTTPError as error:
        raise ConnectionError(str(error)) from error


def resolve_backbone(
    name_or_path: str,
    *,
    revision: str | None = None,
    fetch: Callable[[str, str | None], str] = _fetch,
) -> Path:
    """A local folder as it is; otherwise the hub repository's snapshot. Raises BackboneError.

    Of a hub repository only safetensors, configuration and tokenizer files are fetched.
    """
    folder = Path(name_or_path).expanduser()
    if name_or_path and folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(name_or_path):
        raise BackboneError(f"{name_or_path!r} is neither a folder nor a hub id")
    try:
        return Path(fetch(name_or_path, revision))
    except (OSError, ValueError, RuntimeError) as error:  # of the hub's client and its transport
        reason = str(error).strip().partition("\n")[0]
        raise BackboneError(
            f"{name_or_path!r} is not a folder here and could not be fetched: {reason}"
        ) from error


def read_backbone(path: Path) -> Backbone:
    """Read a checkpoint folder of the T5 family. Raises BackboneError.

    Hashing the target weights takes about a second per gigabyte, so the answer is kept as long as
    no file of the folder changes.
    """
    folder = config_file(path).parent.resolve()
    state = tuple(
        (entry.name, stat.st_size, stat.st_mtime_ns)
        for entry in sorted(folder.iterdir())
        if entry.is_file() and (stat := entry.stat())
    )
    return _read(folder, state)


@lru_cache(maxsize=8)
def _read(folder: Path, state: tuple[tuple[str, int, int], ...]) -> Backbone:
    del state  # only the cache's key: another size or time of a file is another backbone
    architecture = read_architecture(folder)
    generation = read_generation(folder, architecture.vocab_size)
    checkpoint = open_checkpoint(folder, parameter_shapes(architecture))
    targets = target_shapes(architecture)
    weights = weight_digests(checkpoint, [f"{name}.weight" for name in targets])
    return Backbone(
        path=folder,
        name=_name_of(folder),
        fingerprint=fingerprint(architecture.as_json(), tokenizer_digest(folder), weights),
        architecture=architecture,
        targets=MappingProxyType(targets),
        checkpoint=checkpoint,
        generation=generation,
    )


def _name_of(folder: Path) -> str:
    # A hub snapshot lies in models--owner--name/snapshots/<commit>.
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return folder.name
