"""Which frozen T5 the adapters belong to: its identity and the modules they may add to.

Reads configuration and headers, and all weights where its fingerprints are not cached. Running the
model is the server's business. A folder that cannot be served is refused here, so that nothing is
trained or published for it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from jumplora_adapters.architecture import (
    Architecture,
    config_file,
    read_architecture,
)
from jumplora_adapters.checkpoint import Checkpoint, open_checkpoint
from jumplora_adapters.errors import BackboneError
from jumplora_adapters.fingerprint import fingerprint_1_of, fingerprint_of, weight_digests
from jumplora_adapters.fingerprint_cache import FingerprintCache, user_cache
from jumplora_adapters.generation import Generation, read_generation
from jumplora_adapters.hub import Fetch, name_of, resolve_folder
from jumplora_adapters.manifest import BackboneRef
from jumplora_adapters.network import Site, parameters, sites, version_1_targets
from jumplora_adapters.regular_file import Stamp, stamp_of
from jumplora_adapters.tokenizer_files import tokenizer_identity

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


@dataclass(frozen=True, slots=True)
class Backbone:
    """A checkpoint folder that was read and may carry adapters.

    `fingerprints` are its names in adapter files, of version 2 and of version 1. `sites` are the
    modules that an adapter may change, every linear layer in the order of the network; `targets`
    are those that version 1 of the format knows and that training chooses, with their
    (d_out, d_in): the q and v projections of all attentions.
    """

    path: Path
    name: str
    fingerprints: tuple[str, ...]  # newest version first
    architecture: Architecture
    sites: Mapping[str, Site]
    targets: Mapping[str, tuple[int, int]]
    checkpoint: Checkpoint
    generation: Generation

    @property
    def fingerprint(self) -> str:
        """The fingerprint that new adapters name."""
        return self.fingerprints[0]

    def knows(self, fingerprint: str) -> bool:
        """Whether an adapter that names this fingerprint, of whichever version, is for it."""
        return fingerprint in self.fingerprints

    def shapes(self, format_version: int) -> Mapping[str, tuple[int, int]]:
        """(d_out, d_in) of what adapters of that version may target, in the network's order."""
        if format_version == 1:
            return self.targets
        return {name: site.shape for name, site in self.sites.items()}

    def ref(self) -> BackboneRef:
        """How a manifest names this backbone."""
        return BackboneRef(
            fingerprint=self.fingerprint, name=self.name, architecture=self.architecture.as_json()
        )


def resolve_backbone(
    name_or_path: str, *, revision: str | None = None, fetch: Fetch | None = None
) -> Path:
    """A local folder as it is; otherwise the hub repository's snapshot. Raises BackboneError.

    Of a hub repository only safetensors, configuration and tokenizer files are fetched.
    """
    try:
        return resolve_folder(
            name_or_path, HUB_FILES, error=BackboneError, revision=revision, fetch=fetch
        )
    except BackboneError as error:
        raise BackboneError(
            f"{error.message}; --backbone (or JUMPLORA_BACKBONE) is to name a T5"
        ) from error


def read_backbone(path: Path) -> Backbone:
    """Read a checkpoint folder of the T5 family. Raises BackboneError.

    Hashing all weights takes about a second per gigabyte, so fingerprints are kept as long as no
    file that they depend on changes: here for this process, and in the user's cache folder.
    """
    folder = config_file(path).parent.resolve()
    return _read(folder, _stamps(folder))


Stamps = tuple[tuple[str, Stamp], ...]


def _stamps(folder: Path) -> Stamps:
    return tuple(
        (entry.name, stamp_of(entry.stat()))
        for entry in sorted(folder.iterdir())
        if entry.is_file()
    )


@lru_cache(maxsize=8)
def _read(folder: Path, stamps: Stamps) -> Backbone:
    cache = FingerprintCache(user_cache())
    architecture = read_architecture(folder)
    generation = read_generation(folder, architecture.vocab_size)
    checkpoint = open_checkpoint(folder, parameters(architecture))
    targets = version_1_targets(architecture)
    decisive = {
        name: stamp
        for name, stamp in stamps
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in HUB_FILES)
    }
    fingerprints = cache.find(folder, decisive)
    if fingerprints is None:
        tokenizer, weights = tokenizer_identity(folder), weight_digests(checkpoint)
        fingerprints = (
            fingerprint_of(architecture, tokenizer, generation, weights),
            fingerprint_1_of(architecture, tokenizer, weights, targets),
        )
        if _stamps(folder) == stamps:  # otherwise it changed while it was read
            cache.keep(folder, decisive, fingerprints)
    return Backbone(
        path=folder,
        name=name_of(folder),
        fingerprints=fingerprints,
        architecture=architecture,
        sites=MappingProxyType(sites(architecture)),
        targets=MappingProxyType(targets),
        checkpoint=checkpoint,
        generation=generation,
    )
