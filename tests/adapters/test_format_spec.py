"""FORMAT.md's example, limits and codes against the code. Run as a script it prints the example."""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import torch

from factories import toy_backbone
from jumplora_adapters import bounds, layout, sampling_bounds
from jumplora_adapters.architecture import architecture_of
from jumplora_adapters.delta import CombinedDelta, Delta, LowRankDelta, SparseDelta
from jumplora_adapters.errors import FormatCode
from jumplora_adapters.fingerprint import ARCHITECTURE_FIELDS, FINGERPRINT_VERSION
from jumplora_adapters.format import read_adapter, write_adapter
from jumplora_adapters.header import DTYPES, MAX_FILE_BYTES, MAX_HEADER_BYTES, MAX_TENSORS
from jumplora_adapters.json_text import MAX_DEPTH
from jumplora_adapters.manifest import (
    FORMAT_VERSION,
    MAX_CANARIES,
    MAX_DEV_LENGTH,
    MAX_DEV_TEXTS,
    MAX_LINEAGE,
    MAX_MANIFEST_BYTES,
    MAX_OPTIONS,
    MAX_PROFILE_TOKENS,
    MAX_PROFILE_WIDTH,
    MAX_READ_FRAME_BYTES,
    MAX_TARGETS,
    TASK_ID,
    Calibration,
    ChoicesSpec,
    GenerationDefaults,
    Kind,
    Manifest,
    ProfileSpec,
    PromptSpec,
)
from jumplora_adapters.network import sites
from jumplora_adapters.profile import Profile
from jumplora_adapters.tokenizer_files import CONTROL_TOKENS

SPECIFICATION = Path(__file__).parents[2] / "adapters" / "FORMAT.md"
TARGET = "encoder.block.0.layer.0.SelfAttention.q"
BACKBONE = toy_backbone({TARGET: (2, 6)}, fingerprint="0123456789abcdef" * 4)
SPARSE = torch.tensor([[0, 0.5, 0, 0, 0, -2], [1.5, 0, 0, 0, 0, 0]])
A = torch.tensor([[0.0, 0, 0, 1, -1, 0]], dtype=torch.float16)
B = torch.tensor([[0.5], [0.0]], dtype=torch.float16)
MATRIX = torch.tensor([[0, 0.5, 0, 0.5, -0.5, -2], [1.5, 0, 0, 0, 0, 0]])


def write_example(path: Path) -> str:
    """Write the adapter of the example and return its digest."""
    manifest = Manifest(
        kind="combined",
        task="example",
        backbone=BACKBONE.ref().model_copy(update={"name": "tiny", "architecture": {}}),
        targets=(TARGET,),
        rank=1,
        alpha=4.0,
        thresholds={"global": 0.1},
        method="by hand",
        prompt=PromptSpec(template="Text: {text}\nAnswer:"),
        created="2026-01-01T00:00:00Z",
    )
    deltas: dict[str, Delta] = {
        TARGET: CombinedDelta(SparseDelta.from_dense(SPARSE, torch.bfloat16), LowRankDelta(A, B))
    }
    return write_adapter(path, manifest, deltas)


def dump(content: bytes) -> str:
    """Bytes as text: offset, 16 bytes in hexadecimal, and the same as characters."""
    lines = []
    for start in range(0, len(content), 16):
        line = content[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        lines.append(f"{start:04x}  {line.hex(' '):47}  {text}".rstrip())
    return "\n".join(lines)


@pytest.fixture(scope="module")
def specification() -> str:
    """The text of FORMAT.md."""
    return SPECIFICATION.read_text(encoding="utf-8")


def test_the_example_is_what_is_written(specification: str, tmp_path: Path) -> None:
    digest = write_example(tmp_path / "example")
    assert f"```\n{dump((tmp_path / 'example').read_bytes())}\n```" in specification
    assert f"Its version is `{digest}`" in specification


def test_the_example_can_be_read(specification: str, tmp_path: Path) -> None:
    block = specification.split("```\n")[1]
    content = b"".join(bytes.fromhex(line[6:53]) for line in block.splitlines())
    (tmp_path / "example").write_bytes(content)
    adapter = read_adapter(tmp_path / "example", BACKBONE)
    assert f"Its version is `{adapter.digest}`" in specification
    assert torch.equal(adapter.deltas[TARGET].to_dense(), MATRIX)
    delta = adapter.deltas[TARGET]
    assert isinstance(delta, CombinedDelta)
    assert f"`{delta.sparse.mask_digest()}`" in specification
    length = int.from_bytes(content[:8], "little")
    assert f"N is {length:#x} = {length}:" in specification
    assert f"`{str(adapter.manifest.mask_digest)[:8]}`" in specification


@pytest.mark.parametrize(
    "limit",
    [
        f"512 MiB ({MAX_FILE_BYTES:,})",
        f"1 MiB ({MAX_HEADER_BYTES:,})",
        f"256 KiB ({MAX_MANIFEST_BYTES:,}",
        f"at most {MAX_TENSORS:,}",
        f"1 to {MAX_TARGETS:,} names",
        f"up to {MAX_LINEAGE} digests",
        f"up to {MAX_OPTIONS:,})",
        f"up to {MAX_CANARIES} objects",
        f"| `width` | 1 to {MAX_PROFILE_WIDTH:,} |",
        f"| `tokens` | 1 to {MAX_PROFILE_TOKENS:,} |",
        f"| `dev_texts` | 0 to {MAX_DEV_TEXTS} |",
        f"| `dev_length` | 0 to {MAX_DEV_LENGTH} |",
        f"the whole number 1 or {FORMAT_VERSION},",
        f"* `fingerprint_version`: {FINGERPRINT_VERSION}.",
        f"at most {MAX_DEPTH} levels",
        f"| {bounds.MAX_FRAME_BYTES:,} bytes | {MAX_READ_FRAME_BYTES:,} bytes |",
        f"| {bounds.MAX_TEXTS} times | any number |",
        f"| {bounds.FREE_RANK}, or the larger side of the targets' largest matrix | 65,536 |",
        f"| `scores` | {bounds.MAX_SCORES} |",
        f"| {bounds.MAX_NAME_CHARS} characters | 1,024 |",
        f"| `stop` | {sampling_bounds.STOPS} |",
        *(f"| `{name}` | {allowed} |" for name, allowed in sampling_bounds.RANGES.items()),
        f"`{TASK_ID}`",
        ", ".join(f"`{name}`" for name in DTYPES),
    ],
)
def test_the_limits_are_those_of_the_code(specification: str, limit: str) -> None:
    assert limit in specification


def test_every_field_and_code_is_described(specification: str) -> None:
    section = specification.split("\n## 4")[1].split("\n**Prompt.**")[0]
    table, rest = section.split("| field of `profile` |")
    profile, choices = rest.split("| field of `choices` |")
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(Manifest.model_fields)
    assert re.findall(r"^\| `(\w+)` \|", profile, re.MULTILINE) == list(ProfileSpec.model_fields)
    assert re.findall(r"^\| `(\w+)` \|", choices, re.MULTILINE) == list(ChoicesSpec.model_fields)
    for name in [
        *GenerationDefaults.__annotations__,
        *PromptSpec.model_fields,
        *Calibration.model_fields,
    ]:
        assert f"`{name}`" in specification
    for code in get_args(FormatCode):
        assert code == "format" or f"`{code}`" in specification


def test_every_part_and_kind_is_described(specification: str) -> None:
    section = specification.split("\n## 3")[1].split("\n## 4")[0]
    profile = section.split("**Profile.**")[1]
    parts = re.findall(r"^\| `(\w+)` \|", profile, re.MULTILINE)
    assert parts == [field.name for field in fields(Profile)]
    for kind, groups in layout.PARTS.items():
        for part in (part for group in groups for part in group):
            (row,) = [line for line in section.splitlines() if f"`{part}`" in line and "|" in line]
            assert f"`{kind}`" in row.rpartition("|")[0].rpartition("|")[2]
    assert set(layout.PARTS) == set(get_args(Kind))


@pytest.mark.parametrize("forward", ["relu", "gated-gelu"])
def test_every_site_is_described(specification: str, forward: str) -> None:
    """Each line of the list is a module, then the other ends of names in the same place."""
    config = {"model_type": "t5", "num_layers": 1, "feed_forward_proj": forward}
    listed = set()
    block = specification.split("For `i` from 0 these are\n\n")[1].split("\n\n")[0]
    for line in block.splitlines():
        text = line.replace("<i>", "0")
        if "(gated:" in text:
            plain, gated = text.rstrip(")").split("(gated:")
            base = plain.split()[0].rpartition(".")[0]
            text = plain if forward == "relu" else " ".join(f"{base}{end}" for end in gated.split())
        first, *ends = text.split()
        base = first.rpartition(".")[0]
        listed |= {first, *(f"{base}{end}" if end.startswith(".") else end for end in ends)}
    assert listed == set(sites(architecture_of(config)))


def test_every_part_of_the_fingerprint_is_described(specification: str) -> None:
    section = specification.split("\n## 6")[1].split("\n## 7")[0]
    for name in (*ARCHITECTURE_FIELDS, *CONTROL_TOKENS):
        assert f"`{name}`" in section


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        example = Path(folder) / "example"
        version = write_example(example)
        sys.stdout.write(f"{dump(example.read_bytes())}\n{version}\n")
