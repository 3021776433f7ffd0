"""Which tensors a file must have for its manifest, and of what type and shape.

Works on names and numbers from the header alone, so that it runs before a tensor is made.
"""

from __future__ import annotations

from collections.abc import Mapping

from jumplora_adapters.delta import mask_bytes
from jumplora_adapters.errors import FormatError
from jumplora_adapters.header import Header, TensorInfo
from jumplora_adapters.manifest import Manifest

FLOATS = ("F32", "F16", "BF16")
PARTS: Mapping[str, tuple[str, str]] = {"masked": ("mask", "values"), "lowrank": ("A", "B")}
FACTOR_PARTS = ("factor_A", "factor_B")


def check_layout(header: Header, manifest: Manifest, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raise FormatError (names, dtype, shape) unless the tensors are the manifest's.

    `shapes` maps the modules that may be targets to (d_out, d_in).
    """
    for name in manifest.targets:
        if name not in shapes:
            raise FormatError(
                f"target {name!r} is not a q or v projection of the backbone", code="names"
            )
    tensors = {info.name: info for info in header.tensors}
    _check_names(tensors, manifest)
    for name in manifest.targets:
        if manifest.kind == "masked":
            _check_masked(tensors, name, shapes[name])
            if f"{name}.factor_A" in tensors:
                _check_factors(tensors, name, FACTOR_PARTS, shapes[name], manifest.rank)
        else:
            _check_factors(tensors, name, PARTS["lowrank"], shapes[name], manifest.rank)


def _check_names(tensors: Mapping[str, TensorInfo], manifest: Manifest) -> None:
    needed = {f"{name}.{part}" for name in manifest.targets for part in PARTS[manifest.kind]}
    if missing := needed - tensors.keys():
        raise FormatError(f"tensor {min(missing)!r} is missing", code="names")
    allowed = set(needed)
    if manifest.kind == "masked":
        for name in manifest.targets:
            pair = {f"{name}.{part}" for part in FACTOR_PARTS}
            if pair <= tensors.keys():
                allowed |= pair
    if foreign := tensors.keys() - allowed:
        raise FormatError(
            f"tensor {min(foreign)[:80]!r} belongs to no target of the manifest (factors come in "
            "pairs, with kind masked only)",
            code="names",
        )


def _check_masked(tensors: Mapping[str, TensorInfo], name: str, shape: tuple[int, int]) -> None:
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
    tensors: Mapping[str, TensorInfo],
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
        or second.shape
        != (
            shape[0],
            inner,
        )
    ):
        raise FormatError(
            f"{first.name} {list(first.shape)} and {second.name} {list(second.shape)} given; "
            f"[r, {shape[1]}] and [{shape[0]}, r] with r at most {rank} are allowed",
            code="shape",
        )


def _check_dtype(info: TensorInfo, allowed: tuple[str, ...]) -> None:
    if info.dtype not in allowed:
        raise FormatError(
            f"{info.name} is {info.dtype}; allowed: {', '.join(allowed)}", code="dtype"
        )
