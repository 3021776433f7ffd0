"""Archives of PEFT folders: unpacked as the standard library reads them, or refused."""

from __future__ import annotations

import gzip
import io
import random
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from factories import toy_backbone
from jumplora_adapters.archives.entries import CONFIG_FILE, PICKLED_FILE, WEIGHTS_FILE
from jumplora_adapters.archives.pack import pack
from jumplora_adapters.archives.unpack import unpack
from jumplora_adapters.convert import peft_folder
from jumplora_adapters.errors import ArchiveError, ArchiveTooLarge, ConvertError, WrongFile
from jumplora_adapters.file_kind import HEAD_BYTES, kind_of
from packed import (
    CONFIG,
    HOSTILE,
    PACKERS,
    WEIGHTS,
    Files,
    in_folder,
    lora_files,
    tarred,
    write_folder,
    zipped,
)

LIMIT = 1_000_000
SOUND = lora_files(toy_backbone())
OTHERS = {"README.md": b"# LoRA", "training_args.bin": b"\x80\x02", "second/adapter_model.bin": b""}


def unpacked(content: bytes, place: Path, limit: int = LIMIT) -> Path:
    """Unpack an archive by its kind."""
    sent = place / "sent"
    sent.write_bytes(content)
    inside = place / "place"
    inside.mkdir()
    with sent.open("rb") as file:
        kind = kind_of(file.read(HEAD_BYTES))
        assert kind != "adapter"
        return unpack(file, kind, inside, limit)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_names_are_those_that_conversion_reads() -> None:
    assert (CONFIG_FILE, WEIGHTS_FILE, PICKLED_FILE) == (
        peft_folder.CONFIG_FILE, peft_folder.WEIGHTS_FILE, peft_folder.PICKLED_FILE,
    )  # fmt: skip


@pytest.mark.parametrize("pack_files", PACKERS.values(), ids=PACKERS.keys())
@pytest.mark.parametrize(
    ("files", "name"),
    [
        pytest.param(SOUND, "peft", id="at the root"),
        pytest.param(in_folder(SOUND), "my-lora", id="in a folder"),
        pytest.param(
            {f"./{name}": content for name, content in in_folder(SOUND).items()}, "my-lora",
            id="behind a dot",
        ),
        pytest.param({**OTHERS, **SOUND}, "peft", id="with other files"),
        pytest.param(
            in_folder({**SOUND, **OTHERS, f"old/{CONFIG}": b"{}"}), "my-lora", id="with another"
        ),
        pytest.param(
            {**in_folder(SOUND), f"__MACOSX/{CONFIG}": b"x", "my-lora/._x": b"x"}, "my-lora",
            id="by a Mac",
        ),
        pytest.param(in_folder(SOUND, "ä" * 90), "ä" * 90, id="a long name"),
        pytest.param(dict(reversed(list(SOUND.items()))), "peft", id="the weights first"),
    ],
)  # fmt: skip
def test_the_two_files_come_out_and_no_other(
    files: Files, name: str, pack_files: Callable[[Files], bytes], tmp_path: Path
) -> None:
    try:
        content = pack_files(files)
    except ValueError:
        pytest.skip("this format has no room for the name")
    folder = unpacked(content, tmp_path)
    assert folder.name == name
    assert contents(folder) == dict(SOUND)
    written = {path.name for path in (tmp_path / "place").rglob("*") if path.is_file()}
    assert written == {CONFIG, WEIGHTS}


def test_folders_by_name_are_read(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(write_folder(tmp_path / "lora", {**SOUND, "README.md": b""}), "lora")
    assert contents(unpacked(packed.getvalue(), tmp_path)) == dict(SOUND)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.mkdir("lora")
        archive.write(tmp_path / "lora" / CONFIG, f"lora/{CONFIG}")
        archive.write(tmp_path / "lora" / WEIGHTS, f"lora/{WEIGHTS}")
        archive.comment = b"PK is how a zip begins"
    (tmp_path / "zip").mkdir()
    assert contents(unpacked(packed.getvalue(), tmp_path / "zip")) == dict(SOUND)


@pytest.mark.parametrize("case", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_archive_is_refused(
    case: tuple[Callable[[Files], bytes], str], tmp_path: Path
) -> None:
    make, words = case
    with pytest.raises((ArchiveError, WrongFile)) as caught:
        unpacked(make(SOUND), tmp_path)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert {path.name for path in tmp_path.iterdir()} <= {"sent", "place"}


def test_limits_hold_for_what_comes_out(tmp_path: Path) -> None:
    size = len(SOUND[WEIGHTS])
    for number, pack_files in enumerate(PACKERS.values()):
        place = tmp_path / str(number)
        place.mkdir()
        with pytest.raises(ArchiveTooLarge, match=f"more than {size - 1} bytes"):
            unpacked(pack_files(SOUND), place, size - 1)


def test_a_packed_folder_is_unpacked_as_it_was(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "lora", {**SOUND, "README.md": b"x"})
    packed = [io.BytesIO(), io.BytesIO()]
    for out in packed:
        pack(folder, out)
    assert packed[0].getvalue() == packed[1].getvalue()
    with tarfile.open(fileobj=io.BytesIO(packed[0].getvalue())) as archive:
        assert archive.getnames() == [f"lora/{CONFIG}", f"lora/{WEIGHTS}"]
    assert contents(unpacked(packed[0].getvalue(), tmp_path)) == dict(SOUND)


def test_a_snapshot_is_packed_by_the_name_of_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--someone--their-lora" / "snapshots" / "0123abcd"
    out = io.BytesIO()
    pack(write_folder(folder, SOUND), out)
    assert unpacked(out.getvalue(), tmp_path).name == "their-lora"


@pytest.mark.parametrize(
    ("names", "words"),
    [((WEIGHTS,), f"no {CONFIG}"), ((CONFIG,), f"no {WEIGHTS}"),
     ((CONFIG, PICKLED_FILE), "safe_serialization=True")],
    ids=["no configuration", "no weights", "a pickle"],
)  # fmt: skip
def test_a_folder_that_lacks_a_file_is_not_packed(
    names: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "lora", dict.fromkeys(names, b"x"))
    with pytest.raises(ConvertError, match=words):
        pack(folder, io.BytesIO())


PARTS = st.sampled_from(["a", "b", "..", ".", "", CONFIG, WEIGHTS, "\\", "\x1b", "ä", "x" * 210])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join).filter(bool)


def as_the_library_reads(content: bytes) -> dict[str, bytes]:
    """Name -> content of an archive's files."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {i.filename: archive.read(i) for i in archive.infolist() if not i.is_dir()}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        return {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in members}


@given(
    files=st.dictionaries(NAMES, st.binary(max_size=600), min_size=1, max_size=6),
    has_folder=st.booleans(),
    packer=st.sampled_from([*PACKERS]),
)
def test_any_names_give_the_two_files_or_a_refusal(
    files: Mapping[str, bytes], has_folder: bool, packer: str
) -> None:
    files = {**files, **(in_folder(SOUND, "a") if has_folder else {})}
    assume(packer != "ustar" or max(map(len, files)) < 100)  # which it has no room for
    content = PACKERS[packer](files)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        try:
            folder = unpacked(content, place)
        except (ArchiveError, WrongFile):
            assert {path.name for path in place.iterdir()} <= {"sent", "place"}
            return
        found = contents(folder)
        library = as_the_library_reads(content)
        read = {re.sub(r"^(\./)+", "", key): value for key, value in library.items()}
        front = "" if folder.name == "peft" and CONFIG in read else f"{folder.name}/"
        assert found == {name: read[front + name] for name in (CONFIG, WEIGHTS)}


@given(packer=st.sampled_from([*PACKERS]), seed=st.integers(0, 2**32))
def test_damaged_bytes_give_a_refusal_or_two_files(packer: str, seed: int) -> None:
    rng = random.Random(seed)
    content = bytearray(PACKERS[packer](in_folder(SOUND)))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(content))
        match rng.randrange(3):
            case 0:
                content[at] = rng.randrange(256)
            case 1:
                del content[at : at + rng.randrange(1, 600)]
            case _:
                content[at:at] = rng.randbytes(rng.randrange(1, 600))
        content = content or bytearray(b"x")
    with tempfile.TemporaryDirectory() as name:
        sent, place = Path(name) / "sent", Path(name) / "place"
        sent.write_bytes(content)
        place.mkdir()
        try:
            kind = kind_of(bytes(content[:HEAD_BYTES]))
            if kind == "adapter":
                return
            with sent.open("rb") as file:
                folder = unpack(file, kind, place, LIMIT)
        except (ArchiveError, WrongFile):
            return
        assert set(contents(folder)) == {CONFIG, WEIGHTS}


def test_every_head_has_a_kind_or_a_command() -> None:
    assert kind_of(zipped(SOUND)) == "zip"
    assert kind_of(tarred(SOUND)[:HEAD_BYTES]) == "tar"
    assert kind_of(gzip.compress(b"")) == "gzip"
    assert kind_of(SOUND[WEIGHTS]) == kind_of(b"") == kind_of(b"<html>") == "adapter"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\x80\x02}q\x00.", "convert official"),
        (b"\x80\x05\x95", "convert official"),
        (b"\xfd7zXZ\0\0", "tar.gz"),
        (b"BZh91AY", "tar.gz"),
        (b"\x28\xb5\x2f\xfd\x04", "tar.gz"),
        (b"7z\xbc\xaf\x27\x1c", "tar.gz"),
        (b"Rar!\x1a\x07\x01\x00", "tar.gz"),
        (b"GGUF\x03", "--backbone"),
        (SOUND[CONFIG], "jumplora publish FOLDER"),
    ],
    ids=["pickle 2", "pickle 5", "xz", "bzip2", "zstd", "7z", "rar", "GGUF", "the configuration"],
)
def test_another_kind_of_file_names_what_takes_it(head: bytes, words: str) -> None:
    with pytest.raises(WrongFile, match=words):
        kind_of(head)
