"""Uploads whose bytes, header or tensors were spoilt. Each takes a sound file and may be random."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable

import torch
from torch import Tensor

from jumplora_bench.reliability.parts import Parts, empty_tensors, frame, with_tensors

Change = Callable[[bytes, random.Random], bytes]


def lying_length(content: bytes, rng: random.Random) -> bytes:
    """The header's length is another."""
    true = int.from_bytes(content[:8], "little")
    claimed = rng.choice(
        [
            0,
            1,
            true - 1,
            true + 1,
            true + rng.randrange(1, 500),
            len(content),
            2**31,
            2**63,
            2**64 - 1,
        ]
    )
    return claimed.to_bytes(8, "little") + content[8:]


def garbage_header(content: bytes, rng: random.Random) -> bytes:
    """Some bytes of the header are random."""
    spoilt = bytearray(content)
    length = int.from_bytes(content[:8], "little")
    for _ in range(rng.randrange(1, 20)):
        spoilt[8 + rng.randrange(length)] = rng.randrange(256)
    return bytes(spoilt)


def duplicate_key(content: bytes, rng: random.Random) -> bytes:
    """One key of the header stands there twice."""
    parts = Parts.of(content)
    text = json.dumps(parts.header)
    name = rng.choice([*parts.tensor_names, "__metadata__"])
    again = json.dumps({name: parts.header[name]})[1:-1]
    return frame(f"{text[:-1]}, {again}}}", parts.data)


def wrong_dtype(content: bytes, rng: random.Random) -> bytes:
    """One tensor claims another dtype."""
    return _entry(content, rng, "dtype", ["F64", "I8", "BOOL", "F8_E4M3", "U8", "F32", "", 3, None])


def wrong_shape(content: bytes, rng: random.Random) -> bytes:
    """One tensor claims another shape."""
    shapes = [
        [],
        [0],
        [1, 1],
        [2**40],
        [2**62, 8],
        [-1],
        [1.5],
        ["1"],
        [1] * 50,
        "x",
        [10**30],
        None,
    ]
    return _entry(content, rng, "shape", shapes)


def wrong_offsets(content: bytes, rng: random.Random) -> bytes:
    """One tensor claims another place."""
    places = [
        [0, 0],
        [5, 1],
        [-1, 5],
        [0, 2**63],
        [0, 10**40],
        [0.0, 1.0],
        [0],
        "x",
        [0, 7, 9],
        None,
    ]
    return _entry(content, rng, "data_offsets", places)


def mask_bits(content: bytes, rng: random.Random) -> bytes:
    """Some bits of a mask are turned."""
    name = rng.choice([n for n in Parts.of(content).tensor_names if n.endswith(".mask")])

    def turn(tensors: dict[str, Tensor]) -> None:
        for _ in range(rng.randrange(1, 5)):
            tensors[name][rng.randrange(tensors[name].numel())] ^= 1 << rng.randrange(8)

    return with_tensors(content, turn)


def truncated(content: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return content[: rng.randrange(len(content))]


def appended(content: bytes, rng: random.Random) -> bytes:
    """Something follows the end."""
    return content + rng.randbytes(rng.choice([1, 7, 4096]))


def flipped_bit(content: bytes, rng: random.Random) -> bytes:
    """One bit anywhere; within a value the file may well stay sound."""
    spoilt = bytearray(content)
    spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def many_tensors(content: bytes, rng: random.Random) -> bytes:
    """A header of very many tensors."""
    del content
    return frame(empty_tensors(rng.choice([2049, 5000, 60_000])), b"")


def deep_header(content: bytes, rng: random.Random) -> bytes:
    """A header of nested lists or objects."""
    depth = rng.choice([200, 5_000, 400_000])
    opened, closed = rng.choice([("[", "]"), ('{"a":', "}")])
    return frame(opened * depth + "1" + closed * depth, Parts.of(content).data)


def huge_number(content: bytes, rng: random.Random) -> bytes:
    """A number of thousands of digits in the header."""
    parts = Parts.of(content)
    number = rng.choice(["9" * 5000, "1e999", "1" + "0" * 100_000, "NaN", "Infinity"])
    text = json.dumps(parts.header).replace('"shape": [', f'"shape": [{number}, ', 1)
    return frame(text, parts.data)


def not_finite(content: bytes, rng: random.Random) -> bytes:
    """One value is NaN, infinite, zero or as large as its dtype allows."""
    value = rng.choice([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3e38])

    def spoil(tensors: dict[str, Tensor]) -> None:
        # Sorted: safetensors gives them in another order each time.
        name = rng.choice(sorted(n for n in tensors if n.endswith(".values")))
        tensors[name][rng.randrange(tensors[name].numel())] = value

    return with_tensors(content, spoil)


def enormous(content: bytes, rng: random.Random) -> bytes:
    """All values near the largest number: sound as a file, no sound output."""
    del rng

    def grow(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith(".values"):
                tensors[name] = torch.full_like(tensor, 1e38)

    return with_tensors(content, grow)


def other_names(content: bytes, rng: random.Random) -> bytes:
    """One tensor has another name, or is not there."""
    parts = Parts.of(content)
    name = rng.choice(parts.tensor_names)
    entry = parts.header.pop(name)
    new = rng.choice(["decoder.x.mask", "", "x" * 100_000, "\x00", "../../x", "\ud83d\ude00", None])
    if new is not None:
        parts.header[new] = entry
    return parts.join()


def another_kind(content: bytes, rng: random.Random) -> bytes:
    """No adapter at all."""
    return rng.choice(
        [
            b"", b"<html>" * 100, gzip.compress(content), b"PK\x03\x04" + content,
            b"\x80\x04cos\nsystem\n", rng.randbytes(1000), content[8:], b"{}", b"\x00" * 65536,
        ]
    )  # fmt: skip


def _entry(content: bytes, rng: random.Random, field: str, values: list[object]) -> bytes:
    parts = Parts.of(content)
    entry = parts.header[rng.choice(parts.tensor_names)]
    entry[field] = rng.choice([value for value in values if value != entry[field]])
    return parts.join()


BYTES: dict[str, Change] = {
    change.__name__.replace("_", " "): change
    for change in (
        lying_length, garbage_header, duplicate_key, wrong_dtype, wrong_shape, wrong_offsets,
        mask_bits, truncated, appended, flipped_bit, many_tensors, deep_header, huge_number,
        not_finite, enormous, other_names, another_kind,
    )
}  # fmt: skip
