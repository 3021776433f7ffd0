"""The adapter file: what is written is read, and what is bad is not written."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crafted import Parts, frame, sound_adapter
from factories import Kind, random_adapter, toy_backbone, write_random_adapter
from jumplora_adapters.delta import Delta, LowRankDelta, SparseDelta
from jumplora_adapters.errors import FormatError
from jumplora_adapters.format import (
    describe,
    read_adapter,
    read_supports,
    write_adapter,
)
from jumplora_adapters.header import read_manifest
from jumplora_adapters.overlap import supports_of

BACKBONE = toy_backbone()
Q, _ = BACKBONE.targets
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a sound masked adapter in bfloat16, with factors for q."""
    return sound_adapter(tmp_path_factory.mktemp("good"), BACKBONE)


@pytest.mark.parametrize("kind", ["masked", "lowrank"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_written_is_read(tmp_path: Path, kind: Kind, dtype: torch.dtype) -> None:
    manifest, deltas = random_adapter(BACKBONE, kind=kind, dtype=dtype, density=0.3)
    path = tmp_path / "a.safetensors"
    digest = write_adapter(path, manifest, deltas)
    adapter = read_adapter(path, BACKBONE, expect_digest=digest)
    assert adapter.manifest == manifest == read_manifest(path)
    assert adapter.digest == digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(adapter.deltas) == list(BACKBONE.targets)
    for name, delta in adapter.deltas.items():
        assert delta.digest() == deltas[name].digest()
        assert delta.shape == BACKBONE.targets[name]


def test_safetensors_reads_the_same_tensors(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(good)
    tensors = load_file(path)
    adapter = read_adapter(path, BACKBONE)
    delta = adapter.deltas[Q]
    assert isinstance(delta, SparseDelta)
    assert torch.equal(tensors[f"{Q}.mask"], delta.mask)
    assert torch.equal(tensors[f"{Q}.values"], delta.values)
    assert torch.equal(tensors[f"{Q}.factor_A"], adapter.factors[Q][0])
    assert list(adapter.factors) == [Q]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    manifest, deltas = random_adapter(BACKBONE)
    backwards = dict(reversed(deltas.items()))
    one = write_adapter(tmp_path / "one", manifest, deltas)
    two = write_adapter(tmp_path / "two", manifest, backwards)
    assert one == two
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_facts_about_the_deltas_are_filled_in(tmp_path: Path) -> None:
    manifest, deltas = random_adapter(BACKBONE)
    bare = manifest.model_copy(update={"density": {}, "mask_digest": None})
    write_adapter(tmp_path / "a", bare, deltas)
    assert read_adapter(tmp_path / "a", BACKBONE).manifest == manifest


def test_a_module_may_be_empty(tmp_path: Path) -> None:
    _, deltas = random_adapter(BACKBONE)
    deltas[Q] = SparseDelta.from_dense(torch.zeros(3, 5))
    manifest = describe(random_adapter(BACKBONE)[0], deltas)
    write_adapter(tmp_path / "a", manifest, deltas)
    assert read_adapter(tmp_path / "a", BACKBONE).deltas[Q].nnz == 0


def test_large_modules_are_quick(tmp_path: Path) -> None:
    """A sixteenth of T5-large's 144 modules; a loop per element would take minutes."""
    backbone = toy_backbone({f"encoder.block.{i}.q": (1024, 1024) for i in range(9)})
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(1024, 1024, generator=generator)
    dense[torch.rand(1024, 1024, generator=generator) > 0.05] = 0
    deltas: dict[str, Delta] = {
        name: SparseDelta.from_dense(dense, torch.bfloat16) for name in backbone.targets
    }
    template = random_adapter(toy_backbone({"encoder.block.0.q": (1, 1)}))[0]
    manifest = template.model_copy(update={"targets": tuple(backbone.targets)})
    started = time.thread_time()
    write_adapter(tmp_path / "a", manifest, deltas)
    read_adapter(tmp_path / "a", backbone)
    assert time.thread_time() - started < 5


def test_unaligned_files_are_read(good: bytes, tmp_path: Path) -> None:
    """Other writers need not pad the header to 8 bytes as safetensors does."""
    parts = Parts.of(good)
    text = json.dumps(parts.header)
    (tmp_path / "odd").write_bytes(frame(text + " " * ((1 - len(text)) % 8), parts.data))
    (tmp_path / "even").write_bytes(good)
    odd, even = (read_adapter(tmp_path / name, BACKBONE) for name in ("odd", "even"))
    assert odd.digest != even.digest
    for name in BACKBONE.targets:
        assert odd.deltas[name].digest() == even.deltas[name].digest()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({Q: None}, "names", id="a target without a delta"),
        pytest.param({"other.q": LowRankDelta(torch.ones(1, 5), torch.ones(3, 1))}, "names",
                     id="a delta without a target"),
        pytest.param({Q: LowRankDelta(torch.ones(1, 5), torch.ones(3, 1))}, "names",
                     id="a delta of the other kind"),
        pytest.param({Q: SparseDelta((3, 5), torch.zeros(2, dtype=torch.uint8), torch.ones(1))},
                     "popcount", id="a delta that does not fit itself"),
    ],
)  # fmt: skip
def test_bad_adapters_are_not_written(
    tmp_path: Path, change: dict[str, Delta | None], code: str
) -> None:
    manifest, deltas = random_adapter(BACKBONE)
    changed = {name: delta for name, delta in {**deltas, **change}.items() if delta is not None}
    with pytest.raises(FormatError) as caught:
        write_adapter(tmp_path / "a", manifest, changed)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rank", "factor_a", "code"),
    [
        (None, torch.ones(2, 5), "manifest"),
        (1, torch.ones(2, 5), "shape"),
        (2, torch.full((2, 5), float("nan")), "nonfinite"),
    ],
    ids=["no rank", "over the rank", "NaN"],
)
def test_bad_factors_are_not_written(
    tmp_path: Path, rank: int | None, factor_a: torch.Tensor, code: str
) -> None:
    manifest, deltas = random_adapter(BACKBONE)
    manifest = manifest.model_copy(update={"rank": rank})
    with pytest.raises(FormatError) as caught:
        write_adapter(tmp_path / "a", manifest, deltas, {Q: (factor_a, torch.ones(3, 2))})
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["masked", "lowrank"])
def test_supports_are_those_of_the_masks(tmp_path: Path, kind: Kind) -> None:
    backbone = toy_backbone()
    path = write_random_adapter(tmp_path, backbone, kind=kind, density=0.4)
    read = read_supports(path, backbone)
    expected = supports_of(read_adapter(path, backbone).deltas) if kind == "masked" else {}
    assert read.keys() == expected.keys()
    for name, support in expected.items():
        assert read[name].shape == support.shape
        assert read[name].bits.tolist() == support.bits.tolist()


def test_supports_of_another_layout_are_refused(tmp_path: Path) -> None:
    path = write_random_adapter(tmp_path, toy_backbone())
    other = toy_backbone(dict.fromkeys(toy_backbone().targets, (4, 5)))
    with pytest.raises(FormatError) as caught:
        read_supports(path, other)
    assert caught.value.code == "shape"


def test_an_old_file_is_replaced_whole(tmp_path: Path) -> None:
    path = write_random_adapter(tmp_path, BACKBONE)
    before = path.read_bytes()
    manifest, deltas = random_adapter(BACKBONE, seed=1)
    write_adapter(path, manifest, deltas)
    assert path.read_bytes() != before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
