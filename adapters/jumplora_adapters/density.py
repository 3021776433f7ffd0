"""The density of a whole update, of those of its modules."""

from __future__ import annotations

from collections.abc import Mapping

from jumplora_adapters.architecture import architecture_of
from jumplora_adapters.delta import Delta
from jumplora_adapters.errors import BackboneError
from jumplora_adapters.manifest import Manifest
from jumplora_adapters.network import sites


def pooled_density(deltas: Mapping[str, Delta]) -> float:
    """Share of kept entries over all modules, 0 of none: a large module counts for more."""
    if not deltas:
        return 0.0
    return _pooled(
        {name: delta.density for name, delta in deltas.items()},
        {name: delta.shape for name, delta in deltas.items()},
    )


def density_of(manifest: Manifest) -> float | None:
    """Of all modules together, None where the manifest has no density.

    Shapes are those of the architecture that it names. Where that is none of ours, all modules
    count alike.
    """
    density = manifest.density
    if not density:
        return None
    fields = manifest.backbone.architecture
    scales = fields.get("scales_decoder_outputs", False)
    try:
        known = sites(architecture_of({**fields, "scale_decoder_outputs": scales}))
        return _pooled(density, {name: known[name].shape for name in density})
    except (BackboneError, KeyError):
        return sum(density.values()) / len(density)


def _pooled(density: Mapping[str, float], shapes: Mapping[str, tuple[int, int]]) -> float:
    sizes = {name: shapes[name][0] * shapes[name][1] for name in density}
    return sum(share * sizes[name] for name, share in density.items()) / sum(sizes.values())
