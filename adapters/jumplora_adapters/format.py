"""One adapter version is one safetensors file (FORMAT.md): written here, and read with all checks.

Reading trusts nothing: the header, the manifest, the names and the shapes are checked before a
tensor is made, the numbers before an adapter is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from jumplora_adapters.atomic_file import replace_file
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.bounds import check_publishable
from jumplora_adapters.delta import (
    CombinedDelta,
    Delta,
    LowRankDelta,
    SparseDelta,
    low_rank_part,
    mask_digest_of,
    sparse_part,
)
from jumplora_adapters.errors import FingerprintMismatch, FormatError
from jumplora_adapters.header import (
    MANIFEST_KEY,
    MAX_FILE_BYTES,
    Header,
    check_header,
    open_adapter,
    read_header,
)
from jumplora_adapters.layout import check_layout
from jumplora_adapters.manifest import (
    FORMAT_VERSION,
    Kind,
    Manifest,
    canonical_json,
    parse_manifest,
)
from jumplora_adapters.overlap import Support
from jumplora_adapters.printable import shown
from jumplora_adapters.profile import Profile

_DTYPES = {
    "U8": torch.uint8,
    "I32": torch.int32,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Per module the A [r, d_in] and B [d_out, r] that a mask was made from, unscaled."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One validated version. `digest` is the SHA-256 (hex) of the file's bytes: the version."""

    manifest: Manifest
    deltas: Mapping[str, Delta]
    digest: str
    factors: Factors = field(default_factory=lambda: MappingProxyType({}))
    profile: Profile | None = None


def write_adapter(
    path: Path,
    manifest: Manifest,
    deltas: Mapping[str, Delta],
    factors: Factors | None = None,
    profile: Profile | None = None,
) -> str:
    """Write an adapter file atomically and return its digest; equal input gives equal bytes.

    The file is of the newest version. `format_version`, `density` and `mask_digest` of the manifest
    are facts about it and are filled in here. `factors` may accompany masks; `profile` is needed
    where the manifest has that section. Raises FormatError with the codes of reading, also for a
    manifest that could be read and not published.
    """
    described = describe(manifest, deltas)
    shapes = {name: delta.shape for name, delta in deltas.items()}
    check_publishable(described, shapes)
    tensors: dict[str, Tensor] = {}
    for name, delta in deltas.items():
        delta.check()
        if (sparse := sparse_part(delta)) is not None:
            tensors[f"{name}.mask"] = sparse.mask
            tensors[f"{name}.values"] = sparse.values
        if (low_rank := low_rank_part(delta)) is not None:
            tensors[f"{name}.A"] = low_rank.A
            tensors[f"{name}.B"] = low_rank.B
    for name, (factor_a, factor_b) in (factors or {}).items():
        _check_finite(name, factor_a, factor_b)
        tensors[f"{name}.factor_A"] = factor_a.detach().cpu()
        tensors[f"{name}.factor_B"] = factor_b.detach().cpu()
    if profile is not None:
        tensors |= profile.tensors()
    content = save(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        metadata={MANIFEST_KEY: canonical_json(described)},
    )
    if len(content) > MAX_FILE_BYTES:
        raise FormatError(
            f"the file would have {len(content)} bytes; at most {MAX_FILE_BYTES} are allowed",
            code="file_size",
        )
    length = 8 + int.from_bytes(content[:8], "little")
    header = check_header(content[:length], data_bytes=len(content) - length)
    check_layout(header, described, shapes)
    if profile is not None:
        profile.check()
    replace_file(path, content)
    return hashlib.sha256(content).hexdigest()


def describe(manifest: Manifest, deltas: Mapping[str, Delta]) -> Manifest:
    """The manifest with the newest version, and density and mask digest as the deltas have them.

    Raises FormatError (names) unless the deltas are of the manifest's kind and for its targets.
    """
    if set(deltas) != set(manifest.targets):
        raise FormatError("the deltas are not for exactly the manifest's targets", code="names")
    expected: Mapping[Kind, type[Delta]] = {"masked": SparseDelta, "lowrank": LowRankDelta}
    only = expected.get(manifest.kind)
    if only is not None and not all(isinstance(delta, only) for delta in deltas.values()):
        raise FormatError(f"kind {manifest.kind} needs only {only.__name__}", code="names")
    facts: dict[str, object] = {
        "format_version": FORMAT_VERSION,
        "density": {name: deltas[name].density for name in manifest.targets},
        "mask_digest": _mask_digest(deltas),
    }
    return manifest.model_copy(update=facts)


def kind_of(deltas: Iterable[Delta]) -> Kind:
    """The kind of an adapter with these deltas."""
    kinds = {type(delta) for delta in deltas}
    if kinds == {SparseDelta}:
        return "masked"
    return "lowrank" if kinds == {LowRankDelta} else "combined"


def read_adapter(
    path: Path,
    backbone: Backbone,
    *,
    max_file_bytes: int = MAX_FILE_BYTES,
    expect_digest: str | None = None,
    follow_links: bool = True,
) -> Adapter:
    """Read and validate one version for one backbone.

    `follow_links` False refuses a link in the file's place, as a store's files must be none.
    Raises FormatError with the code of the check that failed, in the order of FORMAT.md, and
    FingerprintMismatch for another backbone's adapter.
    """
    with open_adapter(path, follow_links=follow_links) as file:
        return validate_open(
            file, backbone, max_file_bytes=max_file_bytes, expect_digest=expect_digest
        )


def validate_open(
    file: BinaryIO,
    backbone: Backbone,
    *,
    max_file_bytes: int = MAX_FILE_BYTES,
    digest: str | None = None,
    expect_digest: str | None = None,
) -> Adapter:
    """Read and validate an open file, as `read_adapter` does.

    `digest` is the SHA-256 of the file, where the caller computed it: then it is not computed here.
    """
    header = read_header(file, max_file_bytes=max_file_bytes)
    manifest = parse_manifest(header.manifest_text)
    if not backbone.knows(manifest.backbone.fingerprint):
        raise FingerprintMismatch(
            f"the adapter is for backbone '{shown(manifest.backbone.name, 80)}' "
            f"({manifest.backbone.fingerprint[:12]}), not for {backbone.name!r} "
            f"({backbone.fingerprint[:12]})"
        )
    shapes = backbone.shapes(manifest.format_version)
    check_layout(header, manifest, shapes)
    hasher = hashlib.sha256(header.raw) if digest is None else None
    tensors = _read_tensors(file, header, hasher)
    found = digest or (hasher.hexdigest() if hasher is not None else "")
    if expect_digest is not None and found != expect_digest:
        raise FormatError(f"the file is {found}, not {expect_digest}", code="digest")
    deltas = MappingProxyType(_deltas(tensors, manifest, shapes))
    _check_facts(manifest, deltas)
    profile = None if manifest.profile is None else Profile.of(tensors)
    if profile is not None:
        profile.check(backbone.architecture.vocab_size)
    return Adapter(manifest, deltas, found, _factors(tensors, manifest), profile)


def read_supports(
    path: Path,
    backbone: Backbone,
    *,
    max_file_bytes: int = MAX_FILE_BYTES,
    follow_links: bool = True,
) -> dict[str, Support]:
    """Module -> which entries a version's masks keep; all else is passed over, unread.

    For versions that `read_adapter` passed before: of the checks only those of header, manifest and
    layout are made again. A module without a mask is left out: what is of low rank has no support.
    Raises FormatError.
    """
    with open_adapter(path, follow_links=follow_links) as file:
        header = read_header(file, max_file_bytes=max_file_bytes)
        manifest = parse_manifest(header.manifest_text)
        shapes = backbone.shapes(manifest.format_version)
        check_layout(header, manifest, shapes)
        supports: dict[str, Support] = {}
        for info in header.tensors:
            module, _, part = info.name.rpartition(".")
            if part != "mask":
                continue
            file.seek(header.data_start + info.begin)
            buffer = bytearray(info.end - info.begin)
            if file.readinto(buffer) != len(buffer):
                raise FormatError("the file ended while it was read", code="file_size")
            bits = np.frombuffer(buffer, dtype=np.uint8)
            supports[module] = Support(shapes[module], bits)
    return supports


def _read_tensors(
    file: BinaryIO, header: Header, hasher: hashlib._Hash | None
) -> dict[str, Tensor]:
    # Each tensor gets memory of its own: aligned whatever the offset, and freed one by one.
    tensors: dict[str, Tensor] = {}
    for info in header.tensors:
        buffer = bytearray(info.end - info.begin)
        if _read_into(file, buffer) != len(buffer):
            raise FormatError("the file ended while it was read", code="file_size")
        if hasher is not None:
            hasher.update(buffer)
        dtype = _DTYPES[info.dtype]
        flat = torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)
        tensors[info.name] = flat.view(info.shape)
    if file.read(1):
        raise FormatError("the file grew while it was read", code="file_size")
    return tensors


def _read_into(file: BinaryIO, buffer: bytearray) -> int:
    # typing.BinaryIO has no readinto, which every binary file has.
    return int(file.readinto(buffer))  # type: ignore[attr-defined]


def _deltas(
    tensors: Mapping[str, Tensor], manifest: Manifest, shapes: Mapping[str, tuple[int, int]]
) -> dict[str, Delta]:
    deltas: dict[str, Delta] = {}
    for name in manifest.targets:
        delta = _delta(tensors, name, shapes[name])
        try:
            delta.check()
        except FormatError as error:
            raise FormatError(f"{name}: {error}", code=error.code) from error
        deltas[name] = delta
    return deltas


def _delta(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, int]) -> Delta:
    sparse, low_rank = None, None
    if f"{name}.mask" in tensors:
        sparse = SparseDelta(shape, tensors[f"{name}.mask"], tensors[f"{name}.values"])
    if f"{name}.A" in tensors:
        low_rank = LowRankDelta(tensors[f"{name}.A"], tensors[f"{name}.B"])
    if sparse is not None and low_rank is not None:
        return CombinedDelta(sparse, low_rank)
    delta = low_rank if sparse is None else sparse
    assert delta is not None, "check_layout saw one of the two"
    return delta


def _check_facts(manifest: Manifest, deltas: Mapping[str, Delta]) -> None:
    if manifest.mask_digest != _mask_digest(deltas):
        raise FormatError("mask_digest is not that of the masks", code="manifest")
    for name, delta in deltas.items():
        if manifest.density.get(name) != delta.density:
            raise FormatError(
                f"density of {name} is {delta.density}, the manifest says "
                f"{manifest.density.get(name)}",
                code="manifest",
            )


def _mask_digest(deltas: Mapping[str, Delta]) -> str | None:
    parts = {name: sparse_part(delta) for name, delta in deltas.items()}
    masked = {name: part for name, part in parts.items() if part is not None}
    return mask_digest_of(masked) if masked else None


def _factors(tensors: Mapping[str, Tensor], manifest: Manifest) -> Factors:
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name in manifest.targets:
        if f"{name}.factor_A" not in tensors:
            continue
        pair = tensors[f"{name}.factor_A"], tensors[f"{name}.factor_B"]
        _check_finite(name, *pair)
        factors[name] = pair
    return MappingProxyType(factors)


def _check_finite(name: str, *factors: Tensor) -> None:
    if not all(bool(torch.isfinite(factor).all()) for factor in factors):
        raise FormatError(f"{name}: a factor has NaN or infinite entries", code="nonfinite")
