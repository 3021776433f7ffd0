"""What kind of file was given, by its first bytes or by the names in it.

An adapter file is what FORMAT.md specifies. For others there is a command, and messages name it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from jumplora_adapters.errors import WrongFile
from jumplora_adapters.network import OF_A_MODEL

FileKind = Literal["adapter", "zip", "tar", "gzip"]
ArchiveKind = Literal["zip", "tar", "gzip"]
HEAD_BYTES = 512  # as many as `kind_of` looks at: a block of a tar
_FIRST_NAME_BYTES = 256  # of a zip, with the header in front
_MAX_HEADER = b"\0" * 5  # of the 8 bytes of a header's length, the last 5 are 0 below 16 MiB

PICKLE_ADVICE = (
    ": a pickle can run code and is not opened here. Load a PEFT adapter where you trust it and "
    "save it again, with save_pretrained(folder, safe_serialization=True); "
    "`jumplora convert official` makes an adapter of a JumpLoRA checkpoint (jumplora_weights.pt), "
    "`jumplora import-backbone` a safetensors folder of a model"
)
_FOLDER_ADVICE = (
    ": send the folder with adapter_config.json and adapter_model.safetensors as a zip or tar, or "
    "give it to `jumplora publish FOLDER --task TASK`"
)
_MODEL_ADVICE = (
    ": adapters are published, a model is what `jumplora serve --backbone FOLDER` takes "
    "(`jumplora import-backbone`, where its weights are .bin files)"
)
_DENSE_ADVICE = ": `jumplora convert dense` makes an adapter of differences of weights (W - W0)"
_PACK_ADVICE = ": a PEFT folder may be sent as a zip, a tar or a tar.gz"

_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xfd7zXZ\0", "an xz file", _PACK_ADVICE),
    (b"BZh", "a bzip2 file", _PACK_ADVICE),
    (b"\x28\xb5\x2f\xfd", "a zstd file", _PACK_ADVICE),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _PACK_ADVICE),
    (b"Rar!\x1a\x07", "a rar archive", _PACK_ADVICE),
    (b"GGUF", "a GGUF model", _MODEL_ADVICE),
    *((b"\x80" + bytes([n]), "a pickle", PICKLE_ADVICE) for n in range(2, 6)),
)
# Parts of tensors' names, in PEFT's files and in those of its forks.
PEFT_MARKS = (".lora_", ".shira_", ".supertuning_", ".rosa_", ".sft_delta")


def kind_of(head: bytes) -> FileKind:
    """The kind of a file that begins with these HEAD_BYTES (or fewer, if it is shorter).

    What is not known is an adapter file with a fault, which its reader names. Raises WrongFile for
    what another command takes, or none.
    """
    if head[3:8] == _MAX_HEADER and head[8:9] == b"{":
        return "adapter"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        if b"data.pkl" in head[:_FIRST_NAME_BYTES]:  # torch.save writes it first
            raise WrongFile(f"it is a torch file{PICKLE_ADVICE}")
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head[257:262] == b"ustar":
        return "tar"
    for magic, name, advice in _OTHERS:
        if head.startswith(magic):
            raise WrongFile(f"it is {name}{advice}")
    if head.lstrip().startswith(b"{"):
        raise WrongFile(f"it is JSON, not an adapter{_FOLDER_ADVICE}")
    return "adapter"


def advice_on_tensors(names: Iterable[str]) -> str:
    """What a safetensors file without our manifest seems to be, and what takes it; may be empty."""
    known = list(names)
    if any(part in name for name in known for part in PEFT_MARKS):
        return f"; it holds tensors of a PEFT adapter{_FOLDER_ADVICE}"
    if any(name.endswith(OF_A_MODEL) for name in known):
        return f"; it holds the weights of a model{_MODEL_ADVICE}"
    if known and all(name.endswith(".weight") for name in known):
        return f"; it holds plain matrices{_DENSE_ADVICE}"
    return ""


def advice_on_files(names: Iterable[str]) -> str:
    """What an archive without adapter_config.json seems to be, and what takes it."""
    last = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in last:
        return f"; it is a torch file{PICKLE_ADVICE}"
    if "config.json" in last:
        return f"; it holds a model{_MODEL_ADVICE}"
    if any(name.endswith((".pt", ".pth", ".bin", ".pkl", ".ckpt")) for name in last):
        return f"; it holds a checkpoint{PICKLE_ADVICE}"
    if any(name.endswith(".safetensors") for name in last):
        return "; it holds safetensors files: an adapter file is sent as it is, not packed"
    return _FOLDER_ADVICE
