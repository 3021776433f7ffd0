"""One adapter for what a lineage adds up to: the sum of its deltas, without ancestors.

Serving it needs nothing else in the store, at the price of a support that is the union of all.
"""

from __future__ import annotations

from pathlib import Path

import torch

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.convert.draft import Converted, Draft, Origin, write_converted
from jumplora_adapters.delta import Delta, SparseDelta, sum_deltas
from jumplora_adapters.errors import ConvertError, FormatError
from jumplora_adapters.format import Adapter, read_adapter
from jumplora_adapters.store import Store


def read_lineage(store: Store, spec: str, backbone: Backbone) -> tuple[Adapter, ...]:
    """The ancestors of a published version, oldest first, and itself at the end.

    `spec` is "task" or "task@digest". Raises UnknownTask, UnknownVersion, FormatError.
    """
    _, digest = store.resolve(spec)
    chain = (*store.manifest(digest).lineage, digest)
    return tuple(
        read_adapter(store.path_of(link), backbone, expect_digest=link, follow_links=False)
        for link in chain
    )


def sum_lineage(
    chain: tuple[Adapter, ...], backbone: Backbone, dtype: torch.dtype
) -> dict[str, SparseDelta]:
    """Module -> sum of the chain's deltas, oldest first, in float32, rounded to `dtype` once."""
    summed: dict[str, SparseDelta] = {}
    for name in backbone.sites:
        parts: list[Delta] = [link.deltas[name] for link in chain if name in link.deltas]
        if not parts:
            continue
        try:
            summed[name] = sum_deltas(parts, dtype)
        except FormatError as error:
            raise ConvertError(f"{name}: {error}") from error
    return summed


def flatten(
    store: Store,
    spec: str,
    backbone: Backbone,
    out: Path,
    *,
    created: str,
    task: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Converted:
    """Write the sum of the lineage of `spec` to the file `out`, as `task` or its own task.

    Prompt, generation defaults and scores stay; canaries only in float32, where the answers are
    the same but for the order of additions. Raises ConvertError and what reading raises.
    """
    chain = read_lineage(store, spec, backbone)
    last = chain[-1].manifest
    draft = Draft(
        task=last.task if task is None else task,
        created=created,
        prompt=last.prompt,
        generation=last.generation,
        scores=last.scores,
        canaries=last.canaries if dtype == torch.float32 else (),
    )
    origin = Origin(
        method="flatten",
        notes={
            "flattened": [link.digest for link in chain],
            "flattened_methods": [link.manifest.method for link in chain],
        },
    )
    return write_converted(out, draft, backbone, sum_lineage(chain, backbone, dtype), origin)
