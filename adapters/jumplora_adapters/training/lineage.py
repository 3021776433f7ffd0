"""The ancestors that a training starts from: named by store specs, checked to be one chain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jumplora_adapters.backbone import Backbone
from jumplora_adapters.errors import DataError
from jumplora_adapters.format import Adapter, read_adapter
from jumplora_adapters.store import Store


def read_ancestors(
    specs: Sequence[str], store: Path | None, backbone: Backbone
) -> tuple[Adapter, ...]:
    """The chain that `specs` ("task" or "task@digest", oldest first) stand for, oldest first.

    An adapter's own ancestors come before it and need not be named. Raises UnknownTask,
    UnknownVersion, FormatError, and DataError where an adapter was trained on another chain than
    the one that would stand before it.
    """
    if not specs:
        return ()
    if store is None:
        raise DataError("ancestors are looked up in a store: give its folder too")
    shelf = Store(store)
    digests: list[str] = []
    for spec in specs:
        _, digest = shelf.resolve(spec)
        wanted = list(shelf.manifest(digest).lineage)
        if digest in digests:
            raise DataError(f"{spec} is in the chain already: name each ancestor once")
        if wanted[: len(digests)] != digests:
            raise DataError(
                f"{spec} was trained on another chain than the ancestors named before it: "
                f"{_short(wanted)} against {_short(digests)}"
            )
        digests = [*wanted, digest]
    return tuple(
        read_adapter(shelf.path_of(digest), backbone, expect_digest=digest, follow_links=False)
        for digest in digests
    )


def _short(digests: Sequence[str]) -> str:
    return ", ".join(digest[:12] for digest in digests) or "the bare backbone"
