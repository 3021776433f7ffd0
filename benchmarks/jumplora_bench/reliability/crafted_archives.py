"""Uploads that are archives: PEFT folders, sound and spoilt, and what looks like one.

The folder is a SHiRA of the sound file's modules: three entries of each, at its corner.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping

import torch
from safetensors.torch import save
from torch import Tensor

from jumplora_bench.reliability.crafted_bytes import Change
from jumplora_bench.reliability.parts import Parts

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_BYTES = 8 << 20
"""What the server that gets them allows; bombs grow to a little more."""
_FRONT = "base_model.model."
Files = Mapping[str, bytes]


def peft_folder(content: bytes, rng: random.Random) -> bytes:
    """A sound one, in any archive, at its root or in a folder, with other files or without."""
    files = {**_files(content, rng), **rng.choice([{}, {"README.md": b"# x" * 999}])}
    top = rng.choice(["", "./", "my-lora/", "\u00e4" * 40 + "/"])
    return _packed({f"{top}{name}": each for name, each in files.items()}, rng)


def damaged_archive(content: bytes, rng: random.Random) -> bytes:
    """Some bytes are others, or are not there."""
    spoilt = bytearray(_packed(_files(content, rng), rng))
    for _ in range(rng.randrange(1, 9)):
        at = rng.randrange(len(spoilt))
        spoilt[at : at + rng.choice([1, 1, 100])] = rng.randbytes(rng.choice([0, 1, 1, 100]))
    return bytes(spoilt)


def odd_names(content: bytes, rng: random.Random) -> bytes:
    """An entry lies elsewhere, has two owners, or a name that acts on a terminal."""
    name = rng.choice(["/etc/x", "../x", "a/../../x", "a\\b", "\x1b[2J", "x" * 3000, f"b/{CONFIG}"])
    files = {f"a/{key}": each for key, each in _files(content, rng).items()}
    return _packed({**files, name: b"x"}, rng)


def odd_entries(content: bytes, rng: random.Random) -> bytes:
    """A link, a device or a pipe, in place of a file or beside it."""
    files = dict(_files(content, rng))
    name = rng.choice([CONFIG, WEIGHTS, "x"])
    files.pop(name, None)
    packed = io.BytesIO()
    if rng.random() < 0.5:
        with zipfile.ZipFile(packed, "w") as archive:
            info = zipfile.ZipInfo(name)
            info.external_attr = rng.choice([stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO]) << 16
            archive.writestr(info, "/etc/passwd")
            for each, data in files.items():
                archive.writestr(zipfile.ZipInfo(each), data)
        return packed.getvalue()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.type = rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"3", b"S"])
        member.linkname = "/etc/passwd"
        tar.addfile(member)
        for each, data in files.items():
            _add(tar, each, data)
    return packed.getvalue()


def archive_bomb(content: bytes, rng: random.Random) -> bytes:
    """Small, and larger than what is allowed once it is unpacked; or very many entries."""
    files = dict(_files(content, rng))
    if rng.random() < 0.3:
        return _packed({**files, **{f"x/{number}": b"" for number in range(5000)}}, rng)
    name = rng.choice([CONFIG, WEIGHTS])
    files[name] = bytes(MAX_BYTES + rng.randrange(1, 1 << 20))
    return rng.choice([_zipped, _tar_gz])(files)


def odd_peft_config(content: bytes, rng: random.Random) -> bytes:
    """One field of adapter_config.json is of another type, or what no conversion takes."""
    files = dict(_files(content, rng))
    config = json.loads(files[CONFIG])
    odd = [-1, 1.5, 10**30, "x", [1], {"a": 1}, "\x1b[31m", "x" * 70_000, "(a+)+$"]
    name = rng.choice([*config, "use_dora", "bias", "modules_to_save", "layers_to_transform", "?"])
    files[CONFIG] = json.dumps({**config, name: rng.choice(odd)}).encode()
    files[CONFIG] = rng.choice([files[CONFIG], files[CONFIG], b"[" * 99_999, b"{}", b"\xff"])
    return _packed(files, rng)


def odd_peft_tensors(content: bytes, rng: random.Random) -> bytes:
    """Indices out of the matrix, or twice; values that are not finite; tensors too many."""
    change = rng.choice(
        [_far_away, _twice, _not_finite, _of_another_type, _unknown_names, _uneven]
    )  # fmt: skip
    return _packed(_files(content, rng, change), rng)


def another_archive(content: bytes, rng: random.Random) -> bytes:
    """No PEFT folder in it."""
    files = _files(content, rng)
    return rng.choice(
        [
            _packed({}, rng),
            _packed({"config.json": b"{}", "model.safetensors": content}, rng),
            _packed({"archive/data.pkl": b"\x80\x02.", "archive/version": b"3"}, rng),
            _packed({"a.safetensors": content}, rng),
            _packed({CONFIG: files[CONFIG]}, rng),
            _packed({CONFIG: files[CONFIG], "adapter_model.bin": b"\x80\x02."}, rng),
            gzip.compress(_tar_gz(files), mtime=0),
            gzip.compress(rng.randbytes(5000), mtime=0),
        ]
    )


def _files(
    content: bytes,
    rng: random.Random,
    change: Callable[[dict[str, Tensor], str], object] | None = None,
) -> Files:
    targets = sorted({name.rpartition(".")[0] for name in Parts.of(content).tensor_names})
    tensors: dict[str, Tensor] = {}
    for target in targets:
        tensors[f"{_FRONT}{target}.shira_indices"] = torch.tensor(
            [[0, 0, 1], [0, 1, 0]], dtype=torch.int32
        )
        values = [rng.uniform(-5, 5) for _ in range(3)]
        tensors[f"{_FRONT}{target}.shira_weight"] = torch.tensor(values)
    if change is not None:
        change(tensors, f"{_FRONT}{rng.choice(targets)}.shira_")
    config = {"peft_type": "SHIRA", "r": 1, "target_modules": targets}
    return {CONFIG: json.dumps(config).encode(), WEIGHTS: save(tensors)}


def _far_away(tensors: dict[str, Tensor], front: str) -> None:
    tensors[f"{front}indices"] = torch.tensor([[0, 1, 2**30], [0, 1, -1]], dtype=torch.int32)


def _twice(tensors: dict[str, Tensor], front: str) -> None:
    tensors[f"{front}indices"] = torch.zeros(2, 3, dtype=torch.int32)


def _not_finite(tensors: dict[str, Tensor], front: str) -> None:
    tensors[f"{front}weight"] = torch.tensor([1.0, float("nan"), float("inf")])


def _of_another_type(tensors: dict[str, Tensor], front: str) -> None:
    tensors[f"{front}weight"] = torch.ones(3, dtype=torch.int8)


def _unknown_names(tensors: dict[str, Tensor], front: str) -> None:
    tensors |= {f"{front}more.{number}": torch.zeros(1) for number in range(5000)}


def _uneven(tensors: dict[str, Tensor], front: str) -> None:
    tensors[f"{front}weight"] = torch.ones(7)


def _packed(files: Files, rng: random.Random) -> bytes:
    return rng.choice([_zipped, _tarred, _tar_gz])(files)


def _zipped(files: Files) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)  # its date is always the same
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return packed.getvalue()


def _tarred(files: Files) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            _add(archive, name, data)
    return packed.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _tar_gz(files: Files) -> bytes:
    return gzip.compress(_tarred(files), mtime=0)


ARCHIVES: dict[str, Change] = {
    change.__name__.replace("_", " "): change
    for change in (
        peft_folder, damaged_archive, odd_names, odd_entries, archive_bomb, odd_peft_config,
        odd_peft_tensors, another_archive,
    )
}  # fmt: skip
