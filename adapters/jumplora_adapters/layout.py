"""Which tensors a file must have for its manifest, and of what type and shape.

Works on names and numbers from the header alone, so that it runs before a tensor is made.
"""

from __future__ import annotations

from collections.abc import Mapping

from jumplora_adapters.delta import mask_bytes
from jumplora_adapters.errors import FormatError
from jumplora_adapters.header import Header, TensorInfo
from jumplora_adapters.manifest import Kind, Manifest
from jumplora_adapters.profile import PREFIX, profile_layout

FLOATS = ("F32", "F16", "BF16")
SPARSE_PARTS = ("mask", "values")
FACTOR_PARTS = ("factor_A", "factor_B")
LOW_RANK_PARTS = ("A", "B")
PARTS: Mapping[Kind, tuple[tuple[str, str], ...]] = {
    "masked": (SPARSE_PARTS, FACTOR_PARTS),
    "lowrank": (LOW_RANK_PARTS,),
    "combined": (SPARSE_PARTS, FACTOR_PARTS, LOW_RANK_PARTS),
}
"""The tensors that a target may have by kind, in pairs."""

_Tensors = Mapping[str, TensorInfo]


def check_layout(header: Header, manifest: Manifest, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raise FormatError (names, dtype, shape) unless the tensors are the manifest's.

    `shapes` maps the modules that may be targets in the manifest's version to (d_out, d_in).
    """
    for name in manifest.targets:
        if name not in shapes:
            allowed = (
                "q or v projection of the backbone, the only targets of format version 1"
                if manifest.format_version == 1
                else "linear layer of the backbone"
            )
            raise FormatError(f"target {name!r} is not a {allowed}", code="names")
    tensors = {info.name: info for info in header.tensors}
    _check_foreign(tensors, manifest)
    for name in manifest.targets:
        _check_module(tensors, name, manifest, shapes[name])
    _check_profile(tensors, manifest)


def _check_foreign(tensors: _Tensors, manifest: Manifest) -> None:
    """Refuse, by its name, a tensor that is nothing this version knows."""
    known = {
        f"{name}.{part}"
        for name in manifest.targets
        for parts in PARTS[manifest.kind]
        for part in parts
    }
    if manifest.profile is not None:
        known |= profile_layout(manifest.profile).keys()
    foreign = min(tensors.keys() - known, default=None)
    if foreign is None:
        return
    shown = foreign[:80]
    if foreign.rpartition(".")[0] in manifest.targets:
        raise FormatError(
            f"tensor {shown!r} does not belong to a target with kind {manifest.kind}", code="names"
        )
    if foreign.startswith(PREFIX) and manifest.profile is None:
        raise FormatError(
            f"tensor {shown!r} is there, but the manifest has no profile", code="names"
        )
    raise FormatError(
        f"tensor {shown!r} belongs to no target of the manifest and to no section that this "
        "program knows: a newer version may know it",
        code="names",
    )


def _check_module(tensors: _Tensors, name: str, manifest: Manifest, shape: tuple[int, int]) -> None:
    has_mask, has_factors, is_low_rank = (
        _has_pair(tensors, name, parts) for parts in (SPARSE_PARTS, FACTOR_PARTS, LOW_RANK_PARTS)
    )
    needed = {"masked": has_mask, "lowrank": is_low_rank, "combined": has_mask or is_low_rank}
    if not needed[manifest.kind]:
        first = LOW_RANK_PARTS[0] if manifest.kind == "lowrank" else SPARSE_PARTS[0]
        raise FormatError(f"tensor '{name}.{first}' is missing", code="names")
    if has_factors and not has_mask:
        raise FormatError(
            f"tensor '{name}.{FACTOR_PARTS[0]}' is there without the mask that it belongs to",
            code="names",
        )
    if has_mask:
        _check_masked(tensors, name, shape)
    if has_factors:
        _check_factors(tensors, name, FACTOR_PARTS, shape, manifest.rank)
    if is_low_rank:
        _check_factors(tensors, name, LOW_RANK_PARTS, shape, manifest.rank)


def _has_pair(tensors: _Tensors, name: str, parts: tuple[str, str]) -> bool:
    found = [f"{name}.{part}" in tensors for part in parts]
    if any(found) and not all(found):
        raise FormatError(
            f"tensor '{name}.{parts[found.index(False)]}' is missing: {parts[0]} and {parts[1]} "
            "come together",
            code="names",
        )
    return all(found)


def _check_masked(tensors: _Tensors, name: str, shape: tuple[int, int]) -> None:
    mask, values = tensors[f"{name}.mask"], tensors[f"{name}.values"]
    size = shape[0] * shape[1]
    _check_dtype(mask, ("U8",))
    _check_dtype(values, FLOATS)
    if mask.shape != (mask_bytes(size),):
        raise FormatError(
            f"{mask.name} is {list(mask.shape)}; a mask of {list(shape)} takes "
            f"[{mask_bytes(size)}]",
            code="shape",
        )
    if len(values.shape) != 1 or values.shape[0] > size:
        raise FormatError(
            f"{values.name} is {list(values.shape)}; one dimension of at most {size} is allowed",
            code="shape",
        )


def _check_factors(
    tensors: _Tensors,
    name: str,
    parts: tuple[str, str],
    shape: tuple[int, int],
    rank: int | None,
) -> None:
    first, second = tensors[f"{name}.{parts[0]}"], tensors[f"{name}.{parts[1]}"]
    _check_dtype(first, FLOATS)
    _check_dtype(second, FLOATS)
    if rank is None:
        raise FormatError("rank: is needed where there are factors", code="manifest")
    inner = first.shape[0]
    if (
        not 1 <= inner <= rank
        or first.shape != (inner, shape[1])
        or second.shape != (shape[0], inner)
    ):
        raise FormatError(
            f"{first.name} {list(first.shape)} and {second.name} {list(second.shape)} given; "
            f"[r, {shape[1]}] and [{shape[0]}, r] with r at most {rank} are allowed",
            code="shape",
        )


def _check_profile(tensors: _Tensors, manifest: Manifest) -> None:
    if manifest.profile is None:
        return
    for name, (dtype, shape) in profile_layout(manifest.profile).items():
        if name not in tensors:
            raise FormatError(
                f"tensor {name!r} is missing, which the manifest's profile needs", code="names"
            )
        _check_dtype(tensors[name], (dtype,))
        if tensors[name].shape != shape:
            raise FormatError(
                f"{name} is {list(tensors[name].shape)}; the manifest's profile says {list(shape)}",
                code="shape",
            )


def _check_dtype(info: TensorInfo, allowed: tuple[str, ...]) -> None:
    if info.dtype not in allowed:
        raise FormatError(
            f"{info.name} is {info.dtype}; allowed: {', '.join(allowed)}", code="dtype"
        )
