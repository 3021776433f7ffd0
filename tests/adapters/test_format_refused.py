"""Adapter files that are bad in every way there is, each with the code of FORMAT.md."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crafted import Parts, empty_tensors, frame, set_value, sound_adapter, with_tensors
from factories import random_adapter, random_profile, toy_backbone, write_random_adapter
from jumplora_adapters.errors import FingerprintMismatch, FormatError
from jumplora_adapters.format import read_adapter, write_adapter
from jumplora_adapters.header import read_manifest

BACKBONE = toy_backbone()
Q, V = BACKBONE.targets
OUT = next(name for name in BACKBONE.sites if name.endswith(".o"))
Craft = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a sound masked adapter in bfloat16, with factors for q."""
    return sound_adapter(tmp_path_factory.mktemp("good"), BACKBONE)


@pytest.fixture(scope="module")
def low_rank(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a sound low-rank adapter."""
    folder = tmp_path_factory.mktemp("low_rank")
    return write_random_adapter(folder, BACKBONE, kind="lowrank", rank=2).read_bytes()


def _header(change: Callable[[Parts], object]) -> Craft:
    def craft(content: bytes) -> bytes:
        parts = Parts.of(content)
        change(parts)
        return parts.join()

    return craft


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Craft:
    return lambda content: with_tensors(content, change)


def _manifest(**fields: object) -> Craft:
    def change(parts: Parts) -> None:
        parts.manifest = {**parts.manifest, **fields}

    return _header(change)


def _entry(name: str, **fields: object) -> Craft:
    return _header(lambda parts: parts.header[name].update(fields))


def _rename(old: str, new: str) -> Craft:
    return _header(lambda parts: parts.header.update({new: parts.header.pop(old)}))


def _shift_last(by: int) -> Craft:
    """Move the last tensor, so that it overlaps the one before or leaves a hole."""

    def change(parts: Parts) -> None:
        last = max(parts.tensor_names, key=lambda name: parts.header[name]["data_offsets"])
        begin, end = parts.header[last]["data_offsets"]
        parts.header[last]["data_offsets"] = [begin + by, end + by]
        parts.data = parts.data + bytes(by) if by > 0 else parts.data[:by]

    return _header(change)


def _second_key(content: bytes) -> bytes:
    parts = Parts.of(content)
    text = json.dumps(parts.header)
    entry = json.dumps({f"{Q}.mask": parts.header[f"{Q}.mask"]})[1:-1]
    return frame(f"{text[:-1]}, {entry}}}", parts.data)


BAD: list[tuple[str, str, Craft]] = [
    ("empty file", "file_size", lambda content: b""),
    ("nine bytes", "file_size", lambda content: content[:9]),
    ("larger than allowed", "file_size", lambda content: content + bytes(1 << 20)),
    ("cut in the data", "file_size", lambda content: content[:-1]),
    ("cut in the header", "header", lambda content: content[:100]),
    ("trailing byte", "file_size", lambda content: content + b"\0"),
    ("header of 2^63", "header", lambda content: frame("{}", b"", length=1 << 63)),
    ("header of 200 MB", "header", lambda content: frame("{}", b"", length=200_000_000)),
    ("header longer than the file", "header", lambda content: frame("{}", b"", length=999)),
    ("header one short", "header", lambda content: frame("{}", b"\0\0\0", length=1)),
    ("header no JSON", "header", lambda content: frame("{not json}", b"")),
    ("header an array", "header", lambda content: frame("[[1, 2]]", b"")),
    ("header not UTF-8", "header", lambda content: b"\4" + bytes(7) + b'{"\xff"' + b"}"),
    ("header nested deeply", "header", lambda content: frame('{"a":' + "[" * 200_000, b"")),
    ("500,000 tensors", "header", lambda content: frame(empty_tensors(500_000), b"")),
    ("4,097 tensors", "tensor_count", _header(
        lambda parts: parts.header.update(json.loads(empty_tensors(4097))))),
    ("key twice", "duplicate_key", _second_key),
    ("no metadata", "manifest", _header(lambda parts: parts.header.pop("__metadata__"))),
    ("metadata of two keys", "manifest", _header(
        lambda parts: parts.header["__metadata__"].update(format="pt"))),
    ("metadata a number", "manifest", _header(
        lambda parts: parts.header.update(__metadata__={"jumplora": 1}))),
    ("metadata a list", "manifest", _header(lambda parts: parts.header.update(__metadata__=[]))),
    ("manifest over 256 KiB", "manifest", _manifest(training={"x": "x" * 262_144})),
    ("metadata of 90 MB", "header", _manifest(training={"x": "x" * 90_000_000})),
    ("manifest cut", "manifest", _header(
        lambda parts: parts.header["__metadata__"].update(jumplora='{"task":'))),
    ("manifest key twice", "duplicate_key", _header(
        lambda parts: parts.header["__metadata__"].update(jumplora='{"a":1,"a":1}'))),
    ("newer format", "manifest", _manifest(format_version=3)),
    ("format 2 as a fraction", "manifest", _manifest(format_version=2.0)),
    ("format true", "manifest", _manifest(format_version=True)),
    ("unknown manifest field", "manifest", _manifest(routes={})),
    ("unknown section of tensors", "names", _tensors(
        lambda tensors: tensors.update({"routes.sum": torch.ones(2)}))),
    ("profile tensor without a section", "names", _tensors(
        lambda tensors: tensors.update({"profile.sum": torch.ones(2)}))),
    ("values of I32", "dtype", _tensors(
        lambda tensors: tensors.update({f"{Q}.values": torch.ones(2, dtype=torch.int32)}))),
    ("mask of I32", "dtype", _tensors(
        lambda tensors: tensors.update({f"{Q}.mask": torch.ones(2, dtype=torch.int32)}))),
    ("factor of I32", "dtype", _tensors(
        lambda tensors: tensors.update({f"{Q}.factor_A": torch.ones(2, 5, dtype=torch.int32)}))),
    ("low-rank part with kind masked", "names", _tensors(lambda tensors: tensors.update(
        {f"{Q}.A": torch.ones(1, 5), f"{Q}.B": torch.ones(3, 1)}))),
    ("task a path", "manifest", _manifest(task="../../etc/passwd")),
    ("another backbone", "fingerprint", _manifest(
        backbone={"fingerprint": "cd" * 32, "name": "other", "architecture": {}})),
    ("foreign target", "names", _manifest(
        targets=[Q, "encoder.block.9.q"], density={Q: 0.5, "encoder.block.9.q": 0.5})),
    ("target left out", "names", _manifest(targets=[Q], density={Q: 0.5})),
    ("foreign tensor", "names", _rename(f"{Q}.mask", "encoder.block.9.q.mask")),
    ("tensor named as a path", "names", _rename(f"{Q}.mask", "../../etc/passwd")),
    ("factor without its pair", "names", _tensors(lambda tensors: tensors.pop(f"{Q}.factor_A"))),
    ("low-rank tensors in a masked file", "names", _rename(f"{Q}.factor_A", f"{Q}.A")),
    ("kind changed", "manifest", _manifest(kind="lowrank")),
    ("type F64", "dtype", _entry(f"{Q}.values", dtype="F64")),
    ("type unknown", "dtype", _entry(f"{Q}.values", dtype="PICKLE")),
    ("type no text", "dtype", _entry(f"{Q}.values", dtype=["F32"])),
    ("mask of floats", "dtype", _tensors(
        lambda tensors: tensors.update({f"{Q}.mask": torch.ones(2)}))),
    ("values of bytes", "dtype", _tensors(
        lambda tensors: tensors.update({f"{Q}.values": torch.ones(2, dtype=torch.uint8)}))),
    ("entry with more", "header", _entry(f"{Q}.mask", extra=1)),
    ("entry no object", "header", _header(lambda parts: parts.header.update({f"{Q}.mask": 1}))),
    ("negative offset", "shape", _entry(f"{Q}.mask", data_offsets=[-2, 0])),
    ("offsets backwards", "shape", _entry(f"{Q}.mask", data_offsets=[2, 0])),
    ("offset no whole number", "shape", _entry(f"{Q}.mask", data_offsets=[0.0, 2.0])),
    ("three offsets", "shape", _entry(f"{Q}.mask", data_offsets=[0, 1, 2])),
    ("shape true", "shape", _entry(f"{Q}.mask", shape=[True])),
    ("shape of three dimensions", "shape", _entry(f"{Q}.mask", shape=[2, 1, 1])),
    ("shape huge", "shape", _entry(f"{Q}.mask", shape=[1 << 63])),
    ("shape that overflows to its size", "shape", _entry(f"{Q}.mask", shape=[1 << 40, 1 << 40])),
    ("shape other than its size", "shape", _entry(f"{Q}.mask", shape=[3])),
    ("overlap", "shape", _shift_last(-1)),
    ("hole", "shape", _shift_last(1)),
    ("mask too short", "shape", _tensors(
        lambda tensors: tensors.update({f"{Q}.mask": tensors[f"{Q}.mask"][:1].clone()}))),
    ("more values than entries", "shape", _tensors(
        lambda tensors: tensors.update({f"{Q}.values": torch.ones(16)}))),
    ("values in two dimensions", "shape", _tensors(
        lambda tensors: tensors.update({f"{Q}.values": torch.ones(2, 2)}))),
    ("factor of another width", "shape", _tensors(
        lambda tensors: tensors.update({f"{Q}.factor_A": torch.ones(2, 4)}))),
    ("factor of more than the rank", "shape", _manifest(rank=1)),
    ("factors without a rank", "manifest", _manifest(rank=None)),
    ("one value too few", "popcount", _tensors(
        lambda tensors: tensors.update({f"{Q}.values": tensors[f"{Q}.values"][1:].clone()}))),
    ("one mask bit more", "popcount", _tensors(set_value(f"{Q}.mask", [0], 0xFF))),
    ("padding bit set", "popcount", _tensors(
        lambda tensors: tensors[f"{Q}.mask"].__ior__(0x80))),
    ("stored zero", "popcount", _tensors(set_value(f"{Q}.values", [0], 0.0))),
    ("NaN", "nonfinite", _tensors(set_value(f"{V}.values", [0], float("nan")))),
    ("infinity", "nonfinite", _tensors(set_value(f"{V}.values", [0], float("-inf")))),
    ("NaN factor", "nonfinite", _tensors(set_value(f"{Q}.factor_B", [0, 0], float("nan")))),
    ("wrong mask digest", "manifest", _manifest(mask_digest="0" * 64)),
    ("no mask digest", "manifest", _manifest(mask_digest=None)),
    ("wrong density", "manifest", _manifest(density={Q: 0.5, V: 0.001})),
    ("no density", "manifest", _manifest(density={})),
]  # fmt: skip


@pytest.mark.parametrize(("code", "craft"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_bad_files_are_refused(good: bytes, tmp_path: Path, code: str, craft: Craft) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(craft(good))
    with pytest.raises(FormatError) as caught:
        read_adapter(path, BACKBONE, max_file_bytes=1 << 20 if code == "file_size" else 1 << 29)
    assert caught.value.code == code
    assert len(str(caught.value)) < 1000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a sound combined adapter with a profile: q has all, v a mask, o factors."""
    path = tmp_path_factory.mktemp("whole") / "a"
    manifest, deltas = random_adapter(
        BACKBONE, kind="combined", rank=2, density=0.5, targets=tuple(BACKBONE.sites)
    )
    spec, profile = random_profile()
    manifest = manifest.model_copy(update={"profile": spec})
    write_adapter(path, manifest, deltas, {Q: (torch.ones(2, 5), torch.ones(3, 2))}, profile)
    return path.read_bytes()


def _profile(**fields: object) -> Craft:
    def change(parts: Parts) -> None:
        manifest = parts.manifest
        manifest["profile"] = {**manifest["profile"], **fields}
        parts.manifest = manifest

    return _header(change)


def _put(name: str, tensor: torch.Tensor) -> Craft:
    return _tensors(lambda tensors: tensors.update({name: tensor}))


def _drop(*names: str) -> Craft:
    return _tensors(lambda tensors: [tensors.pop(name) for name in names])


def _ints(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


BAD_WHOLE: list[tuple[str, str, str, Craft]] = [
    ("version 1", "manifest", "kind combined and profile", _manifest(format_version=1)),
    ("no version, so version 1", "manifest", "format_version 1", _header(
        lambda parts: setattr(
            parts, "manifest",
            {k: v for k, v in parts.manifest.items() if k != "format_version"}))),
    ("version 1 with a profile", "manifest", "profile", _manifest(
        format_version=1, kind="masked")),
    ("version 1 with the field of a profile", "manifest", "profile", _manifest(
        format_version=1, kind="masked", profile=None)),
    ("kind masked", "names", "kind masked", _manifest(kind="masked")),
    ("kind lowrank", "manifest", "mask_digest", _manifest(kind="lowrank")),
    ("kind lowrank without a digest", "names", "kind lowrank", _manifest(
        kind="lowrank", mask_digest=None)),
    ("unknown kind", "manifest", "kind", _manifest(kind="dense")),
    ("target that is no site", "names", "not a linear layer", _manifest(
        targets=[Q, V, OUT, "encoder.block.0.layer_norm"],
        density={Q: 1.0, V: 0.5, OUT: 1.0, "encoder.block.0.layer_norm": 1.0})),
    ("a module without any part", "names", f"{OUT}.mask", _drop(f"{OUT}.A", f"{OUT}.B")),
    ("half a mask", "names", f"{V}.values", _drop(f"{V}.values")),
    ("the other half", "names", f"{V}.mask", _drop(f"{V}.mask")),
    ("half a low-rank part", "names", f"{OUT}.B", _drop(f"{OUT}.B")),
    ("half the factors", "names", f"{Q}.factor_B", _drop(f"{Q}.factor_B")),
    ("factors without a mask", "names", "without the mask", _drop(f"{Q}.mask", f"{Q}.values")),
    ("no mask digest", "manifest", "mask_digest", _manifest(mask_digest=None)),
    ("density of a mask where both are", "manifest", "density", _manifest(
        density={Q: 0.5, V: 0.5, OUT: 1.0})),
    ("low-rank part of another shape", "shape", f"{Q}.A", _put(f"{Q}.A", torch.ones(2, 3))),
    ("no rank", "manifest", "rank", _manifest(rank=None)),
    ("NaN in a low-rank part", "nonfinite", Q, _tensors(
        set_value(f"{Q}.B", [0, 0], float("nan")))),
    ("NaN in a mask's values beside it", "nonfinite", Q, _tensors(
        set_value(f"{Q}.values", [0], float("nan")))),
    ("section without a tensor", "names", "profile.gram", _drop("profile.gram")),
    ("tensors without a section", "names", "no profile", _manifest(profile=None)),
    ("unknown profile tensor", "names", "profile.more", _put("profile.more", torch.ones(1))),
    ("unknown profile field", "manifest", "profile.more", _profile(more=1)),
    ("profile field missing", "manifest", "profile", _manifest(profile={"width": 3})),
    ("profile a list", "manifest", "profile", _manifest(profile=[])),
    ("width of 0", "manifest", "width", _profile(width=0)),
    ("width over the bound", "manifest", "width", _profile(width=8193)),
    ("width true", "manifest", "width", _profile(width=True)),
    ("width of other tensors", "shape", "profile.sum", _profile(width=4)),
    ("no texts", "manifest", "texts", _profile(texts=0)),
    ("fewer tokens than said", "shape", "profile.ids", _profile(tokens=5)),
    ("tokens over the bound", "manifest", "tokens", _profile(tokens=(1 << 24) + 1)),
    ("more dev texts than said", "shape", "profile.dev", _profile(dev_texts=1)),
    ("dev texts over the bound", "manifest", "dev_texts", _profile(dev_texts=257)),
    ("dev length over the bound", "manifest", "dev_length", _profile(dev_length=513)),
    ("other dev length", "shape", "profile.dev_ids", _profile(dev_length=4)),
    ("embedding no digest", "manifest", "embedding", _profile(embedding="x")),
    ("group no task id", "manifest", "group", _profile(group="../x")),
    ("features no name", "manifest", "features", _profile(features="a b")),
    ("whole gram matrix", "shape", "profile.gram", _put("profile.gram", torch.ones(3, 3))),
    ("sum of I32", "dtype", "profile.sum", _put("profile.sum", _ints(1, 2, 3))),
    ("sum in 16 bits", "dtype", "profile.sum", _put("profile.sum", torch.ones(3).half())),
    ("ids of F32", "dtype", "profile.ids", _put("profile.ids", torch.ones(4))),
    ("counts of U8", "dtype", "profile.counts", _put(
        "profile.counts", torch.ones(4, dtype=torch.uint8))),
    *(("NaN in " + name, "nonfinite", f"profile.{name}", _tensors(
        set_value(f"profile.{name}", index, float("nan"))))
      for name, index in (("sum", [1]), ("gram", [5]), ("dev", [1, 2]))),
    ("infinity in a sum", "nonfinite", "profile.sum", _tensors(
        set_value("profile.sum", [0], float("inf")))),
    ("negative square", "profile", "profile.gram", _tensors(set_value("profile.gram", [2], -1.0))),
    ("ids twice", "profile", "profile.ids", _put("profile.ids", _ints(0, 2, 2, 6))),
    ("ids that fall", "profile", "profile.ids", _put("profile.ids", _ints(0, 4, 2, 6))),
    ("negative id", "profile", "profile.ids", _put("profile.ids", _ints(-1, 2, 4, 6))),
    ("id behind the vocabulary", "profile", "at most 32127", _put(
        "profile.ids", _ints(0, 2, 4, 32128))),
    ("count of 0", "profile", "profile.counts", _put("profile.counts", _ints(1, 1, 0, 1))),
    ("dev id below -1", "profile", "profile.dev_ids", _tensors(
        set_value("profile.dev_ids", [0, 0], -2))),
    ("dev id behind the end of its text", "profile", "behind a -1", _tensors(
        set_value("profile.dev_ids", [0, 1], 7))),
    ("dev id behind the vocabulary", "profile", "at most 32127", _tensors(
        set_value("profile.dev_ids", [0, 0], 32128))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "named", "craft"), [bad[1:] for bad in BAD_WHOLE], ids=[bad[0] for bad in BAD_WHOLE]
)
def test_bad_files_of_version_2_are_refused(
    whole: bytes, tmp_path: Path, code: str, named: str, craft: Craft
) -> None:
    path = tmp_path / "bad"
    path.write_bytes(whole)
    assert read_adapter(path, BACKBONE).profile is not None
    path.write_bytes(craft(whole))
    with pytest.raises(FormatError, match=re.escape(named)) as caught:
        read_adapter(path, BACKBONE)
    assert caught.value.code == code
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("craft", "message"),
    [
        (_manifest(routes={}), "routes: this program does not know it: a newer version may"),
        (_manifest(format_version=3), "version 3 given; this program reads 1 to 2: a newer one"),
        (_put("routes.sum", torch.ones(2)), "'routes.sum' belongs to .* a newer version may"),
        (_profile(more=1), "profile.more: this program does not know it: a newer version may"),
    ],
    ids=["field", "version", "tensor", "field of a section"],
)
def test_what_a_newer_version_may_know_is_named(
    whole: bytes, tmp_path: Path, craft: Craft, message: str
) -> None:
    (tmp_path / "bad").write_bytes(craft(whole))
    with pytest.raises(FormatError, match=message):
        read_adapter(tmp_path / "bad", BACKBONE)


def _as_version_1(content: bytes) -> bytes:
    parts = Parts.of(content)
    parts.manifest = {
        name: 1 if name == "format_version" else value
        for name, value in parts.manifest.items()
        if name != "profile"
    }
    return parts.join()


def test_what_version_1_has_may_be_of_version_1(good: bytes, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(_as_version_1(good))
    adapter = read_adapter(tmp_path / "old", BACKBONE)
    assert (adapter.manifest.format_version, list(adapter.factors)) == (1, [Q])


def test_version_1_has_no_other_targets_than_q_and_v(tmp_path: Path) -> None:
    path = write_random_adapter(tmp_path, BACKBONE, targets=(OUT,), density=0.5)
    path.write_bytes(_as_version_1(path.read_bytes()))
    with pytest.raises(FormatError, match=f"'{OUT}' is not a q or v projection") as caught:
        read_adapter(path, BACKBONE)
    assert caught.value.code == "names"


@pytest.mark.parametrize("craft", [bad[2] for bad in BAD if bad[0] == "another backbone"])
def test_another_backbone_has_an_error_of_its_own(
    good: bytes, tmp_path: Path, craft: Craft
) -> None:
    (tmp_path / "bad").write_bytes(craft(good))
    with pytest.raises(FingerprintMismatch, match="cdcdcdcdcdcd"):
        read_adapter(tmp_path / "bad", BACKBONE)


@pytest.mark.parametrize(
    ("name", "tensor", "code"),
    [
        ("A", torch.ones(2, 4), "shape"),
        ("A", torch.ones(3, 5), "shape"),
        ("B", torch.ones(2, 2), "shape"),
        ("A", torch.ones(10), "shape"),
        ("A", torch.full((2, 5), float("nan")), "nonfinite"),
        ("A", torch.ones(2, 5, dtype=torch.uint8), "dtype"),
        ("mask", torch.ones(2, dtype=torch.uint8), "names"),
        ("factor_A", torch.ones(2, 5), "names"),
    ],
    ids=["width", "rank", "height", "one dimension", "NaN", "bytes", "mask", "factor"],
)
def test_bad_low_rank_files_are_refused(
    low_rank: bytes, tmp_path: Path, name: str, tensor: torch.Tensor, code: str
) -> None:
    path = tmp_path / "bad"
    path.write_bytes(
        with_tensors(low_rank, lambda tensors: tensors.update({f"{Q}.{name}": tensor}))
    )
    with pytest.raises(FormatError) as caught:
        read_adapter(path, BACKBONE)
    assert caught.value.code == code


def test_half_a_million_tensors_take_milliseconds_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "many"
    path.write_bytes(frame(empty_tensors(500_000), b""))
    started = time.thread_time()
    with pytest.raises(FormatError):
        read_manifest(path)
    assert time.thread_time() - started < 0.05


def test_the_expected_digest_is_checked(good: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(good)
    with pytest.raises(FormatError) as caught:
        read_adapter(tmp_path / "a", BACKBONE, expect_digest="0" * 64)
    assert caught.value.code == "digest"


@pytest.mark.parametrize("kind", ["masked", "combined"])
@given(data=st.data())
def test_flipped_bits_never_pass_for_the_version(
    good: bytes,
    whole: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    data: st.DataObject,
) -> None:
    content = good if kind == "masked" else whole
    digest = hashlib.sha256(content).hexdigest()
    changed = bytearray(content)
    bits = st.integers(0, len(content) * 8 - 1)
    for bit in data.draw(st.sets(bits, min_size=1, max_size=4)):
        changed[bit // 8] ^= 1 << (bit % 8)
    path = tmp_path_factory.getbasetemp() / f"flipped-{kind}"
    path.write_bytes(changed)
    with pytest.raises(FormatError):
        read_adapter(path, BACKBONE, expect_digest=digest)
    with suppress(FormatError):  # without the digest it may pass, but as another version
        assert read_adapter(path, BACKBONE).digest != digest


@given(content=st.binary(max_size=300), length=st.integers(0, 400))
def test_noise_is_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(length.to_bytes(8, "little") + content)
    with pytest.raises(FormatError):
        read_adapter(path, BACKBONE)


def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path: Path, good: bytes) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    link = tmp_path / "link.safetensors"
    (tmp_path / "good.safetensors").write_bytes(good)
    link.symlink_to(tmp_path / "good.safetensors")
    for path in (pipe, tmp_path):
        with pytest.raises(FormatError, match="not an ordinary file"):
            read_manifest(path)
        with pytest.raises(FormatError, match="not an ordinary file"):
            read_adapter(path, BACKBONE)
    read_adapter(link, BACKBONE)
    with pytest.raises(FormatError, match="is a link"):
        read_adapter(link, BACKBONE, follow_links=False)
    with pytest.raises(FormatError, match="is a link"):
        read_manifest(link, follow_links=False)
