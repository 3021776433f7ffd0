"""Normalisation tables that are broken."""

from __future__ import annotations

import struct

import pytest
from tokenizers import normalizers

from jumplora_adapters.convert.charsmap import entries
from jumplora_adapters.errors import ConvertError

LEAF = 1 << 8
A = 256 ^ ord("a")


def _table(units: dict[int, int], replacements: bytes = b"x\0", length: int = 1024) -> bytes:
    values = (units.get(n, 0) for n in range(length))
    return struct.pack(f"<I{length}I", 4 * length, *values) + replacements


def _unit(label: int, offset: int, flags: int = 0) -> int:
    return label | offset << 10 | flags


def _one(letter: int = ord("a"), value: int = 0) -> dict[int, int]:
    """One entry. The root's children are at 256 ^ byte, the entry's own at 512 ^ byte."""
    node = 256 ^ letter
    return {0: _unit(0, 256), node: _unit(letter, node ^ 512, LEAF), 512: value | 1 << 31}


def test_a_table_s_entries_are_found() -> None:
    b = 512 ^ ord("b")
    table = _table({**_one(), b: _unit(ord("b"), b ^ 768, LEAF)}, "é\0".encode())
    assert sorted(entries(table)) == ["a", "ab"]
    normalizer = normalizers.Precompiled(table)
    assert normalizer.normalize_str("b a") == "b é"


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
        pytest.param(_table(_one(0xFF)), "not UTF-8", id="no letter"),
        pytest.param(_table(_one(), b"\xff\0"), "replacements are not", id="no letter instead"),
        pytest.param(_table(_one(value=2)), "no replacement at 2", id="a replacement behind"),
        pytest.param(
            _table(_one(value=1), "é\0".encode()), "no replacement at 1", id="half a letter"
        ),
        pytest.param(_table({0: _unit(0, 1024)}), "points to 1024", id="a root behind the end"),
        pytest.param(
            _table({**_one(), A: _unit(ord("a"), 1 << 20, LEAF)}), "points to", id="a node behind"
        ),
        pytest.param(_table({}, length=100), "points to 0", id="fewer places than bytes"),
        pytest.param(b"\x04", "has 0", id="shorter than its size"),
        pytest.param(struct.pack("<I", 0), "a size of 0", id="empty"),
        pytest.param(struct.pack("<II", 4096, 0), "4096 bytes and has 4", id="cut"),
        pytest.param(struct.pack("<III", 5, 0, 0), "a size of 5", id="no whole units"),
    ],
)
def test_a_broken_table_is_refused(charsmap: bytes, why: str) -> None:
    with pytest.raises(ConvertError, match=rf"precompiled_charsmap.*{why}"):
        entries(charsmap)
