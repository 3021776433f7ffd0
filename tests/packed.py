"""PEFT folders of small backbones, and archives of them: sound ones and hostile ones."""

from __future__ import annotations

import gzip
import io
import json
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from jumplora_adapters.backbone import Backbone

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
Files = Mapping[str, bytes]


def lora_files(backbone: Backbone, *, seed: int = 0, rank: int = 2, **fields: object) -> Files:
    """What PEFT saves of a LoRA on q and v; `fields` are those of its configuration."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (d_out, d_in) in backbone.targets.items():
        front = f"base_model.model.{name}"
        tensors[f"{front}.lora_A.weight"] = torch.randn(rank, d_in, generator=generator)
        tensors[f"{front}.lora_B.weight"] = torch.randn(d_out, rank, generator=generator)
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": ["q", "v"],
        "base_model_name_or_path": backbone.name, "task_type": "SEQ_2_SEQ_LM", **fields,
    }  # fmt: skip
    return {CONFIG: json.dumps(config).encode(), WEIGHTS: save(tensors, {"format": "pt"})}


def write_folder(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def in_folder(files: Files, top: str = "my-lora") -> dict[str, bytes]:
    """The files in one folder."""
    return {f"{top}/{name}": content for name, content in files.items()}


def zipped(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(files: Files, form: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def tar_gz(files: Files) -> bytes:
    return gzip.compress(tarred(files))


PACKERS: dict[str, Callable[[Files], bytes]] = {
    "zip": zipped,
    "stored zip": lambda files: zipped(files, zipfile.ZIP_STORED),
    "ustar": lambda files: tarred(files, tarfile.USTAR_FORMAT),
    "GNU tar": lambda files: tarred(files, tarfile.GNU_FORMAT),
    "pax tar": tarred,
    "tar.gz": tar_gz,
}


def tar_entry(kind: bytes, name: str = "extra", link: str = "", content: bytes = b"") -> bytes:
    """A tar's header of any type, and its content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info.tobuf(tarfile.GNU_FORMAT) + content + b"\0" * (-len(content) % 512)


def without_end(files: Files) -> bytes:
    """A tar without the zeros that end it."""
    return b"".join(tar_entry(b"0", name, content=content) for name, content in files.items())


def pax_entry(**records: str) -> bytes:
    """A pax header with these records."""
    lines = []
    for key, value in records.items():
        text = f" {key.replace('__', '.')}={value}\n"
        length = len(text) + len(str(len(text) + 2))
        lines.append(f"{length}{text}")
    return tar_entry(b"x", "pax", content="".join(lines).encode())


def zip_with(files: Files, change: Callable[[zipfile.ZipInfo], object], name: str = "x") -> bytes:
    """A zip that also has an entry `name`, which is changed in the directory alone."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for each, content in files.items():
            archive.writestr(each, content)
        info = zipfile.ZipInfo(name)
        archive.writestr(info, b"content")
        change(info)
    return packed.getvalue()


def with_mode(mode: int) -> Callable[[zipfile.ZipInfo], object]:
    def change(info: zipfile.ZipInfo) -> None:
        info.external_attr = mode << 16

    return change


def flagged(info: zipfile.ZipInfo) -> None:
    info.flag_bits |= 1


def with_end(packed: bytes, **changes: int) -> bytes:
    """A zip whose end says other numbers than are true."""
    names = ("disk", "first_disk", "here", "entries", "size", "begin", "comment")
    at = packed.rindex(b"PK\x05\x06")
    fields = dict(zip(names, struct.unpack_from("<4H2LH", packed, at + 4), strict=True))
    changed = struct.pack("<4H2LH", *(fields | changes).values())
    return packed[: at + 4] + changed + packed[at + 4 + len(changed) :]


def lying_size(files: Files, size: int) -> bytes:
    """A zip whose directory gives the weights another size than comes out."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.getinfo(WEIGHTS).file_size = size
    return packed.getvalue()


def zip64(files: Files) -> bytes:
    """A small zip with the end of a zip64, as a stream's writer makes it."""
    packed = zipped(files)
    at = packed.rindex(b"PK\x05\x06")
    return packed[:at] + b"PK\x06\x07" + b"\0" * 16 + packed[at:]


def torch_file(value: object) -> bytes:
    saved = io.BytesIO()
    torch.save(value, saved)
    return saved.getvalue()


SYMLINK = stat.S_IFLNK | 0o777
DEVICE = stat.S_IFCHR | 0o600
ZEROS = b"\0" * 100_000

# Archives that must be refused: what is made of sound files, and words of the refusal.
HOSTILE: dict[str, tuple[Callable[[Files], bytes], str]] = {
    "tar: symbolic link": (
        lambda files: tar_entry(b"2", CONFIG, "/etc/passwd") + tarred(files),
        "`tar --dereference`",
    ),
    "tar: hard link": (
        lambda files: tar_entry(b"1", "a", "b") + tarred(files), "`tar --hard-dereference`",
    ),
    "tar: device": (lambda files: tar_entry(b"3", "zero") + tarred(files), "a device"),
    "tar: pipe": (lambda files: tar_entry(b"6", "pipe") + tarred(files), "a pipe"),
    "tar: sparse file": (lambda files: tar_entry(b"S", "holes") + tarred(files), "sparse"),
    "tar: unknown type": (lambda files: tar_entry(b"V", "label") + tarred(files), "not known"),
    "tar: absolute path": (lambda files: tarred({**files, "/etc/cron.d/x": b"x"}), "absolute"),
    "tar: out of the archive": (lambda files: tarred({**files, "../../x": b"x"}), "'..'"),
    "tar: out by a pax path": (
        lambda files: pax_entry(path="../x") + tar_entry(b"0", "x") + tarred(files), "'..'",
    ),
    "tar: a pax size": (
        lambda files: pax_entry(size="9") + tar_entry(b"0", "x") + tarred(files), "'size'",
    ),
    "tar: sparse by pax": (
        lambda files: pax_entry(GNU__sparse__major="1") + tar_entry(b"0", "x") + tarred(files),
        "sparse",
    ),
    "tar: a damaged pax header": (
        lambda files: tar_entry(b"x", "pax", content=b"999 path=x\n") + tarred(files), "damaged",
    ),
    "tar: a huge name": (
        lambda files: tar_entry(b"L", "name", content=b"x" * 70_000) + tarred(files), "70000 bytes",
    ),
    "tar: endless names": (
        lambda files: tar_entry(b"L", "name", content=b"x") * 100 + tarred(files), "in front",
    ),
    "tar: a name and no entry": (
        lambda files: tar_entry(b"L", "name", content=b"x\0") + b"\0" * 1024, "behind the name",
    ),
    "tar: a name twice": (lambda files: without_end(files) + tarred(files), "twice"),
    "tar: a control character": (lambda files: tarred({**files, "a\x1b[2J": b""}), "printable"),
    "tar: a name that is not UTF-8": (
        lambda files: tar_entry(b"0", "a").replace(b"a", b"\xff", 1) + tarred(files), "damaged",
    ),
    "tar: a damaged header": (
        lambda files: tarred(files).replace(b"ustar", b"ustbr").replace(b"ustbr", b"ustar", 1),
        "damaged",
    ),
    "tar: cut off": (lambda files: tarred(files)[:600], "ends inside"),
    "tar: no end": (without_end, "too early"),
    "tar: something behind the end": (lambda files: tarred(files) + b"more", "behind the end"),
    "tar: too many entries": (
        lambda files: tarred({f"{n}": b"" for n in range(1001)}), "more than 1000",
    ),
    "tar.gz: cut off": (lambda files: tar_gz(files)[:-20], "cut off"),
    "tar.gz: damaged": (lambda files: tar_gz(files)[:10] + b"\xff" * 99, "damaged"),
    "tar.gz: something behind the end": (lambda files: tar_gz(files) + b"more", "behind the end"),
    "tar.gz: twice": (lambda files: gzip.compress(tar_gz(files)), "something else than a tar"),
    "gzip of a text": (lambda files: gzip.compress(b"a text"), "something else than a tar"),
    "gzip of an adapter file": (
        lambda files: gzip.compress(files[WEIGHTS]), "something else than a tar",
    ),
    "gzip of a pickle": (
        lambda files: gzip.compress(torch_file({})), "convert official",
    ),
    "zip: symbolic link": (lambda files: zip_with(files, with_mode(SYMLINK)), "--symlinks"),
    "zip: device": (lambda files: zip_with(files, with_mode(DEVICE)), "a link or a device"),
    "zip: folder by its mode": (
        lambda files: zip_with(files, with_mode(stat.S_IFDIR)), "folder by its mode",
    ),
    "zip: absolute path": (lambda files: zipped({**files, "/etc/cron.d/x": b"x"}), "absolute"),
    "zip: out of the archive": (lambda files: zipped({**files, "a/../../x": b"x"}), "'..'"),
    "tar: backslashes": (lambda files: tarred({**files, "a\\b": b"x"}), "joined by"),
    "zip: out by backslashes": (lambda files: zipped({**files, "a\\..\\..\\x": b"x"}), "'..'"),
    "zip: absolute by a backslash": (lambda files: zipped({**files, "\\x": b"x"}), "absolute"),
    "zip: a name twice by a backslash": (
        lambda files: zipped({**files, "a/b": b"x", "a\\b": b"y"}), "twice",
    ),
    "zip: a name twice": (
        lambda files: zipped({**files, "adapter_config_json": b"{}"}).replace(
            b"adapter_config_json", CONFIG.encode()
        ),
        "twice",
    ),
    "zip: no name at all": (lambda files: zipped({**files, "a//b": b"x"}), "the part ''"),
    "zip: a long name": (lambda files: zipped({**files, "x" * 2000: b"x"}), "at most 1024"),
    "zip: a long part": (lambda files: zipped({**files, "x" * 250: b"x"}), "at most 200"),
    "zip: a hidden name": (
        lambda files: zipped({**files, "adapter_X": b""}).replace(b"adapter_X", b"adapter\0X"),
        "printable",
    ),
    "zip: encrypted": (lambda files: zip_with(files, flagged), "password"),
    "zip: another method": (lambda files: zipped(files, zipfile.ZIP_BZIP2), "method 12"),
    "zip: a size too small": (lambda files: lying_size(files, 10), "damaged"),
    "zip: a size too large": (lambda files: lying_size(files, 10**6), "the directory says 1000000"),
    "zip: a wrong checksum": (
        lambda files: zipped(files, zipfile.ZIP_STORED).replace(b'"r": 2', b'"r": 3'), "damaged",
    ),
    "zip: names that differ": (
        lambda files: zipped(files).replace(CONFIG.encode(), b"x" * len(CONFIG), 1), "damaged",
    ),
    "zip: zip64": (zip64, "zip64"),
    "zip: another place of the directory": (
        lambda files: with_end(zipped(files), begin=3), "not where",
    ),
    "zip: a directory larger than the file": (
        lambda files: with_end(zipped(files), size=2**31), "its directory has",
    ),
    "zip: more entries than there are": (
        lambda files: with_end(zipped(files), entries=60_000, here=60_000), "60000 entries",
    ),
    "zip: several parts": (lambda files: with_end(zipped(files), disk=1), "several parts"),
    "zip: cut off": (lambda files: zipped(files)[:-30], "cut off"),
    "zip: something behind the end": (lambda files: zipped(files) + b"more", "behind the end"),
    "zip: too many entries": (
        lambda files: zipped({f"{n}": b"" for n in range(1001)}), "1001 entries",
    ),
    "zip: empty": (lambda files: zipped({}), "no adapter_config.json"),
    "a file by the name of the first lines": (lambda files: b"PK\x03\x04" + files[WEIGHTS], ""),
    "two PEFT folders": (
        lambda files: tarred({**in_folder(files, "a"), **in_folder(files, "b")}), "both have",
    ),
    "too deep": (lambda files: zipped(in_folder(in_folder(files, "b"), "a")), "one in 'a/b': pack"),
    "no configuration": (lambda files: zipped({WEIGHTS: files[WEIGHTS]}), "no adapter_config"),
    "no weights": (lambda files: zipped({CONFIG: files[CONFIG]}), "no adapter_model.safetensors"),
    "pickled weights": (
        lambda files: zipped({CONFIG: files[CONFIG], "adapter_model.bin": torch_file({})}),
        "safe_serialization=True",
    ),
    "a large configuration": (
        lambda files: zipped({**files, CONFIG: b" " * (1 << 21)}), "adapter_config.json has more",
    ),
    "a bomb in a zip": (
        lambda files: zipped({**files, WEIGHTS: ZEROS * 11}), "more than 1000000 bytes",
    ),
    "a bomb in a gzip": (
        lambda files: tar_gz({**files, "README.md": ZEROS * 11}), "more than 1000000 bytes",
    ),
    "a model": (
        lambda files: zipped({"config.json": b"{}", "model.safetensors": b"x"}), "--backbone",
    ),
    "a packed checkpoint": (
        lambda files: zipped({"jumplora_weights.pt": b"x"}), "convert official",
    ),
    "a packed adapter file": (
        lambda files: zipped({"a.safetensors": files[WEIGHTS]}), "sent as it is",
    ),
}  # fmt: skip
