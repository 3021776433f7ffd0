"""Crafted uploads: each is spoilt as its name says, differs from the sound file, and repeats."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crafted import sound_adapter
from factories import toy_backbone
from jumplora_adapters.backbone import Backbone
from jumplora_adapters.errors import AdapterError
from jumplora_adapters.format import read_adapter
from jumplora_bench.reliability.crafted_archives import ARCHIVES
from jumplora_bench.reliability.crafted_bytes import BYTES
from jumplora_bench.reliability.crafted_manifests import MANIFESTS
from jumplora_bench.reliability.parts import Parts, empty_tensors, frame, with_tensors
from jumplora_bench.reliability.uploads import _HEADERS

KINDS = BYTES | MANIFESTS | ARCHIVES
BACKBONE = toy_backbone()
MAY_BE_SOUND = {
    "flipped bit",  # of a value
    "garbage header",  # a blank for a blank
    "not finite",  # 3e38 is finite
    "enormous",
    "mask bits",
    "odd field",  # a record takes any object
    "odd generation",  # at its bounds
    "odd rank",
    "large record",
    "many canaries",
    "bomb",  # what it grows to is measured when it is published
    "missing field",  # one that has a default
    "wrong task",  # a sound name, of another task than the upload's
    "odd lineage",  # ancestors are looked up in the store
    "deep record",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return sound_adapter(tmp_path_factory.mktemp("sound"), BACKBONE)


def refusal(content: bytes, folder: Path, backbone: Backbone = BACKBONE) -> str | None:
    """The reader's code for a file; None where it is taken."""
    path = folder / "file.safetensors"
    path.write_bytes(content)
    try:
        read_adapter(path, backbone)
    except AdapterError as error:
        return error.code
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_a_crafted_file_is_another_one_and_repeats(kind: str, sound: bytes) -> None:
    for seed in range(8):
        made = KINDS[kind](sound, random.Random(seed))
        assert made == KINDS[kind](sound, random.Random(seed))
        if kind not in MAY_BE_SOUND:
            assert made != sound


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - MAY_BE_SOUND))
def test_a_file_that_cannot_be_sound_is_refused_by_the_reader(
    kind: str, sound: bytes, tmp_path: Path
) -> None:
    for seed in range(8):
        assert refusal(KINDS[kind](sound, random.Random(seed)), tmp_path), seed


@pytest.mark.parametrize("kind", sorted(MAY_BE_SOUND))
def test_any_other_file_is_read_or_refused_and_nothing_else(
    kind: str, sound: bytes, tmp_path: Path
) -> None:
    for seed in range(8):
        refusal(KINDS[kind](sound, random.Random(seed)), tmp_path)


def test_a_kind_that_may_be_sound_is_one() -> None:
    assert KINDS.keys() >= MAY_BE_SOUND


def test_header_kinds_spoil_the_request_and_not_the_file(sound: bytes) -> None:
    for name, change in _HEADERS.items():
        for seed in range(8):
            told = change(sound, random.Random(seed))
            assert told.startswith(b"HEADER "), name
            header, _, _ = told[7:].partition(b"\n")
            assert header.decode() in (
                "x-content-sha256", "content-digest", "content-encoding", "if-match",
            )  # fmt: skip
    assert not _HEADERS.keys() & KINDS.keys()


def test_a_file_is_put_together_as_it_was(sound: bytes, tmp_path: Path) -> None:
    parts = Parts.of(sound)
    again = Parts.of(parts.join())
    assert (again.header, again.data) == (parts.header, parts.data)
    assert refusal(parts.join(), tmp_path) is None
    assert parts.tensor_names
    assert "__metadata__" not in parts.tensor_names


def test_a_manifest_is_changed_by_assignment(sound: bytes) -> None:
    parts = Parts.of(sound)
    parts.manifest = {**parts.manifest, "task": "ä"}
    assert Parts.of(parts.join()).manifest["task"] == "ä"
    assert Parts.of(sound).manifest["task"] != "ä"


def test_tensors_are_changed_and_all_else_stays(sound: bytes) -> None:
    def grow(tensors: dict[str, Any]) -> None:
        for name in tensors:
            if name.endswith(".values"):
                tensors[name] = tensors[name] * 2

    made = with_tensors(sound, grow)
    before, after = Parts.of(sound), Parts.of(made)
    assert after.manifest == before.manifest
    assert after.tensor_names == before.tensor_names
    assert after.data != before.data
    assert len(made) == len(sound)
    assert with_tensors(sound, lambda tensors: None) == with_tensors(
        sound, lambda tensors: torch.zeros(1)
    )


@given(st.text(max_size=30), st.binary(max_size=30), st.none() | st.integers(0, 2**64 - 1))
def test_a_frame_claims_what_it_is_given(header: str, data: bytes, length: int | None) -> None:
    text = header.encode("utf-8", "replace") if header.isprintable() else b"x"
    framed = frame(text.decode(), data, length=length)
    claimed = int.from_bytes(framed[:8], "little")
    assert claimed == (len(text) if length is None else length)
    assert framed[8:] == text + data


@pytest.mark.parametrize("count", [0, 1, 2049])
def test_so_many_empty_tensors(count: int) -> None:
    header = json.loads(empty_tensors(count))
    assert len(header) == count
    assert all(entry["data_offsets"] == [0, 0] for entry in header.values())
