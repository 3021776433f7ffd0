"""Normalisation tables that are broken."""

from __future__ import annotations

import struct

import pytest

from jumplora_adapters.convert.charsmap import entries
from jumplora_adapters.errors import ConvertError

LEAF = 1 << 8


def _table(units: dict[int, int], length: int = 1024) -> bytes:
    return struct.pack("<I", 4 * length) + struct.pack(
        f"<{length}I", *(units.get(n, 0) for n in range(length))
    )


def _unit(label: int, offset: int, flags: int = 0) -> int:
    return label | offset << 10 | flags


def test_a_table_s_entries_are_found() -> None:
    # The root's children are at 256 ^ label, those of "a" at 512 ^ label.
    a = 256 ^ ord("a")
    units = {
        0: _unit(0, 256),
        a: _unit(ord("a"), a ^ 512, LEAF),
        512 ^ ord("b"): _unit(ord("b"), 0, LEAF),
    }
    assert sorted(entries(_table(units))) == ["a", "ab"]


@pytest.mark.parametrize(
    ("charsmap", "why"),
    [
        pytest.param(
            _table({0: _unit(0, 0), 97: _unit(97, 97)}), "do not end", id="a node that is its child"
        ),
        pytest.param(
            _table({0: _unit(0, 0)} | {n: _unit(n, n) for n in range(1, 256)}),
            "do not end",
            id="255 nodes that are children of each other",
        ),
        pytest.param(
            _table({0: _unit(0, 0), 255: _unit(255, 1, LEAF)}), "not UTF-8", id="no letter"
        ),
        pytest.param(b"\x04", "has 0", id="shorter than its size"),
        pytest.param(struct.pack("<I", 0), "a size of 0", id="empty"),
        pytest.param(struct.pack("<II", 4096, 0), "4096 bytes and has 4", id="cut"),
    ],
)
def test_a_broken_table_is_refused(charsmap: bytes, why: str) -> None:
    with pytest.raises(ConvertError, match=rf"precompiled_charsmap.*{why}"):
        entries(charsmap)
